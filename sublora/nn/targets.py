"""Which linear layers of a model an adapter is on."""

from typing import cast

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sublora.errors import ConfigError
from sublora.nn.allocation import layer_of

# The attention projections, by the names that architectures give them; the first that exist are taken. A message says
# "attention" and means these, so what stands here keeps its place, and a new name goes to the end.
ATTENTION_TARGETS = (
    ("c_attn",),
    ("q_proj", "v_proj"),
    ("query_key_value",),
    ("query", "value"),
    ("qkv_proj",),
    ("Wqkv",),
    ("q", "v"),
)


def find_targets(model: nn.Module, targets: str) -> list[tuple[str, nn.Module]]:
    """Return names and modules, in the order of `named_modules`.

    Args:
        model: of transformers, without an adapter.
        targets: "attention": the query and value projections (fused with the key's in GPT-2 and Phi-3); "linear": every
            linear layer inside the transformer layers, the output head not among them.

    Raises:
        ConfigError: there are none.
    """
    linear = _linear_layers(model)
    if targets == "attention":
        endings = {name.rpartition(".")[2] for name, _ in linear}
        wanted = next((names for names in ATTENTION_TARGETS if names[0] in endings), ())
        linear = [(name, module) for name, module in linear if name.rpartition(".")[2] in wanted]
        if not linear:
            raise ConfigError(
                f"no attention projections found in {type(model).__name__}: set sublora.targets=linear, or "
                "sublora.attention_linear_use_lora=false"
            )
    if not linear:
        raise ConfigError(f"no linear layers found inside the layers of {type(model).__name__}")
    return linear


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return outputs and inputs of a linear layer, whichever way its weight is kept."""
    rows, columns = cast(Tensor, module.weight).shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _linear_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every linear layer inside the transformer layers."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and layer_of(f"{name}.weight") is not None
    ]
