"""Mixtures of the model with a fallback, and their limits."""

import math

import numpy as np
import pytest

from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID, excess_upper, mixture_excess, token_smoothing_range
from sublora.seeds import stream


@pytest.mark.parametrize("a", TOKEN_SMOOTHING_GRID)
def test_token_smoothing_range(a):
    vocab_size = 257
    low, high = token_smoothing_range(a, vocab_size)
    for p, limit in ((1.0, low), (0.0, high)):
        assert -math.log2((1 - a) * p + a / vocab_size) == pytest.approx(limit)
    assert high - low == pytest.approx(math.log2(1 + (1 - a) * vocab_size / a))


def test_mixture_is_the_mixture_and_obeys_its_limits():
    bits, known, lengths = np.array([0.0, 3.0, 20.0, 60.0]), np.array([8.0, 9.5, 7.0, 40.0]), np.array([1, 2, 3, 5])
    for weight in (0.5, 0.01):
        expected = (-np.log2((1 - weight) * 2.0**-bits + weight * 2.0**-known) - known) / lengths
        np.testing.assert_allclose(mixture_excess(bits, known, lengths, weight), expected, rtol=1e-12, atol=1e-15)


def test_mixture_of_long_and_impossible_documents():
    lengths = np.array([16, 10_000, 10_000, 16])
    known = 7.0 * lengths
    bits = np.array([1e9, 1e9, 1.0, np.inf])
    excess = mixture_excess(bits, known, lengths, 0.5)
    # What the model finds impossible costs the fallback code and log2(1/e), once.
    np.testing.assert_allclose(excess[[0, 1, 3]], 1 / lengths[[0, 1, 3]], rtol=1e-12)
    assert excess[2] + 7 == pytest.approx(2 / 10_000)
    assert excess.max() <= excess_upper(0.5, 16) + 1e-12
    assert excess_upper(0.25, 1) == 2


def test_mixture_adds_up_to_one():
    # All documents of three tokens over a vocabulary of four, from one model and one code.
    p, q = stream(12, "model").dirichlet(np.ones(4), size=2)
    documents = np.indices((4, 4, 4)).reshape(3, -1)
    bits, known = (-np.log2(weights[documents]).sum(axis=0) for weights in (p, q))
    values = mixture_excess(bits, known, np.full(64, 3), 0.1) + known / 3
    assert (2.0 ** (-3 * values)).sum() == pytest.approx(1.0)


def test_smoothing_illegal_input():
    bits, lengths = np.array([1.0]), np.array([1])
    for call in (
        lambda: token_smoothing_range(0.0, 10),
        lambda: token_smoothing_range(0.5, 0),
        lambda: excess_upper(1.0, 1),
        lambda: excess_upper(0.5, 0),
        lambda: mixture_excess(np.array([-1.0]), bits, lengths, 0.5),
        lambda: mixture_excess(np.array([np.nan]), bits, lengths, 0.5),
        lambda: mixture_excess(bits, np.array([-1.0]), lengths, 0.5),
        lambda: mixture_excess(bits, bits, np.array([0]), 0.5),
        lambda: mixture_excess(bits, bits, lengths, math.nan),
    ):
        with pytest.raises(ValueError):
            call()
