"""The dense Gaussian operator, made in blocks of rows that can each be drawn alone."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from sublora.nn.operators.base import LinearOperator, Seed

MEMORY_BUDGET = 2 * 2**30
"""Bytes up to which the matrix is kept in memory."""
BLOCK_ELEMENTS = 2**21


def normal_quantiles() -> np.ndarray:
    """Return 65,536 equally likely float32 values that stand for N(0, 1), with mean 0 and variance 1.

    They are the normal quantiles of the midpoints (i + 1/2) / 65,536, rescaled. No event's probability on an interval
    differs from the normal distribution's by more than 1e-4, and a look-up is five times as fast as numpy's sampler.
    """
    values = ndtri((np.arange(2**16) + 0.5) / 2**16)
    return (values / values.std()).astype(np.float32)


class DenseOperator(LinearOperator):
    """P with independent entries N(0, 1/D), rounded as in `normal_quantiles`: the projection of Li et al. 2018,
    "Measuring the intrinsic dimension of objective landscapes".

    Row block b is the b-th block of the stream, so a block can be made alone and in any order. A matrix that does not
    fit the budget is made again, block by block, in every product; both ways give the same bits, because the products
    are summed block by block in the same order.

    Args:
        D, d, seed: as in LinearOperator.
        memory_budget: bytes up to which the matrix is kept in memory.
    """

    entries: Tensor | None

    def __init__(self, D: int, d: int, seed: Seed, memory_budget: int = MEMORY_BUDGET) -> None:
        super().__init__(D, d, seed)
        rows = max(1, BLOCK_ELEMENTS // d)
        self._bounds = [(start, min(start + rows, D)) for start in range(0, D, rows)]
        self._scale = 1 / math.sqrt(D)
        self._quantiles = torch.from_numpy(normal_quantiles())
        self.register_buffer("entries", None, persistent=False)
        if 4 * D * d <= memory_budget:
            entries = torch.empty(D, d)
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(self._fill, range(len(self._bounds)), entries.split(rows)))
            self.entries = entries

    def _fill(self, block: int, out: Tensor) -> Tensor:
        """Write the standard normal entries of a block of rows."""
        words = self._rng("entries", counter=block).integers(0, 2**64, -(-out.numel() // 4), dtype=np.uint64)
        sixteen_bits = torch.from_numpy(words.view(np.uint16)[: out.numel()].astype(np.int32))
        torch.index_select(self._quantiles, 0, sixteen_bits, out=out.view(-1))
        return out

    def _blocks(self, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """Yield the blocks in order, each with the rows it covers."""
        if self.entries is not None:
            for start, stop in self._bounds:
                yield slice(start, stop), self.entries[start:stop]
            return
        workers = torch.get_num_threads()
        with ThreadPoolExecutor(workers) as pool:
            pending: deque[Future[Tensor]] = deque()
            # A bounded look-ahead: all blocks at once would be the whole matrix.
            for made in range(len(self._bounds) + workers):
                if made < len(self._bounds):
                    start, stop = self._bounds[made]
                    pending.append(pool.submit(self._fill, made, torch.empty(stop - start, self.shape[1])))
                if made >= workers:
                    yield slice(*self._bounds[made - workers]), pending.popleft().result().to(device)

    def _multiply(self, x_d: Tensor) -> Tensor:
        out_D = x_d.new_empty(self.shape[0])
        scaled_d = x_d * self._scale
        for rows, block in self._blocks(x_d.device):
            torch.mv(block, scaled_d, out=out_D[rows])
        return out_D

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        out_d = y_D.new_zeros(self.shape[1])
        for rows, block in self._blocks(y_D.device):
            out_d += torch.mv(block.T, y_D[rows])
        return out_d * self._scale
