"""The base model: random weights of a known architecture from a seed, or weights that were known beforehand."""

import math
from typing import Any, cast

from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from sublora import seeds
from sublora.coding.architecture import Architecture, tag
from sublora.errors import ConfigError
from sublora.nn.practised import named_by
from sublora.nn.pretrained import describe_pretrained, load_pretrained, require_memory
from sublora.nn.sources import BaseFacts
from sublora.nn.weights import fill, hash_weights

# transformers' GPT-2 computes this same function from six elementwise operations; this one is a single kernel.
GPT2_ACTIVATION = "gelu_pytorch_tanh"
# The last matrix of an attention or feed-forward block, by the names that architectures give it.
RESIDUAL_PROJECTIONS = ("c_proj.weight", "o_proj.weight", "down_proj.weight")


def create_base(architecture: Architecture, seed: int, source: str = "", dropout: float = 0.0) -> PreTrainedModel:
    """Return the base model in float32; the hash that names it is its attribute `base_sha256`.

    A pretrained one has a second attribute: `practised_frames`, None where it brings none.

    Random weights are GPT-2's (Radford et al. 2019) in every family: N(0, 0.02^2), residual projections scaled by
    1 / sqrt(2 n_layer), zero biases, unit norms. GPT-2's output head is its input embedding; Llama (Touvron et al.
    2023) and Mistral (Jiang et al. 2023) have one of their own, and no dropout but on the attention weights.

    Args:
        architecture: what a message says of the base.
        seed: of random weights.
        source: of pretrained weights, see `sublora.nn.sources.find_source`; random ones have none.
        dropout: while training.

    Raises:
        ConfigError: no source, or one that cannot be loaded, does not fit the vocabulary or the block, or has another
            hash than the architecture names.
    """
    a = architecture
    if a.kind == "pretrained":
        return _pretrained(a, source, dropout)
    require_memory("the random base of this message", _parameters(a))
    model = _empty(a, dropout)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
            parameter.requires_grad_(a.bias)
        elif ".ln_" in name or "norm." in name:
            nn.init.ones_(parameter)
        else:
            scale = 0.02 / math.sqrt(2 * a.n_layer) if name.endswith(RESIDUAL_PROJECTIONS) else 0.02
            fill(parameter, seeds.stream(seed, "base", name).standard_normal(parameter.shape, dtype="float32") * scale)
    return named(model, hash_weights(model))


def _parameters(a: Architecture) -> int:
    """About how many parameters a base has: a message from elsewhere may name any sizes."""
    return a.n_embd * (2 * a.vocab_size + a.block_size + 12 * a.n_layer * a.n_embd)


def named(model: PreTrainedModel, sha256: str) -> PreTrainedModel:
    """Return a base that knows the hash of its weights and their number, before anything is added to it."""
    model.base_sha256 = sha256  # type: ignore[assignment]
    model.base_parameters = sum(p.numel() for p in model.parameters())  # type: ignore[assignment]
    return model


def _pretrained(a: Architecture, source: str, dropout: float) -> PreTrainedModel:
    if not source:
        raise ConfigError(
            f"the base is pretrained (tag {a.base_tag:06x}): name its folder, file or hub id (prior.base)"
        )
    model, weights_sha256 = load_pretrained(source, a.vocab_size, a.block_size, dropout)
    sha256, practised = named_by(source, weights_sha256)
    if tag(sha256) != a.base_tag:
        raise ConfigError(f"the base in {source} has hash {sha256[:6]}..., the message names {a.base_tag:06x}...")
    model.practised_frames = practised.frames if practised else None  # type: ignore[assignment]
    return named(model, sha256)


def describe_base(source: str, model: nn.Module) -> BaseFacts:
    """Return what a certificate says of the base that a model was built on, merged or not.

    Args:
        source: as it was given to `create_base` or `build_model`; "" for random weights.
        model: what they returned, or what `merge` made of it.
    """
    sha256, parameters = cast(str, model.base_sha256), cast(int, model.base_parameters)
    if not source:
        return BaseFacts("random weights", sha256, None, parameters)
    return describe_pretrained(source, sha256, parameters)


def _empty(a: Architecture, dropout: float) -> PreTrainedModel:
    """The model of an architecture, with weights that are yet to be filled."""
    if a.family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
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
        )
    shared: dict[str, Any] = {
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.block_size,
        "hidden_size": a.n_embd,
        "intermediate_size": feed_forward_width(a.n_embd),
        "num_hidden_layers": a.n_layer,
        "num_attention_heads": a.n_head,
        "num_key_value_heads": a.n_head,
        "attention_dropout": dropout,
        "bos_token_id": None,
        "eos_token_id": None,
        "use_cache": False,
    }
    if a.family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shared))
    return MistralForCausalLM(MistralConfig(**shared, sliding_window=a.attention_window))


def feed_forward_width(n_embd: int) -> int:
    """Return Llama's feed-forward width: 8/3 of the model's, rounded up to a multiple of 256 (of the width if less)."""
    step = min(256, n_embd)
    return step * math.ceil(8 * n_embd / (3 * step))
