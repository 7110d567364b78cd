"""Rate-distortion optimised quantization: coordinates move to where the loss and the bits together are least.

The objective is sum_i curvature_i / 2 (q_i - alpha_i)^2 + lagrangian * bits. Two steps alternate, as in Chou,
Lookabaugh & Gray (1989, "Entropy-constrained vector quantization"): fit the entropy model to the symbols,
move the symbols given its bits.
"""

import math

import numpy as np
from jaxtyping import Float, Float64, Int64

from sublora.coding.bits import BitWriter
from sublora.coding.codebooks import MAX_LEVELS, Grid, TrellisGrid, UniformGrid, write_codebook
from sublora.coding.entropy import Static, TableModel, fit
from sublora.coding.quantizers import Quantized, check_coordinates, step_index
from sublora.coding.range_coder import PRECISION
from sublora.coding.trellis import cheapest_branches

GRIDS: dict[str, type[Grid]] = {"scalar": UniformGrid, "trellis": TrellisGrid}
_ROUNDS = 6


def _bits_by_k(quantized: Quantized, model: TableModel, half: int) -> Float64[np.ndarray, "contexts width"]:
    """Return the bits of k = -half..half in every quantizer of the grid, 24 beyond the coded levels."""
    bits = PRECISION - np.log2(model.tables(quantized.codebook))
    missing = half - quantized.codebook.levels // 2
    return np.pad(bits, ((0, 0), (missing, missing)), constant_values=float(PRECISION))


def _candidates(
    values: Float64[np.ndarray, " d"], grid: Grid, context: int, parity: int | None, half: int
) -> Int64[np.ndarray, "d candidates"]:
    """Return the nearest k of a parity (of any, if None), its neighbours, and the one at zero, within -half..half."""
    position = values / grid.step - context / 2
    spacing, offset = (1, 0) if parity is None else (2, parity)
    lowest, highest = -((half + offset) // spacing), (half - offset) // spacing
    near = np.clip(np.rint((position - offset) / spacing).astype(np.int64), lowest, highest)
    steps = np.stack([near, np.maximum(near - 1, lowest), np.minimum(near + 1, highest), np.zeros_like(near)], axis=1)
    return spacing * steps + offset


def _move(
    values: Float64[np.ndarray, " d"],
    curvature: Float64[np.ndarray, " d"],
    lagrangian: float,
    grid: Grid,
    bits: Float64[np.ndarray, "contexts width"],
) -> Int64[np.ndarray, " d"]:
    """Return the k of least objective for every coordinate, given the bits of every k."""
    half = bits.shape[1] // 2
    trellis = isinstance(grid, TrellisGrid)
    branches = [(context, parity) for context in (0, 1) for parity in (0, 1)] if trellis else [(0, None)]
    rows = np.arange(len(values))
    costs, chosen = [], []
    for context, parity in branches:
        k = _candidates(values, grid, context, parity, half)
        error = (2 * k + context) * (grid.step / 2) - values[:, None]
        cost = 0.5 * curvature[:, None] * error**2 + lagrangian * bits[context][k + half]
        best = cost.argmin(axis=1)
        costs.append(cost[rows, best])
        chosen.append(k[rows, best])
    if not trellis:
        return chosen[0]
    return np.stack(chosen, axis=1)[rows, cheapest_branches(np.stack(costs, axis=1))]


def _optimise(
    values: Float64[np.ndarray, " d"],
    curvature: Float64[np.ndarray, " d"],
    lagrangian: float,
    kind: type[Grid],
    index: int,
) -> tuple[float, Quantized]:
    """Return the objective and the symbols for one step, after alternating until nothing improves."""
    grid = kind(index, 1)
    half = int(np.ceil(np.abs(values).max() / grid.step)) + 2
    if 2 * half + 1 > MAX_LEVELS:
        raise ValueError("the lagrangian asks for more than 65,536 levels: take a larger one")
    bits = np.zeros((2 if kind is TrellisGrid else 1, 2 * half + 1))
    best: tuple[float, Quantized] | None = None
    for _ in range(_ROUNDS):
        k = _move(values, curvature, lagrangian, grid, bits)
        reach = int(np.abs(k).max())
        quantized = Quantized((k + reach).astype(np.int32), kind(index if reach else 0, 2 * reach + 1))
        objective = float((0.5 * curvature * (quantized.reconstruction - values) ** 2).sum())
        side = BitWriter()
        write_codebook(side, quantized.codebook)
        if reach == 0:
            total = objective + lagrangian * side.length
            return (total, quantized) if best is None or total < best[0] else best
        estimated, _, model = fit(quantized.symbols, quantized.codebook)
        total = objective + lagrangian * (side.length + estimated)
        if best is not None and total >= best[0] * (1 - 1e-6):
            break
        best = (total, quantized)
        if not isinstance(model, TableModel):  # the adaptive model ends with the frequencies of all symbols
            model = Static(tuple((2 * np.bincount(quantized.symbols, minlength=2 * reach + 1) + 1).tolist()))
        bits = _bits_by_k(quantized, model, half)
    assert best is not None
    return best


def rate_distortion_quantize(
    alpha: Float[np.ndarray, " d"],
    curvature: Float[np.ndarray, " d"],
    lagrangian: float,
    *,
    grid: str = "trellis",
    step: float | None = None,
) -> Quantized:
    """Choose d symbols that minimise sum 0.5 * curvature * (q - alpha)^2 + lagrangian * bits, approximately.

    Arguments: `curvature`, the diagonal of the loss's second derivative (>= 0, loss units per squared coordinate);
    `lagrangian` > 0, loss units per bit; `grid`, "scalar" (entropy-constrained scalar quantization with its dead zone)
    or "trellis" (about 0.2 bits a coordinate shorter at the same error; some 10 microseconds and 256 bytes a coordinate
    in each of a few dozen passes); `step`, searched if it is not given. Raises ValueError for illegal arguments.
    """
    values = check_coordinates(alpha)
    weights = curvature.astype(np.float64)
    if weights.shape != values.shape or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("curvature must be finite, not negative, and as long as alpha")
    if not (math.isfinite(lagrangian) and lagrangian > 0):
        raise ValueError(f"lagrangian must be positive and finite, not {lagrangian}")
    if grid not in GRIDS:
        raise ValueError(f"unknown grid {grid!r}: choose one of {', '.join(GRIDS)}")
    kind = GRIDS[grid]
    if step is not None:
        return _optimise(values, weights, lagrangian, kind, step_index(step))[1]
    largest, mean = float(np.abs(values).max()), float(weights.mean())
    if largest == 0 or mean == 0:
        return Quantized(np.zeros(len(values), dtype=np.int32), kind(0, 1))
    # At high rate the error of a step s costs curvature s^2 / 24, and a bit is worth ln 2 / 12 curvature s^2 of it.
    # The two grids of a trellis, each of step s, together make one of step s / 2.
    ideal = math.sqrt(12 * lagrangian / (math.log(2) * mean))
    index = step_index(min(max(ideal * (2 if grid == "trellis" else 1), 4 * largest / MAX_LEVELS), 4 * largest))
    best = _optimise(values, weights, lagrangian, kind, index)
    for direction in (-1, 1):
        while (neighbour := _optimise(values, weights, lagrangian, kind, index + direction))[0] < best[0]:
            best, index = neighbour, index + direction
    return best[1]
