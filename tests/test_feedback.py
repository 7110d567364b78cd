"""Error feedback: it minimises what it says, degrades to plain rounding, and refuses what is no curvature."""

import numpy as np
import pytest

from sublora import seeds
from sublora.coding.feedback import feedback_quantize
from sublora.coding.quantizers import quantize_uniform


def spiky(d, seed=0):
    rng = seeds.stream(seed, "curvature")
    factor = rng.standard_normal((d, d // 20))
    return factor @ factor.T + 0.01 * np.eye(d), rng.standard_normal(d)


def loss(quantized, alpha, curvature):
    error = quantized.reconstruction - alpha
    return float(error @ curvature @ error)


def test_errors_go_where_the_loss_is_flat():
    curvature, alpha = spiky(200)
    step = 0.5
    plain = loss(quantize_uniform(alpha, step), alpha, curvature)
    assert loss(feedback_quantize(alpha, curvature, step), alpha, curvature) < 0.2 * plain


def test_the_free_coordinates_move_to_the_conditional_minimum():
    # Two coordinates: the second must be rounded from where the first one's error pushes it.
    curvature = np.array([[1.0, 0.9], [0.9, 1.0]])
    alpha = np.array([0.4, 0.3])
    damping = 0.03
    step = quantize_uniform(alpha, 1.0).codebook.step
    first = np.round(alpha[0] / step) * step
    moved = alpha[1] - 0.9 / (1 + damping) * (first - alpha[0])
    quantized = feedback_quantize(alpha, curvature, 1.0)
    assert quantized.reconstruction == pytest.approx([first, np.round(moved / step) * step])


def test_without_correlations_it_is_plain_rounding():
    _, alpha = spiky(50)
    quantized = feedback_quantize(alpha, np.diag(np.arange(1.0, 51.0)), 0.3)
    assert np.array_equal(quantized.reconstruction, quantize_uniform(alpha, 0.3).reconstruction)


def test_a_flat_loss_is_plain_rounding():
    _, alpha = spiky(50)
    quantized = feedback_quantize(alpha, np.zeros((50, 50)), 0.3)
    assert np.array_equal(quantized.reconstruction, quantize_uniform(alpha, 0.3).reconstruction)


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), -np.eye(2)])
def test_what_is_no_curvature_is_refused(bad):
    with pytest.raises(ValueError, match="curvature"):
        feedback_quantize(np.ones(2), bad, 0.5)
