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


def linear_kinds(model: nn.Module) -> tuple[str, ...]:
    """Return the names that linear layers inside the transformer layers end in, as they first appear."""
    return tuple(dict.fromkeys(name.rpartition(".")[2] for name, _ in _linear_layers(model)))


def find_kinds(model: nn.Module, kinds: int) -> list[tuple[str, nn.Module]]:
    """Return names and modules of the linear layers of some kinds, in the order of `named_modules`.

    Args:
        model: of transformers, without an adapter.
        kinds: bit i stands for the i-th of `linear_kinds`.

    Raises:
        ConfigError: there are none, or bits for kinds that the model does not have.
    """
    names = linear_kinds(model)
    if not 0 < kinds < 1 << len(names):
        raise ConfigError(f"{type(model).__name__} has {len(names)} kinds of linear layers, and not those of {kinds:b}")
    wanted = {name for i, name in enumerate(names) if kinds >> i & 1}
    return [(name, module) for name, module in _linear_layers(model) if name.rpartition(".")[2] in wanted]


def _linear_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every linear layer inside the transformer layers."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and layer_of(f"{name}.weight") is not None
    ]
