"""The bound in two stages, from a sample that was drawn."""

import itertools
import math

import numpy as np
import pytest

from sublora import inequalities as ineq
from sublora.inequalities import betting_drawn
from sublora.inequalities.betting_all import regret
from sublora.inequalities.betting_drawn import SAMPLE_SHARE, WEIGHTS, stage_costs
from sublora.seeds import stream

SETTING = {"upper": 1.0, "n": 50_000, "message_nats": 200.0, "delta": 0.05}


def best_of_grid(losses, bets, second_bets):
    """Return the lowest bound that any pair of bets gives."""
    return min(with_bets(losses, *pair) for pair in itertools.product(bets, second_bets))


def with_bets(losses, c, c2):
    """Return the bound that bets from outside the draw give."""
    costs = stage_costs(len(losses), 50_000, 200.0, 0.05, 1, WEIGHTS[0])
    return betting_drawn._evaluate(1.0 - losses, 1.0, c, c2, *costs)


@pytest.fixture(scope="module")
def drawn():
    return stream(8, "losses").beta(2, 5, 4000)


def test_two_stages_is_the_formula_on_the_draws_after_the_pilot(drawn):
    bound = ineq.betting_subsampled(drawn, **SETTING)
    assert bound.pilot == 200
    z = np.log(1 + bound.c * (1 - drawn[200:]))
    weight = WEIGHTS[bound.weight_index]
    growth = (np.exp(np.log(1 + bound.c2 * z).mean() - math.log(1 / (weight * 0.045)) / 3800) - 1) / bound.c2
    exponent = 200 + math.log(1 / 0.005) + 0.5 * math.log(math.pi * 50_000 + 1)
    expected = 1 - (math.exp(growth - exponent / 50_000) - 1) / bound.c
    assert bound.value == pytest.approx(expected, abs=1e-10)


def test_hedge_weights_are_a_share_of_delta():
    assert math.fsum(WEIGHTS) <= 1 + 1e-15
    sample, draw = stage_costs(50, 10, 3.0, 0.05, 2, 0.9)
    assert sample == pytest.approx((3 + math.log(1 / (SAMPLE_SHARE * 0.05)) + regret(10)) / 10)
    assert draw == pytest.approx(math.log(2 / (0.9 * 0.9 * 0.05)) / 50)


def test_two_stages_chooses_nearly_the_best_bets(drawn):
    chosen = ineq.betting_subsampled(drawn, **SETTING)
    best = best_of_grid(drawn[200:], np.geomspace(1e-3, 1e3, 40), np.geomspace(1e-3, 1e4, 40))
    assert chosen.value - drawn.mean() <= 1.03 * (best - drawn.mean())


def test_hedge_rescues_an_unlucky_pilot(monkeypatch):
    # A pilot without the frequent large losses bets far too much.
    losses = np.concatenate([np.zeros(200), (stream(9, "losses").random(3800) < 0.3).astype(float)])
    hedged = ineq.betting_subsampled(losses, **SETTING)
    monkeypatch.setattr(betting_drawn, "HEDGE", ((1.0, 0.5),))
    monkeypatch.setattr(betting_drawn, "WEIGHTS", (0.5, 1e-300))
    assert hedged.weight_index > 0
    assert hedged.value < ineq.betting_subsampled(losses, **SETTING).value - 0.01


def test_pilot_changes_nothing_but_the_bets(drawn):
    changed = drawn.copy()
    changed[:200] = changed[:200][::-1]
    a, b = (ineq.betting_subsampled(x, **SETTING) for x in (drawn, changed))
    assert a.value == pytest.approx(b.value, abs=1e-9)
    # The same bets from outside the draw: their weight is that of the first entry, which is the last one's too.
    assert a.weight_index in (0, 4) and with_bets(drawn[200:], a.c, a.c2) == pytest.approx(a.value, abs=1e-12)


def test_a_pilot_without_rare_failures_does_not_bet_without_limit():
    rng = stream(10, "losses")
    losses = 0.5 + 0.02 * rng.random(4000)
    losses[200:][rng.random(3800) < 0.002] = 1.0
    bound = ineq.betting_subsampled(losses, **SETTING)
    best = best_of_grid(losses[200:], np.geomspace(1e-2, 1e3, 30), np.geomspace(1e-3, 1e4, 30))
    assert bound.value - losses.mean() <= 1.15 * (best - losses.mean())


@pytest.mark.parametrize(("m", "pilot"), [(2, 1), (30, 15), (500, 100), (10_000, 500)])
def test_size_of_the_pilot(m, pilot):
    assert ineq.betting_subsampled(stream(10, m).random(m), **SETTING).pilot == pilot


def test_two_stages_is_monotone_and_above_the_mean(drawn):
    def value(**changes):
        return ineq.betting_subsampled(drawn, **{**SETTING, **changes}).value

    base = value()
    assert drawn[200:].mean() < base < 1
    for worse in ({"message_nats": 400.0}, {"delta": 0.01}, {"n": 25_000}, {"claims": 8}):
        assert value(**worse) > base


def test_bets_for_the_same_pilot_keep_the_order_of_losses():
    """Losses that are a little lower can have other bets and a higher bound, unless bets are chosen for the same."""
    margin = 1e-4
    lower = np.concatenate([stream(11, 1).beta(20, 20, 100), stream(12, 1).beta(2, 2, 400)]) * 0.9 + 0.0051
    claimed = ineq.betting_subsampled(lower + margin, **SETTING).value
    assert ineq.betting_subsampled(lower, **SETTING).value > claimed
    assert ineq.betting_subsampled(lower, pilot_margin=margin, **SETTING).value < claimed - margin / 2


def test_two_stages_illegal_input(drawn):
    for change in (
        {"delta": 0.0},
        {"delta": 1.0},
        {"n": 0},
        {"claims": 0},
        {"message_nats": -1.0},
    ):
        with pytest.raises(ValueError):
            ineq.betting_subsampled(drawn, **{**SETTING, **change})
    for losses in (np.array([]), np.array([0.5]), np.array([0.5, np.nan]), np.array([0.5, 1.1])):
        with pytest.raises(ValueError):
            ineq.betting_subsampled(losses, **SETTING)
