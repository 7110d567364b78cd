"""Very sparse random projections: about sqrt(D) random signs per coordinate."""

import math

import numpy as np
from torch import Tensor

from sublora.nn.operators.base import LinearOperator, Seed


class SparseOperator(LinearOperator):
    """P with k = round(sqrt(D)) entries of random sign per column, all but one of them of equal size (Li, Hastie and
    Church 2006, "Very sparse random projections", at the density 1/sqrt(D) of Li et al. 2018, "Measuring the intrinsic
    dimension of objective landscapes").

    The odd entry, half as large as the others, has a row of its own in every column: in units of its size P is a
    matrix of integers and, modulo 2, a permutation of the first d columns of the identity. So P has rank d for every
    seed. The other entries are one in each of k - 1 equal strata of the other rows. Every column has norm exactly 1.
    """

    rows: Tensor
    """(d k,), the rows of the entries, column after column"""
    weights: Tensor
    """(d, k), their values in units of the smallest: -2, -1, 1 or 2"""

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        k = max(1, round(math.sqrt(D)))
        edges = (np.arange(k) * (D - 1) // max(1, k - 1)).astype(np.int32)
        column = np.arange(d, dtype=np.int32)[:, None]
        others = self._rng("rows").integers(edges[:-1], edges[1:], (d, k - 1), dtype=np.int32)
        rows = np.concatenate([column, (column + 1 + others) % D], axis=1)
        order = self._rng("order").permutation(D).astype(np.int32)
        weights = 4 * self._rng("signs").integers(0, 2, (d, k), dtype=np.int8) - 2
        weights[:, 0] //= 2
        self._scale = 1 / math.sqrt(1 + 4 * (k - 1))
        self._table("rows", order[rows].reshape(-1))
        self._table("weights", weights)

    def _multiply(self, x_d: Tensor) -> Tensor:
        entries = self.weights * (x_d * self._scale)[:, None]
        # On a CPU index_add_ is sequential: the order of summation is fixed.
        return x_d.new_zeros(self.shape[0]).index_add_(0, self.rows, entries.view(-1))

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        return (y_D.index_select(0, self.rows).view(self.weights.shape) * self.weights).sum(1) * self._scale
