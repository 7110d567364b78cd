"""Each inequality against a reference, its mathematical properties, and mistakes it must notice."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predictions import running_mean
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from sublora import inequalities as ineq
from sublora.inequalities import betting_all
from sublora.inequalities.betting_all import regret
from sublora.inequalities.smoothing import excess_upper, token_smoothing_range
from sublora.seeds import stream

LN2 = math.log(2)


def _token_betting(losses, *, lower, upper, nats):
    return ineq.token_betting(losses, running_mean(losses, (lower + upper) / 2), least=lower, upper=upper, nats=nats)


# Every inequality that takes an exponent, with one signature.
BOUNDS = {
    "betting": lambda x, *, lower, upper, nats: ineq.betting(x, upper=upper, nats=nats),
    "hoeffding": ineq.hoeffding,
    "kl_inverse": ineq.kl_inverse,
    "empirical_bernstein": ineq.empirical_bernstein,
    "token_azuma": ineq.token_azuma,
    "token_betting": _token_betting,
}


SUBSAMPLED = {"betting_subsampled", "hoeffding_subsampling"}


every_bound = pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS.keys())


loss_lists = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(lambda x: np.array(x))


def test_table_is_complete():
    assert set(ineq.INEQUALITIES) == set(BOUNDS) | SUBSAMPLED
    for name, row in ineq.INEQUALITIES.items():
        assert row.function is getattr(ineq, name)
        assert row.statement and row.assumptions and row.source


def test_nats():
    assert ineq.nats(10, 0.05) == pytest.approx(10 * LN2 + math.log(20))
    for bits, delta in ((10, 0.0), (10, 1.0), (10, math.nan), (-1, 0.5)):
        with pytest.raises(ValueError):
            ineq.nats(bits, delta)


@every_bound
@given(losses=loss_lists, nats=st.floats(0, 50), more=st.floats(0, 20))
@settings(max_examples=40, deadline=None)
def test_between_mean_and_limit_and_monotone(bound, losses, nats, more):
    value, larger = (bound(losses, lower=0.0, upper=1.0, nats=exponent) for exponent in (nats, nats + more))
    assert losses.mean() - 1e-9 <= value <= 1
    # The search stops at an accuracy of 1e-3 in ln c, where a bound is flat to second order.
    assert larger >= value - 1e-6


@every_bound
def test_scales_with_the_unit(bound):
    losses = stream(1, "losses").beta(2, 5, 200)
    shifted = bound(3 + 4 * losses, lower=3.0, upper=7.0, nats=5.0)
    assert shifted == pytest.approx(3 + 4 * bound(losses, lower=0.0, upper=1.0, nats=5.0), abs=1e-6)


@every_bound
def test_illegal_input(bound):
    good = np.array([0.2, 0.5])
    for losses in (np.array([]), np.array([0.2, np.nan]), np.array([0.2, -np.inf]), np.array([0.2, 1.0 + 2e-6])):
        with pytest.raises(ValueError):
            bound(losses, lower=0.0, upper=1.0, nats=3.0)
    for exponent in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError):
            bound(good, lower=0.0, upper=1.0, nats=exponent)


@pytest.mark.parametrize("name", ["hoeffding", "kl_inverse", "empirical_bernstein", "token_azuma"])
def test_loss_below_its_lower_limit(name):
    with pytest.raises(ValueError):
        BOUNDS[name](np.array([0.2, 0.5]), lower=0.3, upper=1.0, nats=3.0)


@every_bound
def test_float32_losses_are_rounded_up(bound):
    losses = stream(2, "losses").uniform(9, 16, 500)
    rounded = bound(losses.astype(np.float32), lower=9.0, upper=16.0, nats=5.0)
    exact = bound(losses, lower=9.0, upper=16.0, nats=5.0)
    # The bets of token_betting may move both ways with the losses, by as much as the losses moved.
    assert exact - (1e-6 if bound is _token_betting else 0) <= rounded <= exact + 4e-6


def test_known_values():
    losses = np.array([0.0, 0.0, 1.0, 1.0])
    assert ineq.hoeffding(losses, lower=0.0, upper=1.0, nats=0.5) == pytest.approx(0.75)
    assert ineq.token_azuma(losses, lower=0.0, upper=1.0, nats=0.5) == pytest.approx(0.75)
    # With V = 0.01/3 and nats = 0 the exponent is ln 2.
    assert ineq.empirical_bernstein(losses * 0.1, lower=0.0, upper=1.0, nats=0.0) == pytest.approx(
        0.05 + math.sqrt(2 * 0.01 / 3 * LN2 / 4) + 7 * LN2 / 9
    )
    # No errors among n: (1 - p)^n = e^-L.
    zeros = np.zeros(50)
    assert ineq.kl_inverse(zeros, lower=0.0, upper=1.0, nats=3.0) == pytest.approx(-math.expm1(-3 / 50), abs=1e-12)
    assert ineq.kl_inverse(np.ones(50), lower=0.0, upper=1.0, nats=3.0) == 1
    # Betting everything on losses that are all zero: 1 - e^(-L'/n).
    limit = -math.expm1(-(3 + 0.5 * math.log(math.pi * 50 + 1)) / 50)
    assert ineq.betting(zeros, upper=1.0, nats=3.0) == pytest.approx(limit, abs=1e-6)
    assert ineq.betting(np.ones(50), upper=1.0, nats=3.0) == 1


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.97])
def test_kl_inverse_solves_its_equation(p):
    losses = (np.arange(1000) < 1000 * p).astype(float)
    value = ineq.kl_inverse(losses, lower=0.0, upper=1.0, nats=7.0)
    divergence = p * math.log(p / value) + (1 - p) * math.log((1 - p) / (1 - value))
    assert 1000 * divergence == pytest.approx(7.0, rel=1e-8)


@pytest.mark.parametrize("nats", [0.5, 5.0, 60.0, 2000.0])
@pytest.mark.parametrize("law", ["beta", "rare", "near_limit", "constant"])
def test_betting_finds_the_best_bet(law, nats):
    rng = stream(3, law)
    losses = {
        "beta": rng.beta(2, 5, 400),
        "rare": (rng.random(400) < 0.01).astype(float),
        "near_limit": 1 - 1e-4 * rng.random(400),
        "constant": np.full(400, 0.3),
    }[law]
    y = 1 - losses
    cost = (nats + 0.5 * math.log(math.pi * 400 + 1)) / 400
    grid = np.geomspace(1e-6, 1e8, 3000) / y.mean()
    brute = 1 - max(0.0, max(math.expm1(np.log1p(c * y).mean() - cost) / c for c in grid))
    value = ineq.betting(losses, upper=1.0, nats=nats)
    assert value <= brute + 1e-7
    assert value == pytest.approx(brute, abs=1e-5)


def test_regret_covers_the_exact_one():
    n = np.arange(1, 5000)
    exact = 0.5 * math.log(math.pi) + gammaln(n + 1) - gammaln(n + 0.5)
    stated = np.array([regret(int(i)) for i in n])
    assert (stated >= exact).all()
    assert (stated - exact).max() < 0.02


def _log_mixture_wealth(y, mean):
    """ln of the integral of prod(1 - theta + theta y_i/mean) over theta ~ Beta(1/2, 1/2), exactly.

    Chebyshev's nodes integrate polynomials of degree below twice their number against this density.
    """
    k = np.arange(1, len(y) + 1)
    theta = np.sin((2 * k - 1) * math.pi / (4 * len(y)))[:, None] ** 2
    logs = np.log(1 - theta + theta * y / mean).sum(axis=1)
    return logs.max() + math.log(np.exp(logs - logs.max()).mean())


def _is_implied_by_mixture(bound, losses, nats):
    """Whether every mean that the bound excludes is one at which the mixture's wealth, of mean 1, reaches e^nats."""
    y = 1 - losses
    return all(_log_mixture_wealth(y, (1 - bound) * share) >= nats - 1e-9 for share in (1, 0.9, 0.5))


