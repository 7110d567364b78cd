"""What an operator is: a fixed linear map P from d coordinates to D parameters, made from a seed and never stored.

Shape letters: D parameters, d coordinates.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sublora.errors import ConfigError

Seed = tuple[int | str, ...]


class _Apply(torch.autograd.Function):
    """P alpha with the exact adjoint as its derivative: nothing but the operator is kept for backward."""

    @staticmethod
    def forward(ctx: Any, alpha_d: Tensor, operator: "LinearOperator") -> Tensor:
        ctx.operator = operator
        return operator.matvec(alpha_d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.adjoint(grads[0]), None


class LinearOperator(nn.Module, ABC):
    """A linear map of shape (D, d) whose columns have unit expected norm.

    Tables are non-persistent buffers: they move with `.to(device)`, and a state dict does not hold them. They are
    integers and signs, or normal numbers from a named stream on the CPU, so they are the same everywhere.

    Args:
        D: number of parameters.
        d: number of coordinates, 1 <= d <= D.
        seed: root seed and names of the stream that everything is drawn from.

    Raises:
        ConfigError: d is outside 1..D.
    """

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__()
        if not 1 <= d <= D:
            raise ConfigError(f"an operator needs 1 <= d <= D, not d = {d} and D = {D}")
        self.shape = (D, d)
        self.seed = seed

    @abstractmethod
    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha, without a graph."""

    @abstractmethod
    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T theta, without a graph."""

    def forward(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha, differentiable in alpha; autocast does not lower its precision."""
        with torch.autocast(alpha_d.device.type, enabled=False):
            return _Apply.apply(alpha_d, self)

    def to_dense(self) -> Float[Tensor, "D d"]:
        """Return P as a matrix, column by column; for tests."""
        eye = torch.eye(self.shape[1], device=next(iter(self.buffers()), torch.empty(0)).device)
        return torch.stack([self.matvec(column) for column in eye], dim=1)

    def _table(self, name: str, values: Any) -> None:
        self.register_buffer(name, torch.as_tensor(values), persistent=False)
