"""What every operator P: R^d -> R^D offers: products with P and its transpose, and gradients through both."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sublora.errors import ConfigError
from sublora.seeds import stream

# A root seed, followed by the names of the stream.
Seed = tuple[int | str, ...]

ALIGNMENT = 16
"""Rows and columns of a matrix product come in multiples of this. BLAS divides a product between its threads, and sums
the ragged edge of a share in another order than its inside: with other sizes the bits depend on the number of threads.
"""


class LinearOperator(nn.Module, ABC):
    """A fixed random linear map P from d coordinates to D parameters.

    P is a function of (kind, D, d, seed) alone: tables are drawn on the CPU from streams named by the seed, and follow
    `.to(device)` as non-persistent buffers, so a state dict holds nothing of P. The expected squared norm of every
    column of P is 1. Arithmetic is in float32, whatever autocast says.

    Args:
        D: number of parameters.
        d: number of coordinates, 1 <= d <= D.
        seed: root seed followed by the names of the stream.

    Raises:
        ConfigError: d is outside 1..D.
    """

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__()
        if not 1 <= d <= D:
            raise ConfigError(f"an operator needs 1 <= d <= D, but d is {d} and D is {D}")
        self.shape = (D, d)
        self.seed = seed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LinearOperator":
        # What `.to`, `.cuda` and `.bfloat16` go through. The tables follow to another device and keep their precision:
        # the operator of a model in bfloat16 is the same P.
        for child in self.children():
            child._apply(fn)
        for name, table in self._buffers.items():
            if table is not None:
                self._buffers[name] = table.to(fn(table).device)
        return self

    @abstractmethod
    def _multiply(self, x_d: Tensor) -> Tensor:
        """Return P x for a contiguous float32 x."""

    @abstractmethod
    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        """Return P^T y for a contiguous float32 y."""

    def forward(self, alpha: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha, float32; its gradient with respect to alpha is P^T applied to the gradient of the result."""
        self._check(alpha, self.shape[1])
        return _Product.apply(alpha.float(), self, False)

    @torch.no_grad()
    def matvec(self, x: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P x, float32, without a gradient."""
        return self(x)

    @torch.no_grad()
    def adjoint(self, y: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T y, float32, without a gradient."""
        self._check(y, self.shape[0])
        return _Product.apply(y.float(), self, True)

    def to_dense(self) -> Float[Tensor, "D d"]:
        """Return the matrix P, a product with each unit vector: for small sizes."""
        return torch.stack([self.matvec(unit) for unit in torch.eye(self.shape[1])], dim=1)

    def extra_repr(self) -> str:
        """Return the size and the seed, for `print(model)`."""
        return f"D={self.shape[0]}, d={self.shape[1]}, seed={self.seed}"

    def _rng(self, *names: str | int, counter: int = 0) -> np.random.Generator:
        """Return the generator of one of this operator's tables."""
        root, *own = self.seed
        return stream(int(root), *own, *names, counter=counter)

    def _table(self, name: str, values: np.ndarray) -> None:
        """Register a table of P."""
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    def _check(self, vector: Tensor, length: int) -> None:
        if vector.shape != (length,):
            raise ValueError(f"expected a vector of {length} numbers, not shape {tuple(vector.shape)}")


def sum_rows(x_mn: Tensor) -> Tensor:
    """Return the sum of the rows of a matrix, in an order that does not depend on the number of threads."""
    if x_mn.shape[1] > 1:  # columns are divided between the threads
        return x_mn.sum(0)
    return torch.mv(x_mn.T, x_mn.new_ones(len(x_mn)))


class _Product(torch.autograd.Function):
    """The product with P (or its transpose); the gradient is the product with the other, to any order."""

    @staticmethod
    def forward(x: Tensor, operator: LinearOperator, transposed: bool) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            product = operator._multiply_transposed if transposed else operator._multiply
            return product(x.contiguous())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.operator, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grad, ctx.operator, not ctx.transposed), None, None
