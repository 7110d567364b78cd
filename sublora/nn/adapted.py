"""A linear layer with something low-rank beside it: whatever makes the two sides, it computes W x + B A x.

Shape suffixes: o outputs, i inputs, r rank.
"""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class AdaptedLinear(nn.Module):
    """A frozen linear layer, and two sides that are computed anew at every call.

    Args:
        base_layer: nn.Linear, or transformers' Conv1D, which keeps its weight transposed.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    @abstractmethod
    def sides(self) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
        """Return A and B, differentiable in what is trained."""

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """Return (W + B A) x."""
        rows = x.flatten(0, -2)
        out = self.base_layer(rows)
        a_ri, b_or = self.sides()
        # In the adapter's precision on a base of bfloat16 too; autocast sees to its own.
        read = rows if torch.is_autocast_enabled(rows.device.type) else rows.to(a_ri.dtype)
        low = F.linear(read, a_ri)
        return out.addmm_(low.to(out.dtype), b_or.t().to(out.dtype)).view(*x.shape[:-1], -1)

    @torch.no_grad()
    def lora_form(self) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
        """Return A and B of the LoRA without a scale that computes the same."""
        a_ri, b_or = self.sides()
        return a_ri.clone(), b_or.clone()

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Write the change into the linear layer and return that."""
        a_ri, b_or = self.lora_form()
        change = b_or @ a_ri
        weight: Any = self.base_layer.weight
        weight += change.t() if isinstance(self.base_layer, Conv1D) else change
        return self.base_layer


def merge_adapted(model: nn.Module) -> None:
    """Write every change into its linear layer and put that back in its place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            model.set_submodule(name, module.merged())
