"""`sublora.bound`: the one call for people who have losses."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import beta, binom

import sublora
from sublora.inequalities import hoeffding, nats
from sublora.seeds import stream


def test_importing_it_loads_no_model_library():
    code = (
        "import sys, sublora; sublora.bound; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("wrong", [0, 3, 60, 500])
def test_on_errors_it_is_near_the_exact_bound_and_below_hoeffding(wrong):
    errors = np.repeat([0, 1], [1000 - wrong, wrong])
    exact = beta.isf(0.05, wrong + 1, 1000 - wrong)
    found = sublora.bound(errors, upper=1.0, lower=0.0)
    assert exact <= found < hoeffding(errors.astype(float), lower=0.0, upper=1.0, nats=nats(0, 0.025))
    assert found < exact + 0.018
    for same in (errors.astype(float), errors.astype(bool), errors.astype(np.float32)):
        assert sublora.bound(same, upper=1.0, lower=0.0) == pytest.approx(found, abs=1e-5)


def test_coverage_of_the_luckiest_of_many_models():
    """256 models that guess: the best on the sample must pay its 8 bits."""
    rng = stream(0, "bound")
    failed = {0: 0, 8: 0}
    for _ in range(200):
        errors = rng.integers(0, 2, (256, 100))
        best = errors[errors.mean(axis=1).argmin()]
        for bits in failed:
            failed[bits] += sublora.bound(best, upper=1.0, lower=0.0, bits=bits, delta=0.2) < 0.5
    assert failed[8] <= binom.isf(1e-6, 200, 0.2) < failed[0]


def test_a_draw_costs_more_and_shrinks_with_its_size():
    losses = stream(1, "bound").normal(4, 0.5, 20_000).clip(0, 8)
    whole = sublora.bound(losses, upper=8.0, bits=1000)
    draws = [sublora.bound(losses[:m], upper=8.0, bits=1000, n=len(losses)) for m in (300, 3000)]
    assert losses.mean() < whole < draws[1] < draws[0] < 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upper": 0.5}, "above the upper limit"),
        ({"bits": -1}, "cannot have -1 bits"),
        ({"bits": -1, "n": 9}, "cannot have -1 bits"),
        ({"delta": 1.0}, "inside"),
        ({"losses": np.zeros(0)}, "at least one loss"),
        ({"losses": np.array([np.nan])}, "not a finite number"),
        ({"losses": np.array([1.0]), "n": 5}, "a single draw"),
    ],
)
def test_what_cannot_be_bounded_is_refused(change, words):
    arguments = {"losses": np.array([0.0, 1.0]), "upper": 1.0} | change
    with pytest.raises(ValueError, match=words):
        sublora.bound(arguments.pop("losses"), **arguments)
