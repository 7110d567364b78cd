"""Kronecker products of small random matrices: two small matrix products and a permutation."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sublora import seeds
from sublora.nn.operators.base import LinearOperator, Seed


def _cover(size: int) -> tuple[int, int]:
    """Return two factors, nearly equal, whose product is at least `size`."""
    first = math.isqrt(size - 1) + 1
    return first, -(-size // first)


class Rkron(LinearOperator):
    """Rows of R1 (x) R2 in random order, for every D >= d >= 1 ("rounded" to sizes that are no products).

    With D1 D2 >= D and d1 d2 >= d, all nearly square, alpha is padded with zeros to a (d1, d2) matrix X, and theta is
    D of the D1 D2 entries of R1 X R2^T, chosen and ordered by a random permutation (Lotfi et al. 2022, appendix on
    Kronecker-structured projections). Factors are Gaussian.
    """

    terms = 1
    orthogonal = False

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        root, *names = self.seed
        rng = seeds.stream(int(root), *names)
        (rows1, rows2), (self.d1, self.d2) = _cover(D), _cover(d)
        whole = rows1 * rows2
        left = [self._factor(rng, rows1, self.d1) for _ in range(self.terms)]
        right = [self._factor(rng, rows2, self.d2) for _ in range(self.terms)]
        # A column of R1 (x) R2 has unit norm over all D1 D2 rows, of which D are kept.
        self._table("left", np.stack(left) * np.float32(math.sqrt(whole / (D * self.terms))))
        self._table("right", np.stack(right))
        rows = rng.permutation(whole)[:D]
        places = np.full(whole, D, dtype=np.int32)
        places[rows] = np.arange(D, dtype=np.int32)
        self._table("rows", rows.astype(np.int32))
        self._table("places", places)

    def _factor(self, rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
        gauss = rng.standard_normal((rows, columns))
        # A wide factor (d close to D) cannot have orthogonal columns; its columns keep unit norm.
        if self.orthogonal and rows >= columns:
            q, r = np.linalg.qr(gauss)
            return (q * np.sign(np.diag(r))).astype(np.float32)
        return (gauss / math.sqrt(rows)).astype(np.float32)

    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha."""
        left, right = self.left.to(alpha_d.dtype), self.right.to(alpha_d.dtype)
        x = F.pad(alpha_d, (0, self.d1 * self.d2 - self.shape[1])).view(self.d1, self.d2)
        product = torch.cat(tuple(left @ x), 1) @ torch.cat(tuple(right), 1).T
        return product.reshape(-1).index_select(0, self.rows)

    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T theta."""
        left, right = self.left.to(theta_D.dtype), self.right.to(theta_D.dtype)
        y = F.pad(theta_D, (0, 1)).index_select(0, self.places).view(left.shape[1], right.shape[1])
        x = (left.transpose(1, 2) @ (y @ right)).sum(0)
        return x.reshape(-1)[: self.shape[1]]


class Rdkron(Rkron):
    """The sum of two independent Kronecker products over sqrt(2): entries closer to Gaussian at twice the cost."""

    terms = 2


class Rdkronqr(Rkron):
    """One Kronecker product of factors with orthonormal columns: an isometry but for the rows that rounding drops."""

    orthogonal = True