@given(losses=loss_lists.filter(lambda x: (x < 0.999).any()), nats=st.floats(0.1, 20))
@settings(max_examples=100, deadline=None)
def test_betting_follows_from_the_mixture(losses, nats):
    value = ineq.betting(losses, upper=1.0, nats=nats)
    assert value == 1 or _is_implied_by_mixture(value, losses, nats)


def test_betting_without_regret_does_not_follow(monkeypatch):
    monkeypatch.setattr(betting_all, "regret", lambda n: 0.0)
    for losses in (np.zeros(30), stream(4, "losses").beta(2, 5, 30)):
        assert not _is_implied_by_mixture(ineq.betting(losses, upper=1.0, nats=2.0), losses, 2.0)


def test_a_small_part_of_many_losses_tunes_the_bet(monkeypatch):
    losses = stream(5, "losses").beta(2, 5, 20_000)
    full = ineq.betting(losses, upper=1.0, nats=20.0)
    monkeypatch.setattr(betting_all, "SEARCH_LOSSES", 500)
    part = ineq.betting(losses, upper=1.0, nats=20.0)
    assert full <= part + 1e-7
    assert part - losses.mean() == pytest.approx(full - losses.mean(), rel=0.02)


@pytest.mark.parametrize("nats", [3.0, 1e5])
def test_ten_million_losses(nats):
    losses = stream(6, "losses").random(10_000_000)
    # A(c) of uniform losses in closed form.
    cost = (nats + 0.5 * math.log(math.pi * 1e7 + 1)) / 1e7

    def bound(ln_c):
        c = math.exp(ln_c)
        return 1 - math.expm1(((1 + c) * math.log1p(c) - c) / c - cost) / c

    best = minimize_scalar(bound, bounds=(-10, 10), method="bounded").fun
    assert ineq.betting(losses, upper=1.0, nats=nats) - losses.mean() == pytest.approx(best - 0.5, rel=2e-3)


