"""The model: a causal language model of transformers, LoRA of PEFT, and the subspace around it."""

import hashlib
import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from sublora import seeds
from sublora.config import Config
from sublora.errors import ConfigError
from sublora.nn.projectors import create_intrinsic_model
from sublora.nn.subspace import SubspaceModule

log = logging.getLogger(__name__)

# The attention projections that LoRA adapts, by the names that architectures give them; the first that exist are taken.
ATTENTION_TARGETS = (["c_attn"], ["q_proj", "v_proj"], ["query_key_value"], ["query", "value"])
# transformers' GPT-2 computes this same function from six elementwise operations; this one is a single kernel.
GPT2_ACTIVATION = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class Architecture:
    """The base model: prior knowledge, fixed before the data is seen.

    `source` is "scratch" (random weights from the seed) or a Hugging Face id or folder. `vocab_size` counts the tokens
    that can occur, end-of-text included; `block_size` is the context length in tokens.

    Raises:
        ConfigError: a size below 1, or a width that is not a multiple of the number of heads.
    """

    source: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    bias: bool = False

    def __post_init__(self) -> None:
        sizes = (self.n_layer, self.n_head, self.n_embd, self.block_size, self.vocab_size)
        if min(sizes) < 1 or self.n_embd % self.n_head:
            raise ConfigError(f"no model has these sizes: {self}")


def create_base(architecture: Architecture, seed: int, dropout: float = 0.0) -> PreTrainedModel:
    """Return the base model in float32: random weights from the named seed, or a pretrained folder or hub id.

    Random weights are GPT-2's (Radford et al. 2019): N(0, 0.02^2), residual projections scaled by 1 / sqrt(2 n_layer),
    zero biases, unit layer norms.

    Raises:
        ConfigError: the pretrained model cannot be loaded, or is too small for the vocabulary or the block.
    """
    a = architecture
    if a.source != "scratch":
        return _load_pretrained(a)
    config = GPT2Config(
        vocab_size=a.vocab_size,
        n_positions=a.block_size,
        n_embd=a.n_embd,
        n_layer=a.n_layer,
        n_head=a.n_head,
        activation_function=GPT2_ACTIVATION,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
            parameter.requires_grad_(a.bias)
        elif ".ln_" in name:
            nn.init.ones_(parameter)
        else:
            scale = 0.02 / math.sqrt(2 * a.n_layer) if name.endswith("c_proj.weight") else 0.02
            _fill(parameter, seeds.stream(seed, "base", name).standard_normal(parameter.shape, dtype="float32") * scale)
    return model


def _load_pretrained(a: Architecture) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(a.source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the base model {a.source!r}: {str(error).splitlines()[0]}") from error
    have = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    if have < a.vocab_size:
        raise ConfigError(
            f"{a.source!r} has {have} tokens, but the corpus has {a.vocab_size}: use the model's own tokenizer"
        )
    positions = getattr(model.config, "max_position_embeddings", a.block_size)
    if positions < a.block_size:
        raise ConfigError(
            f"{a.source!r} has {positions} positions: set data.block_size to at most that (it is {a.block_size})"
        )
    return model


def _fill(parameter: nn.Parameter, values: object) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values))


def hash_weights(model: nn.Module) -> str:
    """Return SHA-256 over the names, shapes and float32 bytes of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def add_lora(
    model: PreTrainedModel, *, seed: int, attention_r: int, head_r: int, lora_alpha: int, lora_dropout: float = 0.0
) -> nn.Module:
    """Add PEFT LoRA: A uniform in +-1/sqrt(d_in) from the named seed, B zero (Hu et al. 2021; PEFT's initialisation).

    Args:
        attention_r, head_r: ranks on the attention projections and on the output head; 0 leaves them as they are.
        lora_alpha: the scaling is lora_alpha / r.

    Raises:
        ConfigError: both ranks are 0, or the attention projections are not found.
    """
    names = {name for name, _ in model.named_modules()}
    ranks: dict[str, int] = {}
    if attention_r:
        found = next((t for t in ATTENTION_TARGETS if any(n.endswith(f".{t[0]}") for n in names)), None)
        if found is None:
            raise ConfigError(
                f"no attention projections found in {type(model).__name__}: set sublora.attention_linear_use_lora=false"
            )
        ranks |= dict.fromkeys(found, attention_r)
    if head_r:
        head = model.get_output_embeddings()
        ranks[next(name for name, module in model.named_modules() if module is head)] = head_r
    if not ranks:
        raise ConfigError(
            "LoRA is on nothing: enable sublora.attention_linear_use_lora or sublora.linear_head_enable_lora"
        )
    lora = LoraConfig(
        r=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=dict.fromkeys(ranks, lora_alpha),
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(ranks),
        fan_in_fan_out=isinstance(model, GPT2LMHeadModel),
    )
    with warnings.catch_warnings():
        # The head is a plain linear layer beside GPT-2's transposed ones, and is tied; `merge` unties it first.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name:
            limit = 1 / math.sqrt(parameter.shape[1])
            _fill(parameter, seeds.stream(seed, "lora", name).uniform(-limit, limit, parameter.shape).astype("float32"))
    return adapted


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
    return Architecture(m.init_from, m.n_layer, m.n_head, m.n_embd, config.data.block_size, vocab_size, m.bias)


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
