"""A decoded model as a LoRA adapter in the files of PEFT, which loads them without this package."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType
from safetensors.torch import save
from torch import nn
from transformers.pytorch_utils import Conv1D

from sublora.errors import ConfigError
from sublora.files import write_bytes
from sublora.nn.adapted import AdaptedLinear
from sublora.nn.lora import ADAPTER
from sublora.nn.subspace import SubspaceModule

WEIGHTS = "adapter_model.safetensors"


def write_adapter(model: SubspaceModule, folder: Path, base_name: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    The names in the files are those of the base's modules, so PEFT finds them in its own copy of the base.

    Args:
        model: at the decoded coordinates; it is used up.
        folder: to write to.
        base_name: hub id or folder of the base, as the adapter's configuration has it; "" where it has none.

    Raises:
        ConfigError: the adapter is no LoRA.
    """
    net: Any = model.materialize()
    tensors, ranks, scales = {}, {}, {}
    transposed = False
    for name, module in net.named_modules():
        sides = _sides(module)
        if sides is None:
            continue
        inside = name.removeprefix("base_model.model.")
        a, b, scale = sides
        tensors[f"base_model.model.{inside}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"base_model.model.{inside}.lora_B.weight"] = b.detach().cpu().contiguous()
        ranks[inside], scales[inside] = a.shape[0], round(scale * a.shape[0])
        transposed |= isinstance(module.base_layer, Conv1D)
    if not tensors:
        raise ConfigError("every weight of this model moves, so there is no adapter: export it with --merged")
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base_name or None,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(scales.values()),
        target_modules=list(ranks),
        rank_pattern=ranks,
        alpha_pattern=scales,
        fan_in_fan_out=transposed,
    )
    config.save_pretrained(str(folder))
    write_bytes(folder / WEIGHTS, save(tensors, {"format": "pt"}))


def _sides(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """A, B and the scale of B A in one layer, None where it has no adapter."""
    if isinstance(module, AdaptedLinear):
        return *module.lora_form(), 1.0
    adapted: Any = module
    if hasattr(module, "lora_A") and ADAPTER in adapted.lora_A:
        return adapted.lora_A[ADAPTER].weight, adapted.lora_B[ADAPTER].weight, adapted.scaling[ADAPTER]
    return None
