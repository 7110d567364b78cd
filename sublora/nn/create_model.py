"""The model: a causal language model of transformers, LoRA of PEFT, and the subspace around it."""

import logging
import warnings
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sublora.config import Config
from sublora.nn.base import Architecture, create_base, hash_weights
from sublora.nn.lora import add_lora
from sublora.nn.projectors import create_intrinsic_model
from sublora.nn.subspace import SubspaceModule

log = logging.getLogger(__name__)


def build_model(
    architecture: Architecture,
    *,
    seed: int,
    use_lora: bool,
    attention_r: int,
    head_r: int,
    lora_alpha: int,
    dropout: float = 0.0,
    lora_dropout: float = 0.0,
    **subspace: object,
) -> SubspaceModule:
    """Return the model in its subspace; `subspace` are the keywords of `create_intrinsic_model`.

    The hash of the base weights is its attribute `base_sha256`.
    """
    base = create_base(architecture, seed, dropout)
    base_sha256 = hash_weights(base)
    net: nn.Module = base
    if use_lora:
        net = add_lora(
            base, seed=seed, attention_r=attention_r, head_r=head_r, lora_alpha=lora_alpha, lora_dropout=lora_dropout
        )
    model = create_intrinsic_model(net, seed=seed, **subspace)  # type: ignore[arg-type]
    model.base_sha256 = base_sha256  # type: ignore[assignment]
    log.info("model: D = %d trainable parameters, d = %d coordinates", model.D, model.d)
    return model


def architecture_from_config(config: Config, vocab_size: int) -> Architecture:
    """Return the architecture that a configuration describes."""
    m = config.model
    return Architecture(
        source=m.init_from,
        n_layer=m.n_layer,
        n_head=m.n_head,
        n_embd=m.n_embd,
        block_size=config.data.block_size,
        vocab_size=vocab_size,
        bias=m.bias,
        family=m.family,
        attention_window=m.attention_window if m.family == "mistral" else 0,
    )


def get_model(config: Config, vocab_size: int) -> SubspaceModule:
    """Return the model of a configuration, at theta0.

    Args:
        config: sections model, sublora, data and system are read.
        vocab_size: number of tokens that can occur, end-of-text included.
    """
    s = config.sublora
    return build_model(
        architecture_from_config(config, vocab_size),
        seed=config.system.seed,
        use_lora=s.use_lora,
        attention_r=s.attention_r,
        head_r=s.head_r,
        lora_alpha=s.lora_alpha,
        dropout=config.model.dropout,
        lora_dropout=s.lora_dropout,
        intrinsic_dim=s.intrinsic_dim,
        intrinsic_mode=s.intrinsic_mode,
        allocation_mode=s.allocation_mode,
        allocation_ratio=s.allocation_ratio,
        allocation_scope=s.allocation_scope,
        gating_init=s.gamma_init,
        gating_steepness=s.gating_steepness,
    )


def merge(model: SubspaceModule) -> PreTrainedModel:
    """Write the trained parameters into the base model, merge LoRA, and return that plain transformers model.

    The subspace module is used up: its wrapped module is the returned one.
    """
    net: Any = model.materialize()
    if not hasattr(net, "merge_and_unload"):
        return net.eval()
    head = net.get_output_embeddings()
    base = getattr(head, "base_layer", head)
    # A tied head shares its weight with the input embedding, which merging must not move.
    base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net.merge_and_unload().eval()
