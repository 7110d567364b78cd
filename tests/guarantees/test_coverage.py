"""How often each bound fails: exactly where the losses are discrete, by simulation where they are not.

The same test must reject bounds that are broken on purpose, so that passing it means something.
"""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
from predictions import running_mean
from safetensors.numpy import load_file
from scipy.stats import binom, multinomial

from sublora import inequalities as ineq
from sublora.inequalities.betting_drawn import stage_costs
from sublora.seeds import stream

Bound = Callable[[np.ndarray, float], float]
SAMPLES = 10_000

# All with losses in [0, 1]; the second argument is the exponent, K = 0.
BOUNDS: dict[str, Bound] = {
    "betting": lambda x, nats: ineq.betting(x, upper=1.0, nats=nats),
    "hoeffding": lambda x, nats: ineq.hoeffding(x, lower=0.0, upper=1.0, nats=nats),
    "kl_inverse": lambda x, nats: ineq.kl_inverse(x, lower=0.0, upper=1.0, nats=nats),
    "empirical_bernstein": lambda x, nats: ineq.empirical_bernstein(x, lower=0.0, upper=1.0, nats=nats),
}

# Name: values, their probabilities, n.
LAWS = {
    "coin": ((0.0, 1.0), (0.5, 0.5), 1000),
    "few coins": ((0.0, 1.0), (0.5, 0.5), 20),
    "rare large loss": ((0.0, 1.0), (0.9, 0.1), 40),
    "frequent large loss": ((0.0, 1.0), (0.1, 0.9), 40),
    "heavy atom": ((0.0, 0.3, 1.0), (0.8, 0.15, 0.05), 12),
    "atom at the limit": ((0.2, 0.6, 1.0), (0.3, 0.3, 0.4), 12),
}
DELTAS = (0.01, 0.1)


def half_the_gap(bound: Bound) -> Bound:
    return lambda x, nats: (float(x.mean()) + bound(x, nats)) / 2


def no_delta(bound: Bound) -> Bound:
    return lambda x, nats: bound(x, 0.25 * nats)


def failure_probability(bound: Bound, law: tuple, delta: float) -> float:
    """Exactly: over all samples of n values, which are told apart by how often each value occurs."""
    values, probabilities, n = law
    risk = float(np.dot(values, probabilities))
    failures = []
    for picked in combinations_with_replacement(range(len(values)), n):
        sample = np.array(values)[list(picked)]
        # A bound is never below the mean measured loss, so other samples cannot fail.
        if sample.mean() < risk and bound(sample, ineq.nats(0, delta)) < risk - 1e-9:
            failures.append(np.bincount(picked, minlength=len(values)))
    return float(multinomial.pmf(np.array(failures), n, probabilities).sum()) if failures else 0.0


def worst_excess(bound: Bound) -> float:
    """The largest ratio of failure probability and delta over all laws."""
    return max(failure_probability(bound, law, delta) / delta for law in LAWS.values() for delta in DELTAS)


@pytest.mark.parametrize("name", BOUNDS)
def test_coverage_is_exact(name):
    assert worst_excess(BOUNDS[name]) <= 1


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("broken", [half_the_gap, no_delta])
def test_a_broken_bound_is_noticed(name, broken):
    assert worst_excess(broken(BOUNDS[name])) > 1


def most_failures(delta: float) -> int:
    """What a valid bound exceeds with probability below 1e-6."""
    return int(binom.isf(1e-6, SAMPLES, delta))


def simulate(
    bound: Bound, samples: np.ndarray, risks: np.ndarray, delta: float, share: float = 1 / 4
) -> tuple[int, int]:
    """Return how many samples the bound fails on, and a bound with a share of its gap."""
    means = samples.mean(axis=1)
    low = np.flatnonzero(means < risks - 1e-9)
    gaps = np.array([bound(samples[i], ineq.nats(0, delta)) for i in low]) - means[low]
    missing = risks[low] - means[low] - 1e-9
    return int((gaps < missing).sum()), int((share * gaps < missing).sum())


@pytest.mark.parametrize("name", BOUNDS)
def test_coverage_on_beta_losses(name):
    # Most losses are tiny, few are large.
    samples = stream(1, "coverage", "beta").beta(0.3, 1.2, (SAMPLES, 25))
    right, broken = simulate(BOUNDS[name], samples, np.full(SAMPLES, 0.3 / 1.5), 0.1)
    assert right <= most_failures(0.1)
    # With so few losses, empirical Bernstein is too loose to be broken in this way.
    assert broken > most_failures(0.1) or name == "empirical_bernstein"


