"""Quantization with error feedback: what one coordinate loses by rounding, the later ones make up for. Torch-free.

Suffixes: d coordinates, m partial roundings that are kept.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from sublora.coding.codebooks import MAX_LEVELS, TrellisGrid, grid_scale
from sublora.coding.entropy import fit
from sublora.coding.quantizers import Quantized, check_coordinates, step_index
from sublora.coding.trellis import NEXT_STATE

# Partial roundings that are kept. 1 is plain successive rounding; 64 to 512 are within 1 % of each other.
SURVIVORS = 64
# Added to the curvature's diagonal, as a share of its mean: what a sample does not see is not free.
DAMPING = 0.03
# Steps that `plan` tries, from the one with this number on in the direction that improves, and where its scale starts,
# as multiples of the root mean square of alpha.
_STEPS = tuple(2 ** (k / 4) for k in range(-20, 6))
_FIRST = 14
_SCALE = 0.7
_NEXT_STATE = np.array(NEXT_STATE)


@dataclass(frozen=True)
class Rate:
    """What a symbol costs where symbols are Gaussian: q^2 / (2 scale^2 ln 2) bits, and the norming constant's bits.

    Attributes:
        scale: standard deviation of the values.
        lagrangian: loss units per bit; 0 makes bits free.
    """

    scale: float
    lagrangian: float

    @property
    def shrinkage(self) -> float:
        """The bits' second derivative, in loss units: the pull towards zero is this times q."""
        return self.lagrangian / (math.log(2) * self.scale**2)

    def offsets(self, step: float) -> Float64[np.ndarray, "2"]:
        """Return the norming constant's cost, in loss units, on each of the two grids of a trellis."""
        reach = math.ceil(8 * self.scale / step) + 1
        k = np.arange(-reach, reach + 1)
        values = np.stack([k, k + 0.5]) * step
        return self.lagrangian * np.log2(np.exp(-0.5 * (values / self.scale) ** 2).sum(axis=1))


FREE = Rate(1.0, 0.0)


class FeedbackRounder:
    """Rounds coordinates, in order, to a trellis grid; those not yet rounded move to the minimum given the others.

    The cost of values q is (q - t)^T Q (q - t) / 2 + bits, t the targets. Given the error r of coordinate i, the best
    values of the later ones follow from the Cholesky factor U of Q^-1 = U^T U: they move by -r U_ij / U_ii, and the
    error has cost r^2 / (2 U_ii^2). One at a time this is Babai's rounding (Babai 1986; Frantar et al. 2023, "GPTQ",
    eq. 2). Here the best `SURVIVORS` partial roundings are kept (the M-algorithm: Anderson & Mohan 1984, "Sequential
    coding algorithms"), each with the state of its trellis (Marcellin & Fischer 1990), so that shaping of the error
    and the trellis's packing add up. Errors end up where the loss is flat.

    Args:
        metric: Q, symmetric and positive definite.
        index: step index of the grid.
        rate: what symbols cost beyond what Q holds of it (see `Rate.offsets`).

    Raises:
        ValueError: the metric is not positive definite.
    """

    def __init__(self, metric: Float64[np.ndarray, "d d"], index: int, rate: Rate) -> None:
        try:
            self._upper = np.linalg.cholesky(np.linalg.inv(metric)).T
        except np.linalg.LinAlgError as error:
            raise ValueError("the curvature is not positive semidefinite") from error
        self._index = index
        self._step = grid_scale(index)
        self._offsets = rate.offsets(self._step) if rate.lagrangian else np.zeros(2)
        self._state = 0
        self._k = np.zeros(0, dtype=np.int64)

    @property
    def rounded(self) -> int:
        """The number of coordinates that are rounded."""
        return len(self._k)

    def descend(self, gradient: Float64[np.ndarray, " free"]) -> Float64[np.ndarray, " free"]:
        """Return the inverse of Q, restricted to the coordinates that are not yet rounded, times a gradient."""
        upper = self._upper[self.rounded :, self.rounded :]
        return upper.T @ (upper @ gradient)

    def advance(self, targets: Float64[np.ndarray, " d"], count: int) -> Float64[np.ndarray, " d"]:
        """Round the next `count` coordinates; return the targets with their values, and with the later ones moved."""
        start, step = self.rounded, self._step
        moved = targets[None].copy()
        cost, state = np.zeros(1), np.array([self._state])
        chosen = np.empty((1, count), dtype=np.int64)
        for i in range(start, start + count):
            context = state & 1
            nearest = np.rint(moved[:, i] / step - context / 2).astype(np.int64)
            k = nearest[:, None] + np.array([0, -1, 1])
            error = (2 * k + context[:, None]) * (step / 2) - moved[:, i, None]
            total = cost[:, None] + 0.5 * (error / self._upper[i, i]) ** 2 + self._offsets[context][:, None]
            kept = np.argsort(total, axis=None, kind="stable")[:SURVIVORS]
            parent, error, k = kept // 3, error.ravel()[kept], k.ravel()[kept]
            cost, state = total.ravel()[kept], _NEXT_STATE[state[parent], k & 1]
            chosen = chosen[parent]
            chosen[:, i - start] = k
            moved = moved[parent]
            moved[:, i:] += error[:, None] * (self._upper[i, i:] / self._upper[i, i])
        self._k = np.concatenate([self._k, chosen[0]])
        self._state = int(state[0])
        return moved[0]

    def quantized(self) -> Quantized:
        """Return the symbols so far.

        Raises:
            ValueError: they are more than 65,536 levels apart.
        """
        reach = int(np.abs(self._k).max())
        if 2 * reach + 1 > MAX_LEVELS:
            raise ValueError(
                f"a step of {self._step:g} needs {2 * reach + 1} levels, more than {MAX_LEVELS}: enlarge it"
            )
        grid = TrellisGrid(self._index if reach else 0, 2 * reach + 1)
        return Quantized((self._k + reach).astype(np.int32), grid)


