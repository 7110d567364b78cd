"""Every parameter reads one coordinate: the fastest operator, and an exact isometry."""

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sublora import seeds
from sublora.nn.operators.base import LinearOperator, Seed


class Partition(LinearOperator):
    """theta_r = alpha_{c(r)} / sqrt(n_c), where n_c parameters read coordinate c; P^T P = I.

    The parameters are divided at random, and balanced: the n_c differ by at most 1
    (Uni-LoRA, Li et al. 2025, arXiv 2506.00799, section 3).
    """

    signed = False

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        root, *names = self.seed
        rng = seeds.stream(int(root), *names)
        order = rng.permutation(D)
        coordinate = np.empty(D, dtype=np.int64)
        coordinate[order] = np.arange(D) % d
        scale = 1 / np.sqrt(np.bincount(coordinate, minlength=d)[coordinate])
        if self.signed:
            scale *= 1 - 2 * rng.integers(0, 2, D)
        # Parameters of each coordinate, a row per coordinate; the index D stands for the zero that pads the short rows.
        width = -(-D // d)
        members = np.pad(order, (0, width * d - D), constant_values=D).reshape(width, d).T
        self._table("coordinate", coordinate.astype(np.int32))
        self._table("scale", scale.astype(np.float32))
        self._table("members", np.ascontiguousarray(members).astype(np.int32).reshape(-1))

    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return P alpha: a gather."""
        return alpha_d.index_select(0, self.coordinate) * self.scale.to(alpha_d.dtype)

    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return P^T theta: a gather and sums over rows."""
        padded = F.pad(theta_D * self.scale.to(theta_D.dtype), (0, 1))
        return padded.index_select(0, self.members).view(self.shape[1], -1).sum(1)


class PartitionSigned(Partition):
    """Partition with a random sign for every parameter: a coordinate does not push all of them one way."""

    signed = True
