"""Kronecker products of two Gaussian matrices: two small matrix products in place of a large one."""

import math

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from sublora.nn.operators.base import ALIGNMENT, LinearOperator, Seed


def factor_shapes(D: int, d: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes (D1, d1), (D2, d2) of factors whose Kronecker product covers D rows and d columns.

    All four are near the square roots, (D1 - 1) D2 < D <= D1 D2 and (d1 - 1) d2 < d <= d1 d2. D2 is chosen such that
    as few rows as possible are surplus, none if D has a divisor in the range. For generic factors the first D rows and
    d columns of the product have rank d: the first d1 - 1 rows of blocks are complete and eliminate as many columns
    of blocks, and what is left is a part of the second factor, with at least as many rows as columns.
    """
    d2 = math.isqrt(d - 1) + 1
    d1 = -(-d // d2)
    root = math.sqrt(D)

    def badness(D2: int) -> tuple[int, float]:
        return -D % D2, abs(math.log(D2 / root))

    near = range(max(d2, int(root / 2)), max(d2, int(root * 2)) + 1)
    # With d1 rows of blocks the last must be complete, or as wide as the last of the columns' (D2 = d2).
    legal = [D2 for D2 in near if D2 * d1 <= D or d2 == D2]
    D2 = min(legal, key=badness)
    return (-(-D // D2), d1), (D2, d2)


class KroneckerOperator(LinearOperator):
    """P = Pi (R1 x R2) restricted to D rows and d columns, with a random permutation Pi of the rows.

    x is the Kronecker product: alpha, row by row in a d1 x d2 matrix X (padded with zeros), becomes R1 X R2^T, of which
    the first D entries, row by row, are shuffled by Pi. `factor_shapes` says how D and d are divided.

    Args:
        D, d, seed: as in LinearOperator.
    """

    first: Tensor
    """(D1, d1), each rounded up to a multiple of ALIGNMENT: R1, scaled such that P's columns have unit expected norm"""
    second: Tensor
    """(D2, d2), rounded up likewise: R2"""
    source: Tensor
    """(D,), where each parameter stands in the rounded-up product"""

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        (D1, d1), (D2, d2) = factor_shapes(D, d)
        first = self._factor("first", D1, d1) * math.sqrt(D1 * D2 / D)
        second = self._factor("second", D2, d2)
        self._columns = (d1, d2)
        self._table("first", _padded(first.astype(np.float32)))
        self._table("second", _padded(second.astype(np.float32)))
        row, column = np.divmod(self._rng("order").permutation(D), D2)
        self._table("source", (row * len(self.second) + column).astype(np.int32))

    def _factor(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Return a factor, float64, whose columns have unit expected squared norm."""
        return self._rng(name).standard_normal((rows, columns)) / math.sqrt(rows)

    def _multiply(self, x_d: Tensor) -> Tensor:
        (d1, d2), columns1, columns2 = self._columns, self.first.shape[1], self.second.shape[1]
        x_d1d2 = pad(x_d, (0, d1 * d2 - len(x_d))).view(d1, d2)
        x_d1d2 = pad(x_d1d2, (0, columns2 - d2, 0, columns1 - d1))
        return (self.first @ (x_d1d2 @ self.second.T)).view(-1).index_select(0, self.source)

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        (d1, d2), rows1, rows2 = self._columns, self.first.shape[0], self.second.shape[0]
        # The positions are distinct: nothing is summed, so there is no order of summation.
        y_D1D2 = y_D.new_zeros(rows1 * rows2).index_add_(0, self.source, y_D).view(rows1, rows2)
        x_d1d2 = self.first.T @ y_D1D2 @ self.second
        return x_d1d2[:d1, :d2].reshape(-1)[: self.shape[1]]


def _padded(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix, padded with zeros to multiples of ALIGNMENT."""
    return np.pad(matrix, [(0, -size % ALIGNMENT) for size in matrix.shape])


class RKronOperator(KroneckerOperator):
    """P = Pi (R1 x R2) with independent Gaussian R1 and R2 (Lotfi et al. 2022, arXiv 2211.13609, section 4.1)."""


class RDKronOperator(LinearOperator):
    """P = (P1 + P2) / sqrt(2) for two independent operators of `RKronOperator`: the entries of a column, products of
    few Gaussians in one of them, are closer to independent in the sum.
    """

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        self.one = RKronOperator(D, d, (*seed, "one"))
        self.two = RKronOperator(D, d, (*seed, "two"))

    def _multiply(self, x_d: Tensor) -> Tensor:
        return (self.one._multiply(x_d) + self.two._multiply(x_d)) * math.sqrt(0.5)

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        return (self.one._multiply_transposed(y_D) + self.two._multiply_transposed(y_D)) * math.sqrt(0.5)
