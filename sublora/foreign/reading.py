"""The folder of an adapter that PEFT wrote: untrusted input, of which only JSON and safetensors are read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sublora.errors import AdapterError
from sublora.files import read_bytes

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MOST_CONFIG_BYTES, MOST_BYTES = 1 << 20, 1 << 28
"""of the two files"""
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PLACES = ".unilora_indices_"
"""in the names of the only integers that an adapter holds"""
_PLACES = (torch.int64,)
MOST_NUMBER = 1e9
# Settings of every kind of adapter that say where it was trained, where PEFT puts it, and how it was trained: tensors
# that carry the names of their layers compute the same whatever they say.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "peft_type", "peft_version", "revision", "target_modules", "task_type",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ForeignAdapter:
    """An adapter as its folder has it.

    Attributes:
        kind: PEFT's name of the method, "LORA" for one.
        settings: everything in its configuration.
        tensors: in float32 (places of UniLoRA in int64), by their names in the file; all values are finite.
    """

    kind: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def base_name(self) -> str:
        """What it says of its base, for errors."""
        return shown(self.settings.get("base_model_name_or_path"))

    def require_plain(self, read: Iterable[str], without_effect: Iterable[str]) -> None:
        """Check that no other setting than those that are read changes what the adapter computes.

        Args:
            read: settings of this kind that are read.
            without_effect: those that its tensors make irrelevant.

        Raises:
            AdapterError: another one is set.
        """
        known = _WITHOUT_EFFECT | set(read) | set(without_effect)
        for name, value in self.settings.items():
            if name not in known and value not in (None, False, "none") and value != {} and value != []:
                raise AdapterError(
                    f"the adapter sets {shown(name)} to {shown(value)}, which no message can say: train one without it"
                )


def checked_number(name: str, value: Any) -> float:
    """Return a value that is a number above 0 and of a sensible size; raises AdapterError for others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_NUMBER:
        raise AdapterError(
            f"the adapter's {name} is {shown(value)}, and must be a number above 0, at most {MOST_NUMBER:g}"
        )
    return float(value)


def shown(value: Any) -> str:
    """Return a value from elsewhere as an error may show it: in one short line, without control characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_adapter(folder: Path) -> ForeignAdapter:
    """Read an adapter's folder.

    Raises:
        AdapterError: a file is missing, damaged or too long; weights are a pickle; a tensor holds other things than
            finite numbers.
    """
    settings = _settings(folder / CONFIG)
    kind = settings.get("peft_type")
    if not isinstance(kind, str):
        raise AdapterError(f"{folder / CONFIG} names no peft_type: it is no configuration of an adapter")
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise AdapterError(f"{folder / PICKLE} is a pickle, which can run code: save the adapter as {WEIGHTS}")
    try:
        tensors = load(read_bytes(folder / WEIGHTS, "the adapter's weights", AdapterError, MOST_BYTES))
    except SafetensorError as error:
        raise AdapterError(f"the adapter's weights {folder / WEIGHTS} are damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (_PLACES if PLACES in name else _DTYPES):
            raise AdapterError(
                f"the adapter's tensor {shown(name)} is of type {tensor.dtype}, and must be of "
                f"{'64-bit integers' if PLACES in name else 'floats'}"
            )
        if not torch.isfinite(tensor.float()).all():
            raise AdapterError(f"the adapter's tensor {shown(name)} holds values that are not finite")
    return ForeignAdapter(kind, settings, {n: t if PLACES in n else t.float() for n, t in tensors.items()})


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(read_bytes(path, "the adapter's configuration", AdapterError, MOST_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"the adapter's configuration {path} is damaged: it is not JSON") from error
    if not isinstance(settings, dict):
        raise AdapterError(f"the adapter's configuration {path} is damaged: it is no object")
    return settings
