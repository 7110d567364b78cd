"""Fastfood: Gaussian-like matrices from diagonal matrices, permutations and Hadamard transforms."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor
from torch.nn.functional import pad

from sublora.nn.operators.base import ALIGNMENT, LinearOperator, Seed, sum_rows

# Numbers that go through all steps together: enough for a matrix product to be efficient, few enough for the cache.
CHUNK_ELEMENTS = 2**18
# H of order 2^e is a Kronecker product of factors of order at most 2^5, each applied as a matrix product: 32 / 5 times
# the operations of butterflies, at many times their speed.
FACTOR_EXPONENT = 5


class FastfoodOperator(LinearOperator):
    """P stacks blocks S H G Pi H B (Le, Sarlos and Smola 2013, "Fastfood", eq. 9) until D rows are covered.

    With n the smallest power of two that is at least d: B is a diagonal of random signs, H the Hadamard matrix of
    order n, Pi a permutation, G a diagonal of standard normals and S a diagonal that gives the rows the lengths of
    Gaussian vectors, S_i = s_i / (|G| sqrt(n D)) with s_i^2 chi-squared with n degrees of freedom. The first d columns
    are kept. S, G and Pi are drawn anew for every block; the rotation H B, which only spreads each coordinate over
    the n inputs of G, is common to all blocks and is applied once. Time O(D log n), memory O(D).
    """

    signs: Tensor
    """(d,), the diagonal of B that meets the kept columns"""
    gaussian: Tensor
    """(blocks, n), the diagonals G"""
    scale: Tensor
    """(blocks, n), the diagonals S, zero for the rows beyond D"""
    source: Tensor
    """(blocks, n), Pi: which input each output is"""
    target: Tensor
    """(blocks, n), the inverse of Pi, counted from the start of a chunk"""

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        self._order = n = 1 << (d - 1).bit_length()
        blocks = -(-D // n)
        self._chunk = max(1, CHUNK_ELEMENTS // n)
        signs = self._rng("signs").integers(0, 2, d, dtype=np.int8).astype(np.float32)
        gaussian = self._rng("gaussian").standard_normal((blocks, n), dtype=np.float32)
        lengths = np.sqrt(self._rng("lengths").chisquare(n, (blocks, n)))
        lengths.reshape(-1)[D:] = 0
        norms = np.sqrt((gaussian.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        identity = np.broadcast_to(np.arange(n, dtype=np.int32), (blocks, n))
        source = self._rng("order").permuted(identity, axis=1)
        target = np.empty_like(source)
        np.put_along_axis(target, source, identity, axis=1)
        # The adjoint gathers from a whole chunk of blocks at once.
        target += (np.arange(blocks, dtype=np.int32) % self._chunk * n)[:, None]
        self._table("signs", 2 * signs - 1)
        self._table("gaussian", gaussian)
        self._table("scale", (lengths / (norms * math.sqrt(n) * math.sqrt(D))).astype(np.float32))
        self._table("source", source)
        self._table("target", target)
        exponent = n.bit_length() - 1
        parts = -(-exponent // FACTOR_EXPONENT)
        self._factors = [exponent * (i + 1) // parts - exponent * i // parts for i in range(parts)]
        for e in set(self._factors):
            self._table(f"hadamard{e}", hadamard(2**e, dtype=np.float32))

    def _transform(self, x_mn: Tensor) -> Tensor:
        """Return H applied to each row, unnormalized."""
        shape, after = x_mn.shape, 1
        for e in self._factors:
            h = self.get_buffer(f"hadamard{e}")
            if after == 1:  # the last factor acts on neighbours: one product instead of a batch of them
                x = x_mn.view(-1, 2**e)
                x_mn = (pad(x, (0, 0, 0, -len(x) % ALIGNMENT)) @ h)[: len(x)]
            else:
                x_mn = h @ x_mn.view(-1, 2**e, after)
            after *= 2**e
        return x_mn.view(shape)

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self.gaussian), self._chunk):
            yield slice(start, start + self._chunk)

    def _multiply(self, x_d: Tensor) -> Tensor:
        x_n = self._transform(pad(x_d * self.signs, (0, self._order - len(x_d))))
        out_bn = x_d.new_empty(self.gaussian.shape)
        for rows in self._chunks():
            gaussian_mn = self.gaussian[rows]
            v_mn = x_n.index_select(0, self.source[rows].view(-1)).view_as(gaussian_mn).mul_(gaussian_mn)
            torch.mul(self._transform(v_mn), self.scale[rows], out=out_bn[rows])
        return out_bn.view(-1)[: self.shape[0]]

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        out_n = y_D.new_zeros(self._order)
        for rows in self._chunks():
            scale_mn = self.scale[rows]
            part = y_D[rows.start * self._order : rows.stop * self._order]
            v_mn = pad(part, (0, scale_mn.numel() - len(part))).view_as(scale_mn) * scale_mn
            v_mn = self._transform(v_mn).mul_(self.gaussian[rows])
            out_n += sum_rows(v_mn.view(-1).index_select(0, self.target[rows].view(-1)).view_as(v_mn))
        return self._transform(out_n)[: self.shape[1]] * self.signs
