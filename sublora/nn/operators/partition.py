"""Each parameter reads one coordinate: an isometry at the price of one gather."""

import numpy as np
from torch import Tensor

from sublora.nn.operators.base import LinearOperator, Seed, sum_rows


class PartitionOperator(LinearOperator):
    """P with one entry per row, 1/sqrt(n_j) in column j, where n_j parameters read coordinate j (Uni-LoRA,
    arXiv 2506.00799, eq. 4): P^T P = I exactly.

    The assignment is stratified: each run of d consecutive parameters reads the d coordinates once each, in a random
    order of its own, and the last, shorter run reads a random choice of them. So the n_j differ by at most 1, and
    every coordinate is spread evenly over the model. Gathers stay inside windows of d numbers, which fit in a cache.
    """

    source: Tensor
    """(D,), the coordinate that each parameter reads"""
    readers: Tensor
    """(D // d, d), the parameter of each run that reads each coordinate"""
    last: Tensor
    """(D mod d,), the coordinates that the last run reads"""
    scale: Tensor
    """(d,), 1/sqrt(n_j)"""

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        runs, rest = divmod(D, d)
        rng = self._rng("order")
        order = rng.permuted(np.broadcast_to(np.arange(d, dtype=np.int32), (runs, d)), axis=1)
        last = rng.permutation(d)[:rest].astype(np.int32)
        counts = np.full(d, runs)
        counts[last] += 1
        self._table("source", np.concatenate([order.reshape(-1), last]))
        readers = np.empty_like(order)
        np.put_along_axis(readers, order, np.arange(D - rest, dtype=np.int32).reshape(runs, d), axis=1)
        self._table("readers", readers)
        self._table("last", last)
        self._table("scale", (1 / np.sqrt(counts)).astype(np.float32))

    def _multiply(self, x_d: Tensor) -> Tensor:
        return (x_d * self.scale).index_select(0, self.source)

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        total_d = sum_rows(y_D.index_select(0, self.readers.view(-1)).view(self.readers.shape))
        total_d.index_add_(0, self.last, y_D[self.readers.numel() :])  # its indices are distinct
        return total_d * self.scale


class SignedPartitionOperator(PartitionOperator):
    """The partition with an independent random sign for every parameter: P^T P = I, and the changes of the parameters
    that read one coordinate are uncorrelated.
    """

    signs: Tensor

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        self._table("signs", 2 * self._rng("signs").integers(0, 2, D, dtype=np.int8).astype(np.float32) - 1)

    def _multiply(self, x_d: Tensor) -> Tensor:
        return super()._multiply(x_d).mul_(self.signs)

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        return super()._multiply_transposed(y_D * self.signs)
