"""Error feedback: it minimises what it says, goes on where it stopped, and refuses what is no curvature."""

import itertools

import numpy as np
import pytest

from sublora import seeds
from sublora.coding.codebooks import grid_scale
from sublora.coding.feedback import FREE, FeedbackRounder, Rate, damping, feedback_quantize, plan
from sublora.coding.quantizers import step_index
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.coding.trellis import NEXT_STATE


def spiky(d, seed=0):
    rng = seeds.stream(seed, "curvature")
    factor = rng.standard_normal((d, d // 20)).T
    return np.concatenate([factor, 0.1 * np.eye(d)]), rng.standard_normal(d)


def loss(quantized, alpha, factor):
    return float(np.square(factor @ (quantized.reconstruction - alpha)).sum()) / 2


def test_errors_go_where_the_loss_is_flat():
    factor, alpha = spiky(200)
    step = 0.5
    plain = rate_distortion_quantize(alpha, np.ones(200), 1e-6, step=step)
    assert loss(feedback_quantize(alpha, factor, step), alpha, factor) < 0.1 * loss(plain, alpha, factor)


def trellis_values(k, step):
    state, values = 0, []
    for symbol in k:
        values.append((symbol + (state & 1) / 2) * step)
        state = NEXT_STATE[state][symbol & 1]
    return np.array(values)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_symbols_are_much_better(seed):
    rng = seeds.stream(seed, "small")
    factor = rng.standard_normal((5, 5)).T
    metric, targets, step = factor.T @ factor + 0.1 * np.eye(5), rng.standard_normal(5), grid_scale(0)
    rounder = FeedbackRounder(factor, 0.1, 0, FREE)
    rounder.advance(targets, 5)
    error = rounder.quantized().reconstruction - targets
    found = float(error @ metric @ error) / 2
    best = np.inf
    for k in itertools.product(range(-4, 5), repeat=5):
        error = trellis_values(k, step) - targets
        best = min(best, float(error @ metric @ error) / 2)
    assert best - 1e-9 <= found <= 1.05 * best


def test_the_free_coordinates_move_to_the_conditional_minimum():
    factor, targets = spiky(40)
    metric = factor.T @ factor + 0.02 * np.eye(40)
    rounder = FeedbackRounder(factor, 0.02, step_index(0.7), FREE)
    moved = rounder.advance(targets, 15)
    error = moved - targets
    assert np.allclose(error[15:], -np.linalg.solve(metric[15:, 15:], metric[15:, :15] @ error[:15]))
    gradient = seeds.stream(0, "gradient").standard_normal(25)
    assert np.allclose(rounder.descend(gradient), np.linalg.solve(metric[15:, 15:], gradient))


def test_rounding_goes_on_where_it_stopped():
    """The trellis's state and the values of earlier blocks are kept."""
    factor, targets = spiky(60)
    rounder = FeedbackRounder(factor, 0.02, step_index(0.7), FREE)
    moved = targets
    for count in (1, 20, 39):
        moved = rounder.advance(moved, count)
    assert np.array_equal(rounder.quantized().reconstruction, moved.astype(np.float32))


def test_a_dearer_bit_means_smaller_values():
    factor, alpha = spiky(100)
    sizes = [
        float(np.abs(feedback_quantize(alpha, factor, 0.5, Rate(0.7, lagrangian)).reconstruction).sum())
        for lagrangian in (0.0, 0.01, 0.1, 1e6)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0


def test_the_offsets_complete_a_probability():
    rate, step = Rate(0.8, 2.0), 0.5
    for context, offset in enumerate(rate.offsets(step)):
        q = (np.arange(-60, 61) + context / 2) * step
        bits = (rate.shrinkage * q**2 / 2 + offset) / rate.lagrangian
        assert np.exp2(-bits).sum() == pytest.approx(1)


def test_the_plan_follows_the_price():
    factor, alpha = spiky(60)
    cheap, dear = (plan(alpha, factor, price) for price in (1e-3, 1e-1))
    assert cheap[0] < dear[0]
    assert cheap[1].scale > dear[1].scale
    assert plan(np.zeros(60), factor, 0.1)[0] > 0


def test_a_flat_loss_is_plain_rounding():
    _, alpha = spiky(50)
    quantized = feedback_quantize(alpha, np.zeros((50, 50)), 0.3)
    plain = rate_distortion_quantize(alpha, np.ones(50), 1e-6, step=0.3)
    assert loss(quantized, alpha, np.eye(50)) == pytest.approx(loss(plain, alpha, np.eye(50)), rel=0.02)


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), -np.full((2, 2), np.inf)])
def test_what_is_no_curvature_is_refused(bad):
    with pytest.raises(ValueError, match="curvature"):
        feedback_quantize(np.ones(2), bad, 0.5)


def test_damping_is_a_share_of_the_mean():
    assert damping(np.diag([1.0, 3.0]), 0.5, 0.25) == pytest.approx(0.5 * 5 + 0.25)
    assert damping(np.zeros((2, 2)), 0.5) == 1.0


@pytest.mark.parametrize("rows", [7, 150])
def test_errors_cost_what_the_cholesky_factor_of_the_inverse_says(rows):
    """The textbook form, with all d^2 numbers: U^T U is the inverse of the metric (GPTQ, algorithm 1)."""
    rng = seeds.stream(rows, "factor")
    factor = rng.standard_normal((rows, 140))
    upper = np.linalg.cholesky(np.linalg.inv(factor.T @ factor + 0.3 * np.eye(140))).T
    rounder = FeedbackRounder(factor, 0.3, 0, FREE)
    assert np.allclose(rounder._curvatures, 1 / upper.diagonal() ** 2)
    moved = rounder.advance(targets := rng.standard_normal(140), 1)
    assert np.allclose(moved[1:] - targets[1:], (moved[0] - targets[0]) * upper[0, 1:] / upper[0, 0])