def test_exponent_far_above_n():
    losses = np.full(10, 0.1)
    assert ineq.betting(losses, upper=1.0, nats=1e5) == 1
    assert ineq.kl_inverse(losses, lower=0.0, upper=1.0, nats=1e5) == 1
    stated = ineq.betting_subsampled(losses, upper=1.0, n=10, message_nats=1e5, delta=0.05)
    assert stated.value == 1


def test_weighted_minimum():
    losses = stream(7, "losses").beta(2, 5, 300)
    betting = partial(ineq.betting, losses, upper=1.0)
    kl = partial(ineq.kl_inverse, losses, lower=0.0, upper=1.0)
    value = ineq.weighted_minimum([(0.9, lambda L: betting(nats=L)), (0.1, lambda L: kl(nats=L))], 5.0)
    assert value == min(betting(nats=5 + math.log(1 / 0.9)), kl(nats=5 + math.log(10)))
    for weights in ((0.9, 0.2), (1.0, 0.0), ()):
        with pytest.raises(ValueError):
            ineq.weighted_minimum([(w, lambda L: 0.5) for w in weights], 5.0)


def test_hoeffding_subsampling():
    losses = np.full(100, 0.25)
    value = ineq.hoeffding_subsampling(losses, spread=2.0, n=300, message_nats=10.0, delta=0.05)
    sample, draw = math.log(4 / 0.05) + 10, math.log(1 / (0.75 * 0.05))
    assert value == pytest.approx(0.25 + 2 * (math.sqrt(sample / 600) + math.sqrt(draw / 200)))
    for wrong in ({"delta": 1.0}, {"n": 0}, {"spread": 0.0}, {"message_nats": math.nan}):
        with pytest.raises(ValueError):
            ineq.hoeffding_subsampling(losses, **{"spread": 2.0, "n": 300, "message_nats": 1.0, "delta": 0.05, **wrong})
    for x in (np.array([]), np.array([0.0, np.nan]), np.array([0.0, 2.1])):
        with pytest.raises(ValueError):
            ineq.hoeffding_subsampling(x, spread=2.0, n=300, message_nats=1.0, delta=0.05)


