"""Quantizers against brute force, rate-distortion theory, and perturbations of their own solutions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sublora.coding.codebooks import Centroids, Grid, TrellisGrid, grid_scale, nearest_scale_index
from sublora.coding.entropy import fit
from sublora.coding.quantizers import QUANTIZERS, quantize, quantize_uniform
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.coding.trellis import NEXT_STATE, STATES, cheapest_branches, trellis_states
from sublora.seeds import stream


def mean_squared_error(alpha: np.ndarray, reconstruction: np.ndarray) -> float:
    return float(np.mean((reconstruction.astype(np.float64) - alpha) ** 2))


def test_grid_scales_are_eight_to_the_octave_and_exact() -> None:
    scales = [grid_scale(index) for index in range(-20, 20)]
    assert all(low < high <= low * 1.125 for low, high in itertools.pairwise(scales))
    assert grid_scale(0) == 1 and grid_scale(-8) == 0.5 and grid_scale(11) == 2.75
    assert all(nearest_scale_index(scale) == index for index, scale in enumerate(scales, -20))


@pytest.mark.parametrize("levels", [1, 2, 3, 8, 11])
def test_uniform_grid_has_zero_or_half_steps_and_the_best_step(levels: int) -> None:
    alpha = stream(0, "uniform").standard_normal(400)
    quantized = quantize(alpha, levels=levels, method="uniform")
    grid = quantized.codebook
    assert isinstance(grid, Grid)
    values = np.unique(quantized.reconstruction)
    assert len(values) <= levels
    assert (0.0 in values) == (levels % 2 == 1)
    offsets = values / grid.step - (0.5 if levels % 2 == 0 else 0)
    assert np.array_equal(offsets, np.rint(offsets))
    error = mean_squared_error(alpha, quantized.reconstruction)
    for step in np.exp(np.linspace(-5, 2, 200)):  # no step is much better than the coded one
        limit = (levels - 1) / 2
        k = np.clip(np.rint(alpha / step + limit) - limit, -limit, limit)
        assert error <= 1.02 * mean_squared_error(alpha, k * step)


def test_given_step_is_used() -> None:
    alpha = stream(0, "step").standard_normal(300)
    quantized = quantize_uniform(alpha, 0.3)
    assert isinstance(quantized.codebook, Grid)
    assert quantized.codebook.step == pytest.approx(0.3, rel=0.0625)
    assert np.abs(quantized.reconstruction - alpha).max() <= quantized.codebook.step / 2 + 1e-6
    with pytest.raises(ValueError, match="enlarge"):
        quantize_uniform(alpha, 1e-6)


@pytest.mark.parametrize("levels", [1, 2, 5, 11])
def test_kmeans_is_nearly_optimal_in_spite_of_rounded_centroids(levels: int) -> None:
    alpha = stream(0, "kmeans").standard_normal(150)
    quantized = quantize(alpha, levels=levels, method="kmeans")
    error = mean_squared_error(alpha, quantized.reconstruction)
    ordered = np.sort(alpha)  # exact dynamic programming
    prefix, squares = np.concatenate([[0], np.cumsum(ordered)]), np.concatenate([[0], np.cumsum(ordered**2)])
    size = len(ordered)

    def spread(start: int, end: int) -> float:
        return squares[end] - squares[start] - (prefix[end] - prefix[start]) ** 2 / (end - start)

    best = [0.0] + [math.inf] * size
    for _ in range(levels):
        best = [0.0] + [min(best[i] + spread(i, end) for i in range(end)) for end in range(1, size + 1)]
    assert best[size] / size * (1 - 1e-6) <= error <= 1.02 * best[size] / size
    assert isinstance(quantized.codebook, Centroids)
    assert max(map(abs, quantized.codebook.integers)) < 2**10


def test_unknown_quantizer_is_named() -> None:
    assert set(QUANTIZERS) == {"uniform", "kmeans"}
    with pytest.raises(ValueError, match="choose one of"):
        quantize(np.ones(3), levels=3, method="vector")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_viterbi_finds_the_cheapest_path(seed: int, count: int) -> None:
    costs = stream(seed, "costs").random((count, 4))
    branches = cheapest_branches(costs)
    states = trellis_states((branches & 1).astype(np.uint8))
    assert np.array_equal(states & 1, branches >> 1)
    found = costs[np.arange(count), branches].sum()
    for path in range(2**count):
        state, total = 0, 0.0
        for index in range(count):
            parity = path >> index & 1
            total += costs[index, 2 * (state & 1) + parity]
            state = NEXT_STATE[state][parity]
        assert found <= total + 1e-12


def test_every_state_has_two_predecessors() -> None:
    assert sorted(state for row in NEXT_STATE for state in row) == sorted(2 * list(range(STATES)))


def entropy_bound(alpha: np.ndarray, error: float) -> float:
    """Return the rate-distortion function of a Gaussian source with the sample's variance, in bits."""
    return len(alpha) * 0.5 * math.log2(float(np.mean(alpha**2)) / error)


