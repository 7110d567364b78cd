"""Which precision the products of a training step are computed in."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

log = logging.getLogger(__name__)

FLOAT32_ATTENTION = "sdpa_float32"


def bfloat16_hardware(device: torch.device) -> str | None:
    """Return what computes products of bfloat16 numbers on a device, None where nothing does."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return next((name for name in ("amx_bf16", "avx512_bf16") if has.get(name)), None)
    return None


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """Return float32 or bfloat16: what `dtype` says, or for `auto` bfloat16 exactly where the hardware has it."""
    if dtype != "auto":
        return dtype
    hardware = bfloat16_hardware(device)
    chosen = "float32" if hardware is None else "bfloat16"
    log.info("training in %s: %s", chosen, hardware or f"{device.type} has no bfloat16 arithmetic")
    return chosen


def prepare_for_bfloat16(net: Any, device: torch.device) -> None:
    """Make a model of transformers, with or without PEFT's adapter, fast under bfloat16 autocast."""
    store_matrices_in_bfloat16(net)
    if device.type == "cpu" and bfloat16_hardware(device) != "amx_bf16":
        # Without AMX torch's attention in bfloat16 is slower than in float32, its backward pass three times.
        AttentionInterface.register(FLOAT32_ATTENTION, _attention_in_float32)
        AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
        model = net.get_base_model() if hasattr(net, "get_base_model") else net
        model.set_attn_implementation(FLOAT32_ATTENTION)


def _attention_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Torch's attention with the interface of transformers, computed in float32."""
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return out.to(query.dtype), None


def store_matrices_in_bfloat16(net: Any) -> None:
    """Store the frozen matrices of a model's layers in bfloat16: otherwise every step converts them.

    The model is one of transformers, with or without PEFT's adapter. Vectors, embeddings and the output head stay in
    float32, and so do the hidden states between layers.
    """
    outside = {id(m.weight) for m in (net.get_input_embeddings(), net.get_output_embeddings())}
    for name, module in net.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.requires_grad or weight.dim() != 2:
            continue
        embedding = isinstance(module, nn.Embedding) or id(weight) in outside
        if not embedding and "lora_" not in name:
            weight.data = weight.data.bfloat16()
