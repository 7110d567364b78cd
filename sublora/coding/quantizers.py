"""Scalar quantizers: uniform grids, optimal k-means, and the rate-distortion optimised ones of `rate_distortion`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import kmeans1d
import numpy as np
from jaxtyping import Float, Float32, Int32

from sublora.coding.codebooks import (
    MAX_CENTROIDS,
    MAX_LEVELS,
    STEP_INDICES,
    Centroids,
    Codebook,
    UniformGrid,
    grid_scale,
    nearest_scale_index,
)


@dataclass(frozen=True, eq=False)
class Quantized:
    """Symbols and the codebook that turns them into values."""

    symbols: Int32[np.ndarray, " d"]
    codebook: Codebook

    @property
    def reconstruction(self) -> Float32[np.ndarray, " d"]:
        """The values that a decoder gets, bit for bit."""
        return self.codebook.reconstruct(self.symbols)


def check_coordinates(alpha: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Return alpha as float64; raises ValueError if it is empty or not finite."""
    if alpha.size == 0:
        raise ValueError("there are no coordinates to quantize")
    values = alpha.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the coordinates are not all finite: the training run has diverged")
    return values


def step_index(step: float) -> int:
    """Return the index of the codable step nearest to `step` > 0."""
    return min(max(nearest_scale_index(step), STEP_INDICES[0]), STEP_INDICES[1])


def _on_uniform_grid(values: Float[np.ndarray, " d"], index: int, levels: int) -> Quantized:
    offset = (levels - 1) / 2
    symbols = np.clip(np.rint(values / grid_scale(index) + offset), 0, levels - 1).astype(np.int32)
    return Quantized(symbols, UniformGrid(index, levels))


def _squared_error(values: Float[np.ndarray, " d"], quantized: Quantized) -> float:
    with np.errstate(over="ignore"):
        return float(((quantized.reconstruction.astype(np.float64) - values) ** 2).sum())


def quantize_uniform(alpha: Float[np.ndarray, " d"], step: float) -> Quantized:
    """Round to the nearest multiple of a step, with as many levels as needed.

    The step itself is rounded to the nearest codable one, of which there are eight in an octave. Raises
    ValueError if that is more than 65,536 levels, or if `step` is not positive and finite.
    """
    values = check_coordinates(alpha)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be positive and finite, not {step}")
    index = step_index(step)
    reach = float(np.rint(np.abs(values).max() / grid_scale(index)))
    if 2 * reach + 1 > MAX_LEVELS:
        raise ValueError(f"a step of {step:g} needs {2 * reach + 1:.3g} levels, more than {MAX_LEVELS}: enlarge it")
    return _on_uniform_grid(values, index, 2 * int(reach) + 1)


def _best_uniform(values: Float[np.ndarray, " d"], levels: int) -> Quantized:
    """Return the grid of `levels` values around zero of least squared error among the codable steps."""
    largest = float(np.abs(values).max())
    if levels == 1 or largest == 0:
        return _on_uniform_grid(values, 0, levels)
    # A step that spans the largest value clips nothing; every octave below halves the range that is not clipped.
    top = step_index(max(2 * largest / (levels - 1), grid_scale(STEP_INDICES[0]))) + 1
    bottom = max(top - 8 * (3 + levels.bit_length()), STEP_INDICES[0])
    candidates = (_on_uniform_grid(values, index, levels) for index in range(bottom, min(top, STEP_INDICES[1]) + 1))
    return min(candidates, key=lambda quantized: _squared_error(values, quantized))


def on_centroids(values: Float[np.ndarray, " d"], centres: Float[np.ndarray, " levels"], allowed: float) -> Quantized:
    """Move every value to the nearest of some increasing centroids, which are rounded to multiples of a power of two.

    Rounding them to multiples of r adds r^2 / 12 to the mean squared error; r is the largest for which this is at
    most `allowed`, or 2^-20 of the mean square where that is larger. Centroids at which no value stands are left out.
    """
    largest = max(float(np.abs(values).max()), 1e-300)
    power = float(((values / largest) ** 2).mean())
    spacing = math.sqrt(12 * max(allowed / largest / largest, 2.0**-20 * power, 2.0**-60)) * largest
    exponent = max(math.floor(math.log2(spacing)), -200)
    integers = np.unique(np.rint(np.ldexp(centres, -exponent)).astype(np.int64))
    middles = np.ldexp((integers[1:] + integers[:-1]) / 2.0, exponent)
    used, symbols = np.unique(np.searchsorted(middles, values), return_inverse=True)
    return Quantized(symbols.astype(np.int32), Centroids(exponent, tuple(integers[used].tolist())))


def _best_kmeans(values: Float[np.ndarray, " d"], levels: int) -> Quantized:
    """Return the optimal clusters (Grønlund et al. 2017); coding their centroids adds at most 1 % to their error."""
    largest = max(float(np.abs(values).max()), 1e-300)
    clusters, centroids = kmeans1d.cluster(values / largest, min(levels, len(values), MAX_CENTROIDS))
    centres = np.array(centroids) * largest
    with np.errstate(over="ignore", under="ignore"):
        error = float(((centres[np.array(clusters)] - values) ** 2).mean())
    return on_centroids(values, centres, 0.01 * error)


QUANTIZERS: dict[str, Callable[[Float[np.ndarray, " d"], int], Quantized]] = {
    "uniform": _best_uniform,
    "kmeans": _best_kmeans,
}


def quantize(alpha: Float[np.ndarray, " d"], *, levels: int, method: str) -> Quantized:
    """Quantize d coordinates to at most `levels` values with least squared error.

    `method` is "uniform" (a grid around zero, whose step has 3 bits of mantissa) or "kmeans" (optimal clusters, whose
    centroids are coded). Raises ValueError for coordinates that are not finite and for an unknown method.
    """
    if method not in QUANTIZERS:
        raise ValueError(f"unknown quantizer {method!r}: choose one of {', '.join(QUANTIZERS)}")
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels must lie in 1..{MAX_LEVELS}, not {levels}")
    return QUANTIZERS[method](check_coordinates(alpha), levels)
