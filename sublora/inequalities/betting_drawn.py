"""The betting bound in two stages: only m of the n losses are measured."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sublora.inequalities.betting_all import gain, regret
from sublora.inequalities.checks import check_delta, check_nats, checked_losses

# Shares of delta: for the draw of the documents, and for the draw of the m that are measured.
SAMPLE_SHARE, DRAW_SHARE = 0.1, 0.9
# Bets that are tried, and the share of the draw's delta that each is given: those that are best for the pilot, times
# these factors, and, last, those that are best for the pilot and one more draw that is as bad as can be. A pilot may
# hold none of the rare documents that a model fails on, and then bets without limit against them.
HEDGE = ((1.0, 0.45), (1 / 3, 0.05), (1 / 9, 0.03), (1 / 27, 0.02))
CAREFUL_WEIGHT = 0.45
WEIGHTS = (*(weight for _, weight in HEDGE), CAREFUL_WEIGHT)
# The pilot takes this share of the draws, but no fewer than this number, and never more than half of them.
PILOT_SHARE, PILOT_LEAST = 0.05, 100
# (c, c2) are searched where c mean(y) and c2 mean(z) are inside these limits, on at most so many losses.
SEARCH_LIMITS = (1e-4, 1e4)
SEARCH_LOSSES = 2_000
# Points per axis of each search; every round searches between the neighbours of the best point so far.
SEARCH_ROUNDS = (33, 9, 9)


@dataclass(frozen=True)
class SubsampledBound:
    """A two-stage bound and the bets that gave it.

    value: the bound on the risk, in the unit of the losses.
    c, c2: the bets of the two stages, as they were used.
    weight_index: which entry of `WEIGHTS` was used; its share of delta is paid for.
    pilot: so many draws at the beginning were used to choose (c, c2) and are not part of the bound.
    """

    value: float
    c: float
    c2: float
    weight_index: int
    pilot: int


def betting_subsampled(
    losses_drawn: Float[np.ndarray, " m"],
    *,
    upper: float,
    n: int,
    message_nats: float,
    delta: float,
    claims: int = 1,
    pilot_margin: float = 0.0,
) -> SubsampledBound:
    """Bound the risk when only m documents, drawn from the n of the sample, were measured.

    delta1 = 0.1 delta is for the sample and delta2 = 0.9 delta for the draw. With y = upper - loss and z = ln(1 + c y)
    over the m' draws after the pilot,

        B  = (exp(mean ln(1 + c2 z) - ln(1/(w delta2))/m') - 1) / c2,      which is a lower bound on A(c) of `betting`;
        R <= upper - (exp(B - L'/n) - 1) / c,    L' = message_nats + ln(1/delta1) + ln(pi n + 1)/2.

    (c, c2) are chosen on the pilot, with and without a worst case added to it, and tried with weights w that add up
    to 1 (`WEIGHTS`); the best is kept.

    Args:
        losses_drawn: m losses in the order of the draw: independent, uniform, with replacement, and drawn after the
            model was fixed.
        upper: limit of the loss of every document that could exist, in the unit of the losses.
        n: documents in the sample.
        message_nats: K ln 2.
        delta: probability that the claim may fail, in (0, 1).
        claims: candidates that share one draw and of which the best is kept afterwards; they share delta2.
        pilot_margin: added to the losses of the pilot before bets are chosen for them. The best bets can jump when
            losses change a little, and a bound for losses that are all a little lower can be higher: it is monotone
            only for the same bets.

    Returns:
        The bound, at most `upper`, with its bets.

    Raises:
        ValueError: illegal losses, fewer than two draws, illegal n, delta or claims.

    Source:
        Two uses of `betting` (Waudby-Smith & Ramdas 2023); the second needs no regret, as (c, c2) do not depend on its
        draws.
    """
    losses = checked_losses(losses_drawn, upper)
    y = upper - losses
    if len(y) < 2:
        raise ValueError("a single draw: one chooses the bets, and the bound needs another")
    pilot = pilot_size(len(y))
    expected = stage_costs(len(y) - pilot, n, message_nats, delta, claims, CAREFUL_WEIGHT)
    y_pilot = upper - np.minimum(losses[:pilot] + pilot_margin, upper)
    c_best, c2_best = _choose(y_pilot, *expected)
    careful = _choose(np.append(y_pilot[: SEARCH_LOSSES - 1], 0.0), *expected)
    tried = []
    bets = [*((c_best * scale, c2_best * scale) for scale, _ in HEDGE), careful]
    for i, ((c, c2), weight) in enumerate(zip(bets, WEIGHTS, strict=True)):
        costs = stage_costs(len(y) - pilot, n, message_nats, delta, claims, weight)
        tried.append(SubsampledBound(_evaluate(y[pilot:], upper, c, c2, *costs), c, c2, i, pilot))
    return min(tried, key=lambda bound: bound.value)


def projected_subsampled(
    losses: Float[np.ndarray, " m"],
    *,
    upper: float,
    n: int,
    samples: int,
    message_nats: float,
    delta: float,
    claims: int = 1,
) -> float:
    """Return what `betting_subsampled` would give for `samples` draws that are distributed as these losses.

    A projection, not a bound: its bets are the best for these very losses.

    Args:
        losses: of some documents.
        upper: largest loss that could exist.
        n: number of certified documents.
        message_nats: K ln 2.
        delta: probability that a claim may fail.
        claims: candidates that share the draw, as in `betting_subsampled`.
        samples: number of draws that are imagined, at least 2.
    """
    y = upper - checked_losses(losses, upper)
    costs = stage_costs(samples - pilot_size(samples), n, message_nats, delta, claims, HEDGE[0][1])
    return _evaluate(y, upper, *_choose(y, *costs), *costs)


def pilot_size(draws: int) -> int:
    """How many draws choose the bets."""
    return min(max(PILOT_LEAST, math.ceil(PILOT_SHARE * draws)), draws // 2)


def stage_costs(
    used: int, n: int, message_nats: float, delta: float, claims: int, weight: float
) -> tuple[float, float]:
    """Return what each stage pays per sample, in nats: L'/n, and ln(claims/(weight delta2))/used.

    Args:
        used: draws after the pilot.
        n: number of certified documents.
        message_nats: K ln 2.
        delta: probability that a claim may fail.
        claims: candidates that share the draw, as in `betting_subsampled`.
        weight: of the hedge.

    Raises:
        ValueError: illegal n, message_nats, delta or claims.
    """
    check_delta(delta)
    check_nats(message_nats)
    if n < 1 or claims < 1:
        raise ValueError(f"n = {n} documents and {claims} claims: both must be at least 1")
    sample = message_nats + math.log(1 / (SAMPLE_SHARE * delta)) + regret(n)
    return sample / n, math.log(claims / (weight * DRAW_SHARE * delta)) / used


def _evaluate(
    y: Float[np.ndarray, " m"], upper: float, c: float, c2: float, sample_cost: float, draw_cost: float
) -> float:
    """The bound for given bets."""
    mean_z = gain(np.log1p(c * y), c2, draw_cost)
    return upper - max(math.expm1(mean_z - sample_cost) / c, 0.0)


def _choose(pilot: Float[np.ndarray, " p"], sample_cost: float, draw_cost: float) -> tuple[float, float]:
    """The bets that are best if the remaining losses are distributed as the pilot's: repeated search on a grid."""
    y = pilot[:SEARCH_LOSSES]
    y_scale = float(y.mean()) or 1.0
    # Coordinates are ln(c mean y) and ln(c2 mean z).
    low, high = map(math.log, SEARCH_LIMITS)
    centre, width = np.full(2, (low + high) / 2), (high - low) / 2
    for points in SEARCH_ROUNDS:
        offsets = np.linspace(-width, width, points)
        c = np.exp(centre[0] + offsets) / y_scale
        z = np.log1p(c[:, None] * y)
        z_mean = z.mean(axis=1, keepdims=True)
        c2 = np.exp(centre[1] + offsets) / np.where(z_mean > 0, z_mean, 1.0)
        growth = np.stack([np.log1p(c2[:, j, None] * z).mean(axis=1) for j in range(points)], axis=1)
        gains = np.expm1(np.expm1(growth - draw_cost) / c2 - sample_cost) / c[:, None]
        i, j = np.unravel_index(np.argmax(gains), gains.shape)
        best = float(c[i]), float(c2[i, j])
        centre, width = centre + offsets[[i, j]], 2 * width / (points - 1)
    return best
