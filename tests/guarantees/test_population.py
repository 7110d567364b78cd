"""The betting bound without replacement: exact coverage on small populations, and bounds broken on purpose.

E over samples of n of N of prod (1 + c y_i) is the normalised elementary symmetric polynomial of the numbers 1 + c y_j,
which is at most (1 + c mean y)^n (Maclaurin's inequality); the rest of the proof is that for independent draws.
"""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from sublora.inequalities import betting

Bound = Callable[[np.ndarray, float], float]
# How often each value occurs in the population, and how many documents are drawn.
POPULATIONS = [
    ({0.0: 30, 1.0: 30}, 20),
    ({0.0: 55, 1.0: 5}, 30),
    ({0.0: 5, 1.0: 55}, 20),
    ({0.0: 20, 0.4: 15, 1.0: 5}, 16),
    ({0.2: 10, 0.6: 10, 1.0: 12}, 14),
    ({0.0: 190, 1.0: 10}, 60),
]
DELTAS = (0.01, 0.1)


def the_bound(losses: np.ndarray, delta: float) -> float:
    return betting(losses, upper=1.0, nats=math.log(1 / delta))


def failure_probability(bound: Bound, counts: dict[float, int], n: int, delta: float) -> float:
    """Exactly: over all samples without replacement, told apart by how often each value occurs in them."""
    values, sizes = np.array(list(counts)), list(counts.values())
    total = sum(sizes)
    mean = float(np.dot(values, sizes)) / total
    failed = 0
    for picked in product(*(range(size + 1) for size in sizes)):
        if sum(picked) != n:
            continue
        sample = np.repeat(values, picked)
        # A bound is never below the sample's mean, so other samples cannot fail.
        if sample.mean() < mean and bound(sample, delta) < mean - 1e-9:
            failed += math.prod(math.comb(size, k) for size, k in zip(sizes, picked, strict=True))
    return failed / math.comb(total, n)


def worst(bound: Bound) -> float:
    return max(failure_probability(bound, *case, delta) / delta for case in POPULATIONS for delta in DELTAS)


def test_coverage_is_exact():
    assert worst(the_bound) <= 1


@pytest.mark.parametrize(
    "broken",
    [
        lambda x, delta: (float(x.mean()) + the_bound(x, delta)) / 2,
        lambda x, delta: float(x.mean()) + 0.2 * (the_bound(x, delta) - float(x.mean())),
        lambda x, delta: float(x.mean()),
    ],
    ids=["half the gap", "a fifth of the gap", "no gap"],
)
def test_a_broken_bound_is_noticed(broken):
    assert worst(broken) > 1


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_the_inequality_behind_it(c):
    """The mean of the wealth over all samples, by the recursion for elementary symmetric polynomials."""
    for counts, n in POPULATIONS:
        y = 1 - np.repeat(list(counts), list(counts.values()))
        polynomial = np.zeros(n + 1)
        polynomial[0] = 1.0
        for factor in 1 + c * y:
            polynomial[1:] = polynomial[1:] + factor * polynomial[:-1]
        mean_wealth = polynomial[n] / math.comb(len(y), n)
        assert mean_wealth <= (1 + c * y.mean()) ** n * (1 + 1e-9)
        # Not for half the mean: the inequality is no empty one.
        assert mean_wealth > (1 + c * 0.5 * y.mean()) ** n
