"""A module is called with other tensors in the place of its parameters."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_with(module: nn.Module, values: Mapping[str, Tensor], args: tuple[Any, ...] = (), **kwargs: Any) -> Any:
    """Call a module with some of its parameters replaced, as `torch.func.functional_call` does, in all their places.

    Args:
        module: what is called.
        values: by the names in `named_parameters()`.
        args: positional arguments of the call.
        **kwargs: named arguments of the call.
    """
    return functional_call(module, places(module, values), args, kwargs, tie_weights=False)


def places(module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors under one name for every place that they stand in; call without tying weights.

    A parameter may stand in several modules (a tied head), and a module may stand in several others (the vectors that
    adapters of PEFT share between layers). torch's own tying replaces the second kind once for every name of the
    module, and what it puts back at the end is then not what was there at the beginning.
    """
    named: dict[int, list[str]] = {}
    for prefix, owner in module.named_modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                named.setdefault(id(parameter), []).append(f"{prefix}.{name}" if prefix else name)
    return {place: value for name, value in values.items() for place in named[id(module.get_parameter(name))]}
