"""Draws are defined bit for bit, and uniform."""

import hashlib

import numpy as np
import pytest

from sublora.draws import shuffled, uniform_draw


def test_the_first_draws_by_hand():
    digest = hashlib.sha256(b"units\x1fseed" + (0).to_bytes(8, "little")).digest()
    by_hand = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") % 1000 for i in range(4)]
    assert uniform_draw("units", b"seed", 1000, 4).tolist() == by_hand


def test_golden():
    """These values may never change: certificates depend on them."""
    assert uniform_draw("units", b"\x01\x02", 22_941, 6).tolist() == GOLDEN
    assert shuffled("split", b"\x00", 8).tolist() == GOLDEN_ORDER


GOLDEN = [4686, 21252, 5563, 4669, 8841, 3772]
GOLDEN_ORDER = [6, 5, 7, 0, 2, 3, 1, 4]


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_uniform(n):
    counts = np.bincount(uniform_draw("units", b"x", n, 20_000), minlength=n)
    assert len(counts) == n
    # Chi-square of n - 1 degrees of freedom, six standard deviations.
    chi2 = float(((counts - 20_000 / n) ** 2 / (20_000 / n)).sum())
    assert chi2 <= n - 1 + 6 * np.sqrt(2 * max(n - 1, 0)) + 1e-9


def test_labels_and_seeds_are_independent():
    draws = [uniform_draw(*key, 1000, 4000) for key in (("a", b"x"), ("b", b"x"), ("a", b"y"))]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert (one == other).mean() < 0.01


def test_every_place_is_equally_likely_after_shuffling():
    first = [int(shuffled("split", seed.to_bytes(2, "big"), 5)[0]) for seed in range(4000)]
    assert np.abs(np.bincount(first, minlength=5) / 4000 - 0.2).max() < 0.03
    assert sorted(shuffled("split", b"x", 100).tolist()) == list(range(100))


def test_nothing_to_draw_from():
    with pytest.raises(ValueError, match="nothing to draw from"):
        uniform_draw("units", b"", 0, 1)