# Tokens


def test_running_mean_looks_only_back():
    losses = np.array([1.0, 0.0, 0.5, 9.0])
    np.testing.assert_allclose(running_mean(losses, 0.5), [0.5, 0.75, 0.5, 0.5])


def test_token_betting_is_its_formula():
    rng = stream(15, "tokens")
    losses, predicted = rng.random(300), rng.uniform(0.2, 1, 300)
    values = [
        predicted.mean()
        - (np.prod((1 + rate * (predicted - losses)) ** (1 / 300)) * math.exp(-(2 + math.log(32)) / 300) - 1) / rate
        for rate in np.geomspace(1e-3, 0.99, 32) / 0.8
    ]
    value = ineq.token_betting(losses, predicted, least=0.2, upper=1.0, nats=2.0)
    assert value == pytest.approx(min(values), abs=1e-10)
    assert value < 1


def test_good_predictions_help_and_impossible_ones_are_refused():
    rng = stream(11, "tokens")
    conditional = rng.uniform(0.1, 0.9, 5000)
    losses = np.clip(conditional + rng.normal(0, 0.02, 5000), 0, 1)
    bound = partial(ineq.token_betting, losses, least=0.0, upper=1.0, nats=20.0)
    assert bound(conditional) - losses.mean() < 0.25 * (bound(np.full(5000, 0.5)) - losses.mean())
    for predicted in (conditional[1:], conditional - 0.2, np.full(5000, np.nan)):
        with pytest.raises((ValueError, TypeError)):  # TypeError: the annotated shapes are checked first
            bound(predicted)
    with pytest.raises(ValueError):
        ineq.token_betting(losses, conditional, least=1.0, upper=1.0, nats=20.0)


# What to expect: gaps on normal losses, as in benchmarks/bounds.py.


@pytest.mark.parametrize(
    ("bits", "reference", "two_stages"), [(3_000, 0.445, 0.049), (30_000, 0.907, 0.100), (150_000, 1.744, 0.203)]
)
def test_gaps_when_ten_thousand_of_eight_million_are_measured(bits, reference, two_stages):
    low, high = token_smoothing_range(0.1, 50_257)
    setting = {"n": 8_009_762, "message_nats": bits * LN2, "delta": 0.05}
    gaps = []
    for repetition in range(20):  # one draw moves the gap by 0.0025
        losses = np.clip(stream(13, repetition).normal(9.5, 1.0, 10_000), low, high)
        gaps.append(ineq.betting_subsampled(losses, upper=high, **setting).value - losses.mean())
    assert np.mean(gaps) == pytest.approx(two_stages, rel=0.05)
    value = ineq.hoeffding_subsampling(losses, spread=high - low, **setting)
    assert value - losses.mean() == pytest.approx(reference, rel=0.005)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (300, (0.726, 0.703, 0.279, 0.078, 0.060)),
        (1_000, (1.319, 1.296, 0.833, 0.219, 0.139)),
        (3_000, (2.281, 2.266, 2.356, 0.607, 0.356)),
    ],
)
def test_gaps_when_all_are_measured(bits, expected):
    low, high = token_smoothing_range(0.1, 257)
    losses = np.clip(stream(14, "losses").normal(3.9, 0.45, 25_000), low, 8)
    exponent = ineq.nats(bits, 0.05)
    values = [
        BOUNDS[b](losses, lower=low, upper=high, nats=exponent)
        for b in ("hoeffding", "kl_inverse", "empirical_bernstein", "betting")
    ]
    values.append(ineq.betting(losses, upper=math.log2(257) + excess_upper(0.5, 16), nats=exponent))
    # The figures are rounded at 0.001.
    np.testing.assert_allclose(np.array(values) - losses.mean(), expected, rtol=0.01, atol=5e-4)
