"""The weights of a model: written one by one, and named by a hash."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sublora.errors import ConfigError


def fill(parameter: nn.Parameter, values: object) -> None:
    """Overwrite a parameter with an array of its shape."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values))


def numbers(module: nn.Module, name: str = "weight") -> Tensor:
    """Return what a parameter stands for, in float32: a quantized one, the numbers that its layer computes with.

    Args:
        module: that it belongs to; scales may stand there.
        name: of the parameter.

    Returns:
        In the shape that it has where it is not quantized: of a `Conv1D` with inputs first.

    Raises:
        ConfigError: it is not in memory, or is packed in a way that is not torchao's or bitsandbytes'.
    """
    parameter = module.get_parameter(name)
    values = parameter.detach()
    if values.is_meta:
        raise ConfigError("some of the base's weights are not in memory (device_map has offloaded them): load it whole")
    package = _package(parameter)
    if package == "torchao":
        values = values.dequantize()
    elif package == "bitsandbytes" and not values.is_floating_point():
        values = _unpacked(module, parameter)
    if not values.is_floating_point():
        raise ConfigError(
            "the base's weights are packed integers, which cannot be named by a hash: quantize it with torchao or "
            "bitsandbytes, or wrap it with an adapter of PEFT on it, of which there is no message"
        )
    return values.float()


def inputs_first(module: nn.Module) -> bool:
    """Whether a layer's weight has a row for each input, or had one before it was quantized (GPT-2's layers)."""
    return issubclass(getattr(module, "source_cls", type(module)), Conv1D)


def _unpacked(module: Any, parameter: Any) -> Tensor:
    """The weight of a layer of bitsandbytes: of 4 bits (its state says how), or of 8 with a scale for each row."""
    from bitsandbytes import functional

    state = getattr(parameter, "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        raise ConfigError(
            "bitsandbytes has rounded the base's weights again, as it does when a model of 4 bits is called in eval "
            "mode on this processor: load the base again, and wrap it before it is called"
        )
    if state is not None:
        outputs_first = functional.dequantize_4bit(parameter.data, state)
    else:
        # The first call of a layer moves the scales from the parameter to the layer.
        scales = module.state.SCB if parameter.SCB is None else parameter.SCB
        outputs_first = functional.int8_vectorwise_dequant(parameter.data, scales)
    return outputs_first.t().contiguous() if inputs_first(module) else outputs_first


def keep_numbers(model: nn.Module) -> None:
    """Keep bitsandbytes from rounding weights of 4 bits again, without gradients, where a model is only evaluated.

    It does so on processors with products of bfloat16, and the weights stay rounded.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def dequantize(model: PreTrainedModel) -> None:
    """Make a quantized model a plain one: of the numbers that its weights stand for, in float32."""
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if _package(parameter) == "torchao":
                setattr(module, name, nn.Parameter(numbers(module, name), requires_grad=False))
            elif _package(parameter) == "bitsandbytes":
                model.set_submodule(path, _plain(module))
    del model.config.quantization_config
    # Without this it would be saved as a quantized one; the names of its weights are those of its architecture.
    marks: dict[str, bool | None] = dict.fromkeys(("hf_quantizer", "_weight_conversions", "quantization_method"))
    marks |= dict.fromkeys(("is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit"), False)
    vars(model).update(marks)


def _plain(module: Any) -> nn.Module:
    """A layer of bitsandbytes as what it was made from."""
    plain: Any
    with torch.device("meta"):
        if inputs_first(module):
            plain = Conv1D(module.out_features, module.in_features)
        else:
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    plain.weight, plain.bias = nn.Parameter(numbers(module), requires_grad=False), module.bias
    return plain


def _package(parameter: Tensor) -> str:
    """Whose kind of parameter it is: torch for a plain one."""
    return type(parameter).__module__.partition(".")[0]


def hash_weights(model: nn.Module) -> str:
    """Return SHA-256 over the names, shapes and float32 bytes of all parameters; see `numbers` for quantized ones."""
    digest = hashlib.sha256()
    for path, _ in model.named_parameters():
        of, _, name = path.rpartition(".")
        values = numbers(model.get_submodule(of), name)
        digest.update(f"{path}{tuple(values.shape)}".encode())
        # A view, not a copy as bytes: half a gigabyte takes half a second.
        digest.update(values.cpu().reshape(-1).numpy().data)
    return digest.hexdigest()