@pytest.mark.parametrize("lagrangian", [0.01, 0.1])
def test_scalar_is_a_quarter_of_a_bit_above_the_rate_distortion_function(lagrangian: float) -> None:
    """The gap of a uniform grid is log2(pi e / 6) / 2 at high rate (Gish & Pierce 1968), and less at low rate."""
    alpha = stream(1, "gaussian").standard_normal(3000)
    quantized = rate_distortion_quantize(alpha, np.ones(3000), lagrangian, grid="scalar")
    bits = fit(quantized.symbols, quantized.codebook)[0]
    gap = bits - entropy_bound(alpha, mean_squared_error(alpha, quantized.reconstruction))
    model_bits = 20
    assert 0 < gap <= 3000 * 0.5 * math.log2(math.pi * math.e / 6) + model_bits


def test_trellis_is_within_a_tenth_of_a_bit_of_the_rate_distortion_function() -> None:
    alpha = stream(1, "gaussian").standard_normal(2000)
    quantized = rate_distortion_quantize(alpha, np.ones(2000), 0.03, step=0.75)
    assert isinstance(quantized.codebook, TrellisGrid)
    bits = fit(quantized.symbols, quantized.codebook)[0]
    assert 0 < bits - entropy_bound(alpha, mean_squared_error(alpha, quantized.reconstruction)) <= 0.07 * 2000


@pytest.mark.parametrize("grid", ["scalar", "trellis"])
def test_a_dearer_bit_means_fewer_bits(grid: str) -> None:
    alpha = stream(2, "gaussian").standard_normal(150)
    bits = []
    for lagrangian in (0.001, 0.01, 0.1, 1.0, 100.0):
        quantized = rate_distortion_quantize(alpha, np.ones(150), lagrangian, grid=grid)
        bits.append(0.0 if quantized.codebook.levels == 1 else fit(quantized.symbols, quantized.codebook)[0])
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 600 and bits[-1] == 0


def test_bits_go_where_the_curvature_is() -> None:
    alpha = stream(3, "gaussian").standard_normal(600)
    curvature = np.where(np.arange(600) < 300, 1.0, 0.01)
    quantized = rate_distortion_quantize(alpha, curvature, 0.02, grid="scalar")
    error = (quantized.reconstruction - alpha) ** 2
    assert error[300:].mean() > 3 * error[:300].mean()
    zeros = quantized.reconstruction == 0
    assert zeros[300:].mean() > 2 * zeros[:300].mean()


def test_scalar_solution_cannot_be_improved_by_moving_one_coordinate() -> None:
    alpha = stream(4, "gaussian").standard_normal(300)
    lagrangian = 0.05
    quantized = rate_distortion_quantize(alpha, np.ones(300), lagrangian, grid="scalar")
    grid = quantized.codebook
    assert isinstance(grid, Grid)
    model = fit(quantized.symbols, grid)[2]
    cost = 24 - np.log2(model.tables(grid)[0])
    values = grid.positions()[0] * grid.step / 2
    objective = 0.5 * (values[None] - alpha[:, None]) ** 2 + lagrangian * cost[None]
    chosen = objective[np.arange(300), quantized.symbols]
    assert chosen.sum() <= objective.min(axis=1).sum() * 1.005


def test_illegal_arguments_are_refused() -> None:
    alpha = np.ones(4)
    for curvature, lagrangian, grid in (
        (-np.ones(4), 0.1, "scalar"),
        (np.ones(4), 0.0, "scalar"),
        (np.ones(4), 0.1, "hexagonal"),
    ):
        with pytest.raises(ValueError, match=r"curvature|lagrangian|grid"):
            rate_distortion_quantize(alpha, curvature, lagrangian, grid=grid)
