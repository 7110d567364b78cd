"""A few random signs in every column."""

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sublora import seeds
from sublora.nn.operators.base import LinearOperator, Seed


class Sparse(LinearOperator):
    """Every column has k = round(sqrt(D)) entries +-1/sqrt(k) at random rows (Li, Hastie & Church 2006).

    Rows are drawn with replacement: an entry that is hit twice holds the sum.
    """

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        root, *names = self.seed
        rng = seeds.stream(int(root), *names)
        self.k = max(1, round(math.sqrt(D)))
        self._table("rows", rng.integers(0, D, d * self.k).astype(np.int32))
        signs = 1 - 2 * rng.integers(0, 2, (d, self.k), dtype=np.int8)
        self._table("signs", signs.astype(np.float32) / np.float32(math.sqrt(self.k)))

    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha."""
        entries = alpha_d[:, None] * self.signs.to(alpha_d.dtype)
        return alpha_d.new_zeros(self.shape[0]).index_add_(0, self.rows, entries.view(-1))

    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T theta."""
        return (theta_D.index_select(0, self.rows).view_as(self.signs) * self.signs.to(theta_D.dtype)).sum(1)
