"""The betting bound: all n losses are known."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from sublora.inequalities.checks import check_nats, checked_losses

# c is searched where c times the mean of y is inside these limits, to this accuracy in ln c, on at most so many losses.
C_LIMITS = (1e-8, 1e8)
LN_C_ACCURACY = 1e-3
SEARCH_LOSSES = 200_000


def betting(losses: Float[np.ndarray, " n"], *, upper: float, nats: float) -> float:
    """Bound the risk by the wealth of a gambler who bets that losses are small.

        R <= min over c > 0 of  upper - (exp(A(c) - L'/n) - 1) / c,
        A(c) = mean ln(1 + c (upper - loss)),   L' = nats + ln(pi n + 1) / 2.

    It holds for all c at once, so c is chosen on the losses themselves and a poor c makes the bound loose, not wrong.
    For one c the wealth prod (1 + c y_i) / (1 + c E y) has mean 1, and Markov's inequality applies. For all c together,
    theta = c E y / (1 + c E y) is drawn from Beta(1/2, 1/2), which costs at most ln(pi n + 1) / 2 against the best
    theta.

    Args:
        losses: n independent losses, in any unit (bits per token, error rate).
        upper: limit of the loss of every document that could exist, same unit. No lower limit is needed.
        nats: K ln 2 + ln(1/delta), from `nats`.

    Returns:
        The bound on the risk, at most `upper`, in the unit of the losses.

    Raises:
        ValueError: no losses, a loss that is not finite or above `upper`, an illegal exponent.

    Source:
        Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting"; Orabona & Jun 2021,
        "Tight concentrations and confidence sequences from the regret of universal portfolio"; the regret is that of
        Cover & Ordentlich 1996, "Universal portfolios with side information", for two assets.
    """
    check_nats(nats)
    y = upper - checked_losses(losses, upper)
    return upper - _best_gain(y, (nats + regret(len(y))) / len(y))


def projected_betting(losses: Float[np.ndarray, " m"], *, upper: float, nats: float, n: int) -> float:
    """Return what `betting` would give for n losses that are distributed as these m: a projection, not a bound.

    Args:
        losses: m losses.
        upper: largest loss that could exist.
        nats: K ln 2 + ln(1/delta).
        n: number of losses that are imagined.
    """
    check_nats(nats)
    y = upper - checked_losses(losses, upper)
    return upper - _best_gain(y, (nats + regret(n)) / n)


def _best_gain(y: Float[np.ndarray, " n"], cost: float) -> float:
    """The largest `gain` over c, at least 0."""
    sample = y[:: math.ceil(len(y) / SEARCH_LOSSES)]
    scale = float(sample.mean())
    if scale <= 0:
        return 0.0
    ln_c = golden_section(
        lambda x: gain(sample, math.exp(x), cost), math.log(C_LIMITS[0] / scale), math.log(C_LIMITS[1] / scale)
    )
    return max(gain(y, math.exp(ln_c), cost), 0.0)


def regret(n: int) -> float:
    """Return ln(pi n + 1) / 2, in nats: what it costs to hold for all c rather than one.

    An upper limit of ln(sqrt(pi) Gamma(n + 1) / Gamma(n + 1/2)), the regret of the Beta(1/2, 1/2) mixture
    (Cover & Ordentlich 1996).
    """
    return 0.5 * math.log(math.pi * n + 1)


def gain(y: Float[np.ndarray, " n"], c: float, cost: float) -> float:
    """Return (exp(mean ln(1 + c y) - cost) - 1) / c, a lower bound on the mean that y was drawn with.

    Args:
        y: numbers >= 0.
        c: size of the bet, > 0.
        cost: nats per sample.
    """
    return math.expm1(float(np.log1p(c * y).mean()) - cost) / c


def golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a quasi-concave function on [low, high] is largest, to `LN_C_ACCURACY`.

    `gain` is quasi-concave in ln c: it is at least v where mean ln(1 - theta + theta y/v) >= cost, which is concave in
    theta = c v / (1 + c v).
    """
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > LN_C_ACCURACY:
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
    return left if at_left > at_right else right
