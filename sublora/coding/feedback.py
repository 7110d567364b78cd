"""Quantization with error feedback: what one coordinate loses by rounding, the later ones make up for. Torch-free.

Suffixes: d coordinates, N rows of the curvature's factor.
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
# Coordinates that the recursion over the curvature takes at once.
_BLOCK = 64
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

    The cost of values q is (q - t)^T Q (q - t) / 2 + bits, t the targets and Q = F^T F + c I. One at a time this is
    Babai's rounding (Babai 1986; Frantar et al. 2023, "GPTQ", eq. 2). Here the best `SURVIVORS` partial roundings are
    kept (the M-algorithm: Anderson & Mohan 1984, "Sequential coding algorithms"), each with the state of its trellis
    (Marcellin & Fischer 1990), so that shaping of the error and the trellis's packing add up. Errors end up where the
    loss is flat.

    A matrix of d^2 numbers is never made. What the rounded coordinates' errors e leave to make up for is y = F e, one
    number per row of F. With A_i = c I + f_i f_i^T + f_{i+1} f_{i+1}^T + ... over F's columns, coordinate i is best at
    t_i - g_i^T y, g_i = A_i^-1 f_i, and an error r from there costs r^2 c / (2 (1 - f_i^T g_i)) if all later ones make
    up for it (Woodbury's identity).

    Args:
        factor: F. Of more rows than columns, an equivalent square one is made.
        diagonal: c > 0.
        index: step index of the grid.
        rate: what symbols cost beyond what Q holds of it (see `Rate.offsets`).
    """

    def __init__(self, factor: Float64[np.ndarray, "N d"], diagonal: float, index: int, rate: Rate) -> None:
        if len(factor) > factor.shape[1]:
            factor = np.asarray(np.linalg.qr(factor, mode="r"))
        self._columns = np.ascontiguousarray(factor.T)
        self._diagonal = diagonal
        self._gains, self._curvatures = _gains(self._columns, diagonal)
        # A of the coordinates that are free.
        self._free = self._columns.T @ self._columns + diagonal * np.eye(len(factor))
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
        free = self._columns[self.rounded :]
        return (gradient - free @ np.linalg.solve(self._free, gradient @ free)) / self._diagonal

    def advance(self, targets: Float64[np.ndarray, " d"], count: int) -> Float64[np.ndarray, " d"]:
        """Round the next `count` coordinates; return the targets with their values, and with the later ones moved."""
        start, step = self.rounded, self._step
        left = np.zeros((1, self._columns.shape[1]))
        cost, state = np.zeros(1), np.array([self._state])
        # What was kept at each coordinate, and of which earlier rounding it is the continuation.
        symbols, points = np.zeros((count, SURVIVORS), np.int64), np.zeros((count, SURVIVORS))
        parents = np.zeros((count, SURVIVORS), np.int64)
        for i in range(start, start + count):
            context = state & 1
            best = targets[i] - left @ self._gains[i]
            nearest = np.rint(best / step - context / 2).astype(np.int64)
            k = nearest[:, None] + np.array([0, -1, 1])
            value = (2 * k + context[:, None]) * (step / 2)
            total = cost[:, None] + 0.5 * self._curvatures[i] * (value - best[:, None]) ** 2
            total += self._offsets[context][:, None]
            kept = np.argsort(total, axis=None, kind="stable")[:SURVIVORS]
            parent, value, k = kept // 3, value.ravel()[kept], k.ravel()[kept]
            cost, state = total.ravel()[kept], _NEXT_STATE[state[parent], k & 1]
            n, row = len(kept), i - start
            symbols[row, :n], points[row, :n], parents[row, :n] = k, value, parent
            left = left[parent] + (value - targets[i])[:, None] * self._columns[i]
        stop = start + count
        done = self._columns[start:stop]
        self._free -= done.T @ done
        path = np.zeros(count, np.int64)
        for row in range(count - 1, 0, -1):
            path[row - 1] = parents[row, path[row]]
        rows = np.arange(count)
        self._k = np.concatenate([self._k, symbols[rows, path]])
        self._state = int(state[0])
        moved = targets.copy()
        moved[start:stop] = points[rows, path]
        moved[stop:] -= self._columns[stop:] @ np.linalg.solve(self._free, left[0])
        return moved

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