def damped(curvature: Float[np.ndarray, "d d"], damping: float, shrinkage: float = 0.0) -> Float64[np.ndarray, "d d"]:
    """Return the curvature with so many times its mean diagonal, and the shrinkage, added to the diagonal.

    Raises:
        ValueError: it is not finite.
    """
    if not np.isfinite(curvature).all():
        raise ValueError("the curvature must be finite")
    d = len(curvature)
    return curvature + (damping * np.trace(curvature) / d + shrinkage or 1.0) * np.eye(d)


def feedback_quantize(
    alpha: Float[np.ndarray, " d"], curvature: Float[np.ndarray, "d d"], step: float, rate: Rate = FREE
) -> Quantized:
    """Choose the symbols on a trellis grid that minimise (q - alpha)^T H (q - alpha) / 2 + bits, approximately.

    Args:
        alpha: coordinates.
        curvature: H, symmetric and positive semidefinite, in loss units per squared coordinate; it is damped.
        step: distance of the points of one of the trellis's two grids; the nearest that a message can hold is taken.
        rate: what symbols cost; by default bits are free, and the step alone decides how many there are.

    Raises:
        ValueError: alpha is not finite, or the curvature has another shape or is not positive semidefinite.
    """
    values = check_coordinates(alpha)
    if curvature.shape != (len(values), len(values)):
        raise ValueError(f"the curvature of {len(values)} coordinates must be a square matrix of that size")
    metric = damped(curvature, DAMPING, rate.shrinkage)
    rounder = FeedbackRounder(metric, step_index(step), rate)
    # Loss and bits together are least at (Q - shrinkage) alpha / Q.
    rounder.advance(values - rate.shrinkage * rounder.descend(values), len(values))
    return rounder.quantized()


def plan(alpha: Float[np.ndarray, " d"], curvature: Float[np.ndarray, "d d"], lagrangian: float) -> tuple[float, Rate]:
    """Return the step and the rate with which loss and bits together are least where the loss is quadratic.

    The scale is the root mean square of the values that it leads to, found by two rounds of iteration.

    Args:
        alpha, curvature: as in `feedback_quantize`.
        lagrangian: loss units per bit, > 0.
    """
    values = check_coordinates(alpha)
    rms = float(np.sqrt(np.mean(values**2))) or 1.0
    tried: dict[int, tuple[float, float, Rate]] = {}

    def cost(number: int) -> float:
        if number not in tried:
            tried[number] = _best_rate(values, curvature, _STEPS[number] * rms, _SCALE * rms, lagrangian)
        return tried[number][0]

    best, last = _FIRST, len(_STEPS) - 1
    for direction in (1, -1):
        while 0 <= best + direction <= last and cost(best + direction) < cost(best):
            best += direction
    cost(best)
    return tried[best][1:]


def _best_rate(
    values: Float64[np.ndarray, " d"], curvature: np.ndarray, step: float, scale: float, lagrangian: float
) -> tuple[float, float, Rate]:
    """The cost of a step at the better of two scales, the second being what the first one leads to."""
    best = (math.inf, step, Rate(scale, lagrangian))
    rate = best[2]
    for _ in range(2):
        quantized = feedback_quantize(values, curvature, step, rate)
        if quantized.codebook.levels == 1:
            break
        error = quantized.reconstruction - values
        total = 0.5 * float(error @ curvature @ error) + lagrangian * fit(quantized.symbols, quantized.codebook)[0]
        if total < best[0]:
            best = (total, step, rate)
        rate = Rate(float(np.sqrt(np.mean(quantized.reconstruction.astype(np.float64) ** 2))), lagrangian)
    return best
