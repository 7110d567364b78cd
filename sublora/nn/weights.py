"""The weights of a model: written one by one, and named by a hash."""

import hashlib

import torch
from torch import Tensor, nn

from sublora.errors import ConfigError


def fill(parameter: nn.Parameter, values: object) -> None:
    """Overwrite a parameter with an array of its shape."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values))


def numbers(parameter: Tensor) -> Tensor:
    """Return what a parameter stands for, in float32: quantized by torchao, the numbers that it computes with.

    Raises:
        ConfigError: it is not in memory, or holds packed integers whose meaning stands elsewhere, as those of
            bitsandbytes do.
    """
    values = parameter.detach()
    if values.is_meta:
        raise ConfigError("some of the base's weights are not in memory (device_map has offloaded them): load it whole")
    if _is_quantized(values):
        values = values.dequantize()
    if not values.is_floating_point():
        raise ConfigError(
            "the base's weights are packed integers, which cannot be named by a hash: quantize it with torchao, or "
            "wrap it with an adapter of PEFT on it, of which there is no message"
        )
    return values.float()


def dequantize(model: nn.Module) -> None:
    """Replace every weight that torchao has quantized by its numbers in float32."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if _is_quantized(parameter):
                setattr(module, name, nn.Parameter(numbers(parameter), requires_grad=False))


def _is_quantized(values: Tensor) -> bool:
    return type(values).__module__.partition(".")[0] == "torchao"


def hash_weights(model: nn.Module) -> str:
    """Return SHA-256 over the names, shapes and float32 bytes of all parameters; see `numbers` for quantized ones."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        # A view, not a copy as bytes: half a gigabyte takes half a second.
        digest.update(numbers(parameter).cpu().reshape(-1).numpy().data)
    return digest.hexdigest()