def _gains(
    columns: Float64[np.ndarray, "d N"], diagonal: float
) -> tuple[Float64[np.ndarray, "d N"], Float64[np.ndarray, " d"]]:
    """Return g_i, and the cost's curvature along coordinate i where all later ones make up for it.

    From the last coordinate to the first, A's inverse S is that of a recursive least squares filter. A block B of
    columns is taken at once: of the Cholesky factor L of I + B^T S B, the squared diagonal is 1 + f^T S f of the
    columns one after the other, and S B L^-T holds their S f over L's diagonal.
    """
    d, n = columns.shape
    gains, curvatures = np.empty((d, n)), np.empty(d)
    inverse = np.eye(n) / diagonal
    for stop in range(d, 0, -_BLOCK):
        block = columns[max(0, stop - _BLOCK) : stop][::-1]
        product = block @ inverse
        lower = np.linalg.cholesky(np.eye(len(block)) + product @ block.T)
        normed = np.linalg.solve(lower, product)
        scale = lower.diagonal()
        rows = slice(max(0, stop - _BLOCK), stop)
        gains[rows] = (normed / scale[:, None])[::-1]
        curvatures[rows] = diagonal * scale[::-1] ** 2
        inverse -= normed.T @ normed
    return gains, curvatures


def damping(factor: Float[np.ndarray, "N d"], share: float, shrinkage: float = 0.0) -> float:
    """Return so many times the mean diagonal of F^T F, plus the shrinkage: what is added to the diagonal; 1 for 0.

    Raises:
        ValueError: the factor is not finite.
    """
    if not np.isfinite(factor).all():
        raise ValueError("the curvature must be finite")
    return share * float(np.square(factor).sum()) / factor.shape[1] + shrinkage or 1.0


def feedback_quantize(
    alpha: Float[np.ndarray, " d"], factor: Float[np.ndarray, "N d"], step: float, rate: Rate = FREE
) -> Quantized:
    """Choose the symbols on a trellis grid that minimise (q - alpha)^T H (q - alpha) / 2 + bits, approximately.

    Args:
        alpha: coordinates.
        factor: F with F^T F = H, the curvature in loss units per squared coordinate; it is damped.
        step: distance of the points of one of the trellis's two grids; the nearest that a message can hold is taken.
        rate: what symbols cost; by default bits are free, and the step alone decides how many there are.

    Raises:
        ValueError: alpha or the factor is not finite, or they have different numbers of coordinates.
    """
    values = check_coordinates(alpha)
    if factor.shape[1] != len(values):
        raise ValueError(f"the curvature's factor has {factor.shape[1]} columns for {len(values)} coordinates")
    rounder = FeedbackRounder(factor, damping(factor, DAMPING, rate.shrinkage), step_index(step), rate)
    # Loss and bits together are least at (Q - shrinkage) alpha / Q.
    rounder.advance(values - rate.shrinkage * rounder.descend(values), len(values))
    return rounder.quantized()


def plan(alpha: Float[np.ndarray, " d"], factor: Float[np.ndarray, "N d"], lagrangian: float) -> tuple[float, Rate]:
    """Return the step and the rate with which loss and bits together are least where the loss is quadratic.

    The scale is the root mean square of the values that it leads to, found by two rounds of iteration.

    Args:
        alpha: coordinates at which the loss is least.
        factor: of the curvature there, as in `feedback_quantize`.
        lagrangian: price of a bit in the unit of the loss, > 0.
    """
    values = check_coordinates(alpha)
    rms = float(np.sqrt(np.mean(values**2))) or 1.0
    tried: dict[int, tuple[float, float, Rate]] = {}

    def cost(number: int) -> float:
        if number not in tried:
            tried[number] = _best_rate(values, factor, _STEPS[number] * rms, _SCALE * rms, lagrangian)
        return tried[number][0]

    best, last = _FIRST, len(_STEPS) - 1
    for direction in (1, -1):
        while 0 <= best + direction <= last and cost(best + direction) < cost(best):
            best += direction
    cost(best)
    return tried[best][1:]


def _best_rate(
    values: Float64[np.ndarray, " d"], factor: np.ndarray, step: float, scale: float, lagrangian: float
) -> tuple[float, float, Rate]:
    """The cost of a step at the better of two scales, the second being what the first one leads to."""
    best = (math.inf, step, Rate(scale, lagrangian))
    rate = best[2]
    for _ in range(2):
        quantized = feedback_quantize(values, factor, step, rate)
        if quantized.codebook.levels == 1:
            break
        error = quantized.reconstruction - values
        total = (
            0.5 * float(np.square(factor @ error).sum()) + lagrangian * fit(quantized.symbols, quantized.codebook)[0]
        )
        if total < best[0]:
            best = (total, step, rate)
        rate = Rate(float(np.sqrt(np.mean(quantized.reconstruction.astype(np.float64) ** 2))), lagrangian)
    return best