def real_losses() -> np.ndarray:
    """Losses of documents under a trained model, between 0 and 1: those of the demo."""
    arrays = load_file(Path(__file__).parents[2] / "results" / "demo" / "losses.safetensors")
    losses = arrays["bits"] / arrays["lengths"]
    return losses / losses.max() / 2


@pytest.mark.parametrize("name", BOUNDS)
def test_coverage_on_real_losses(name):
    """The losses are the population: its mean is the risk, and samples are drawn from it."""
    population = real_losses()
    samples = stream(3, "coverage", "real").choice(population, (SAMPLES, 50))
    # The losses lie close together, and all bounds are loose on 50 of them: only a tiny share of the gap is too little.
    right, broken = simulate(BOUNDS[name], samples, np.full(SAMPLES, population.mean()), 0.1, share=1 / 50)
    assert right <= most_failures(0.1) < broken


# Two stages

N, PILOT, USED, DELTA = 4000, 18, 18, 0.01


def two_stage_failure(bound: Callable[[np.ndarray], float], p: float) -> float:
    """Exactly, when losses are 1 with probability p and else 0: over the sample of N and the draws from it.

    A bound depends on the number of ones in the sample only through the draws, and on those only through the number of
    ones among the first PILOT and among the other USED.
    """
    ones = np.arange(N + 1)
    in_sample = binom.pmf(ones, N, p)
    total = 0.0
    for a in range(PILOT + 1):
        for b in range(USED + 1):
            draws = np.zeros(PILOT + USED)
            draws[:a] = 1
            draws[PILOT : PILOT + b] = 1
            if bound(draws) < p - 1e-9:
                total += float((in_sample * binom.pmf(a, PILOT, ones / N) * binom.pmf(b, USED, ones / N)).sum())
    return total


def two_stages(draws: np.ndarray) -> float:
    return ineq.betting_subsampled(draws, upper=1.0, n=N, message_nats=0.0, delta=DELTA).value


def hoeffding_twice(draws: np.ndarray) -> float:
    return ineq.hoeffding_subsampling(draws, spread=1.0, n=N, message_nats=0.0, delta=DELTA)


def draws_taken_for_the_whole_sample(draws: np.ndarray) -> float:
    bound = ineq.betting_subsampled(draws, upper=1.0, n=N, message_nats=0.0, delta=DELTA)
    cost, _ = stage_costs(USED, N, 0.0, DELTA, 1, 1.0)
    return 1 - math.expm1(float(np.log1p(bound.c * (1 - draws[PILOT:])).mean()) - cost) / bound.c


def half_of_two_stages(draws: np.ndarray) -> float:
    return (two_stages(draws) + float(draws[PILOT:].mean())) / 2


@pytest.mark.parametrize("bound", [two_stages, hoeffding_twice])
def test_coverage_of_two_stages(bound):
    assert all(two_stage_failure(bound, p) <= DELTA for p in (0.02, 0.2, 0.5, 0.9))


@pytest.mark.parametrize("bound", [draws_taken_for_the_whole_sample, half_of_two_stages])
def test_broken_two_stages_are_noticed(bound):
    assert any(two_stage_failure(bound, p) > DELTA for p in (0.02, 0.2, 0.5, 0.9))


# Tokens


def dependent_losses() -> tuple[np.ndarray, np.ndarray]:
    """Losses 0 or 1 of 60 tokens, whose conditional mean swings against what came before, and T of each sequence."""
    rng = stream(2, "coverage", "tokens")
    losses, means = np.zeros((SAMPLES, 60)), np.zeros((SAMPLES, 60))
    for k in range(60):
        behind = losses[:, :k].sum(axis=1) < means[:, :k].sum(axis=1)
        means[:, k] = np.where(behind, 0.5, 0.9)
        losses[:, k] = rng.random(SAMPLES) < means[:, k]
    return losses, means.mean(axis=1)


def token_betting(x: np.ndarray, nats: float) -> float:
    return ineq.token_betting(x, running_mean(x, 0.5), least=0.0, upper=1.0, nats=nats)


def token_azuma(x: np.ndarray, nats: float) -> float:
    return ineq.token_azuma(x, lower=0.0, upper=1.0, nats=nats)


@pytest.mark.parametrize("bound", [token_azuma, token_betting])
def test_coverage_of_dependent_tokens(bound):
    right, broken = simulate(bound, *dependent_losses(), 0.02)
    assert right <= most_failures(0.02) < broken
