"""A Gaussian matrix, made in blocks of rows from counters, kept only while it fits."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sublora import seeds
from sublora.nn.operators.base import LinearOperator, Seed

BLOCK_ENTRIES = 1 << 22
MEMORY_BUDGET = 2 << 30


class Dense(LinearOperator):
    """P has independent N(0, 1/D) entries (Li et al. 2018, "Measuring the intrinsic dimension", section 2).

    A block of rows is drawn from its own counter, so that any block can be made alone.

    Args:
        memory_budget: bytes that may be kept; a larger matrix is drawn again, block by block, at every product.
    """

    def __init__(self, D: int, d: int, seed: Seed, memory_budget: int = MEMORY_BUDGET) -> None:
        super().__init__(D, d, seed)
        self.rows = max(1, BLOCK_ENTRIES // d)
        self.kept = 4 * D * d <= memory_budget
        if self.kept:
            self._table("matrix", torch.cat([self._draw(i) for i in range(self._n_blocks)]))
        else:
            self._table("matrix", torch.empty(0, d))

    @property
    def _n_blocks(self) -> int:
        return math.ceil(self.shape[0] / self.rows)

    def _draw(self, block: int) -> Float[Tensor, "rows d"]:
        D, d = self.shape
        rows = min(self.rows, D - block * self.rows)
        root, *names = self.seed
        entries = seeds.stream(int(root), *names, counter=block).standard_normal((rows, d), dtype=np.float32)
        return torch.from_numpy(entries / np.float32(math.sqrt(D)))

    def _blocks(self) -> Iterator[Float[Tensor, "rows d"]]:
        if self.kept:
            yield from self.matrix.split(self.rows)
        else:
            yield from (self._draw(i).to(self.matrix.device) for i in range(self._n_blocks))

    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha."""
        return torch.cat([block.to(alpha_d.dtype) @ alpha_d for block in self._blocks()])

    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T theta, block after block, so that the order of the sum is fixed."""
        total = theta_D.new_zeros(self.shape[1])
        for block, part in zip(self._blocks(), theta_D.split(self.rows), strict=True):
            total += part @ block.to(theta_D.dtype)
        return total
