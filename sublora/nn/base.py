"""The base model: random weights of a known architecture from a seed, or a pretrained folder or hub id."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from sublora import seeds
from sublora.errors import ConfigError

# transformers' GPT-2 computes this same function from six elementwise operations; this one is a single kernel.
GPT2_ACTIVATION = "gelu_pytorch_tanh"
# The last matrix of an attention or feed-forward block, by the names that architectures give it.
RESIDUAL_PROJECTIONS = ("c_proj.weight", "o_proj.weight", "down_proj.weight")
FAMILIES = ("gpt2", "llama", "mistral")


@dataclass(frozen=True)
class Architecture:
    """The base model: prior knowledge, fixed before the data is seen.

    `source` is "scratch" (random weights from the seed) or a Hugging Face id or folder. `vocab_size` counts the tokens
    that can occur, end-of-text included; `block_size` is the context length in tokens. `family` is "gpt2", "llama" or
    "mistral" and says, as the sizes do, what a model from scratch is; `attention_window` is Mistral's, in tokens, and 0
    for the others.

    Raises:
        ConfigError: a size below 1, a width that is not a multiple of the number of heads, heads of odd width where
            positions are rotations, an unknown family, or a window where there is none.
    """

    source: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    bias: bool = False
    family: str = "gpt2"
    attention_window: int = 0

    def __post_init__(self) -> None:
        sizes = (self.n_layer, self.n_head, self.n_embd, self.block_size, self.vocab_size)
        possible = min(sizes) >= 1 and self.n_embd % self.n_head == 0 and self.family in FAMILIES
        if possible and self.family != "gpt2":
            possible = self.n_embd // self.n_head % 2 == 0
        if not possible or (self.family == "mistral") != (self.attention_window >= 1) or self.attention_window < 0:
            raise ConfigError(f"no model has these sizes: {self}")


def create_base(architecture: Architecture, seed: int, dropout: float = 0.0) -> PreTrainedModel:
    """Return the base model in float32: random weights from the named seed, or a pretrained folder or hub id.

    Random weights are GPT-2's (Radford et al. 2019) in every family: N(0, 0.02^2), residual projections scaled by
    1 / sqrt(2 n_layer), zero biases, unit norms. GPT-2's output head is its input embedding; Llama (Touvron et al.
    2023) and Mistral (Jiang et al. 2023) have one of their own, and no dropout but on the attention weights.

    Raises:
        ConfigError: the pretrained model cannot be loaded, or is too small for the vocabulary or the block.
    """
    a = architecture
    if a.source != "scratch":
        return _load_pretrained(a)
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
    return model


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


def fill(parameter: nn.Parameter, values: object) -> None:
    """Overwrite a parameter with an array of its shape."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values))


def hash_weights(model: nn.Module) -> str:
    """Return SHA-256 over the names, shapes and float32 bytes of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
