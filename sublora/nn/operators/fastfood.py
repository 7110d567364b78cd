"""Structured random matrices from fast Walsh-Hadamard transforms."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sublora import seeds
from sublora.nn.operators.base import LinearOperator, Seed

# H_n is a Kronecker product of smaller Hadamard matrices; factors of this size keep both products and passes few.
_FACTOR = 64


def hadamard(n: int) -> Float[Tensor, "n n"]:
    """Return the Hadamard matrix of Sylvester's order; n is a power of two."""
    h = torch.ones(1, 1)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def walsh_hadamard(x: Float[Tensor, "*blocks n"]) -> Float[Tensor, "*blocks n"]:
    """Return H_n applied to the last axis, as products with small Hadamard matrices along the axes of n = a b c ..."""
    shape, n = x.shape, x.shape[-1]
    after = 1
    while after < n:
        factor = min(_FACTOR, n // after)
        h = hadamard(factor).to(x)
        x = h @ x.reshape(-1, factor, after) if after > 1 else x.reshape(-1, factor) @ h
        after *= factor
    return x.reshape(shape)


class Fastfood(LinearOperator):
    """Stacked blocks S H G Pi H B (Le, Sarlos & Smola 2013, eq. 5) of size n, the least power of two >= d.

    B: signs; Pi: a permutation; G: N(0, 1); S: row lengths of a Gaussian matrix, chi_n / ||G||; H: Hadamard.
    """

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        root, *names = self.seed
        rng = seeds.stream(int(root), *names)
        self.n = 1 << (d - 1).bit_length()
        blocks = -(-D // self.n)
        size = (blocks, self.n)
        signs = 1 - 2 * rng.integers(0, 2, size, dtype=np.int8)
        permutation = rng.permuted(np.tile(np.arange(self.n, dtype=np.int32), (blocks, 1)), axis=1)
        gauss = rng.standard_normal(size, dtype=np.float32)
        lengths = np.sqrt(rng.chisquare(self.n, size)).astype(np.float32) / np.linalg.norm(gauss, axis=1, keepdims=True)
        inverse = np.argsort(permutation, axis=1).astype(np.int32)
        offset = (np.arange(blocks, dtype=np.int32) * self.n)[:, None]
        self._table("signs", signs)
        self._table("permutation", (permutation + offset).reshape(-1))
        self._table("inverse", (inverse + offset).reshape(-1))
        self._table("gauss", gauss)
        # An entry of H G Pi H B has variance n; a column of D of them gets unit expected norm.
        self._table("lengths", lengths / np.float32(math.sqrt(self.n * D)))

    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha."""
        D, d = self.shape
        x = walsh_hadamard(self.signs.to(alpha_d.dtype) * F.pad(alpha_d, (0, self.n - d)))
        x = x.view(-1).index_select(0, self.permutation).view_as(self.gauss) * self.gauss.to(alpha_d.dtype)
        return (walsh_hadamard(x) * self.lengths.to(alpha_d.dtype)).view(-1)[:D]

    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T theta; H is symmetric."""
        D, d = self.shape
        y = F.pad(theta_D, (0, self.gauss.numel() - D)).view_as(self.gauss)
        y = walsh_hadamard(y * self.lengths.to(theta_D.dtype)) * self.gauss.to(theta_D.dtype)
        y = walsh_hadamard(y.view(-1).index_select(0, self.inverse).view_as(self.gauss))
        return (y * self.signs.to(theta_D.dtype)).sum(0)[:d]
