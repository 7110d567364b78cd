"""Gradient checkpointing of transformer layers whose LoRA parameters are replaced during the forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn


def enable_gradient_checkpointing(net: Any, **options: Any) -> None:
    """Make a transformers model, with or without PEFT's adapter, keep only the inputs of its layers for backward.

    A layer is computed again during the backward pass (Chen et al. 2016, "Training deep nets with sublinear memory
    cost"), with the parameters that stood in the model when it was computed first.

    Args:
        net: the model.
        options: further ones of transformers' `activation_checkpointing_enable`: every_n_layers, offload.
    """
    model = net.get_base_model() if hasattr(net, "get_base_model") else net
    how = {"use_reentrant": False, "context_fn": partial(_contexts, net)}
    model.activation_checkpointing_enable(how, **options)


def _contexts(net: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of the second computation of a layer."""
    now = [(m, name, p) for m in net.modules() for name, p in m._parameters.items() if p is not None]
    return nullcontext(), _installed(now)


@contextmanager
def _installed(parameters: Sequence[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Put tensors in the place of parameters for a while."""
    before = [(module, name, module._parameters[name]) for module, name, _ in parameters]
    try:
        for module, name, value in parameters:
            module._parameters[name] = value  # type: ignore[assignment]
        yield
    finally:
        for module, name, old in before:
            module._parameters[name] = old
