"""Bounds that look at the mean, or at mean and variance, of all n losses."""

import math

import numpy as np
from jaxtyping import Float

from sublora.inequalities.checks import check_nats, checked_losses

# The kl inverse is bracketed by bisection until floats cannot be told apart.
BISECTIONS = 60


def hoeffding(losses: Float[np.ndarray, " n"], *, lower: float, upper: float, nats: float) -> float:
    """Bound the risk by mean + (upper - lower) sqrt(nats / (2 n)).

    Args:
        losses: n independent losses.
        lower: smallest loss of any document that could exist, in the unit of the losses.
        upper: largest loss of any document that could exist.
        nats: K ln 2 + ln(1/delta).

    Returns:
        The bound on the risk, at most `upper`.

    Raises:
        ValueError: no losses, a loss that is not finite or outside its limits, an illegal exponent.

    Source:
        Hoeffding 1963, "Probability inequalities for sums of bounded random variables", Theorem 2.
    """
    check_nats(nats)
    x = checked_losses(losses, upper, lower)
    return min(float(x.mean()) + (upper - lower) * math.sqrt(nats / (2 * len(x))), upper)


def kl_inverse(losses: Float[np.ndarray, " n"], *, lower: float, upper: float, nats: float) -> float:
    """Bound the risk by the largest mean p whose binary divergence from the measured mean q is at most nats / n.

        kl(q, p) = q ln(q/p) + (1-q) ln((1-q)/(1-p)),   q and p rescaled to [0, 1].

    For one fixed model this is Chernoff's bound; the factor 2 sqrt(n) of PAC-Bayesian theorems is not needed.

    Args:
        losses: n independent losses.
        lower: smallest loss of any document that could exist, in the unit of the losses.
        upper: largest loss of any document that could exist.
        nats: K ln 2 + ln(1/delta).

    Returns:
        The bound on the risk, at most `upper`.

    Raises:
        ValueError: no losses, a loss that is not finite or outside its limits, an illegal exponent.

    Source:
        Hoeffding 1963, Theorem 1 (inequality 2.1).
    """
    check_nats(nats)
    x = checked_losses(losses, upper, lower)
    q = min(max((float(x.mean()) - lower) / (upper - lower), 0.0), 1.0)
    low, high = q, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _binary_kl(q, middle) <= nats / len(x):
            low = middle
        else:
            high = middle
    return min(lower + (upper - lower) * high, upper)


def _binary_kl(q: float, p: float) -> float:
    if p >= 1:
        return 0.0 if q >= 1 else math.inf
    first = q * math.log(q / p) if q > 0 else 0.0
    return first + ((1 - q) * (math.log1p(-q) - math.log1p(-p)) if q < 1 else 0.0)


def empirical_bernstein(losses: Float[np.ndarray, " n"], *, lower: float, upper: float, nats: float) -> float:
    """Bound the risk by q + sqrt(2 V (nats + ln 2) / n) + 7 (nats + ln 2) / (3 (n - 1)), losses rescaled to [0, 1].

    Args:
        losses: n independent losses; V is their sample variance.
        lower: smallest loss of any document that could exist, in the unit of the losses.
        upper: largest loss of any document that could exist.
        nats: K ln 2 + ln(1/delta).

    Returns:
        The bound on the risk, at most `upper`; `upper` if n = 1.

    Raises:
        ValueError: no losses, a loss that is not finite or outside its limits, an illegal exponent.

    Source:
        Maurer & Pontil 2009, "Empirical Bernstein bounds and sample-variance penalization", Theorem 4.
    """
    check_nats(nats)
    x = (checked_losses(losses, upper, lower) - lower) / (upper - lower)
    n = len(x)
    if n == 1:
        return upper
    exponent = nats + math.log(2)
    deviation = math.sqrt(2 * float(x.var(ddof=1)) * exponent / n) + 7 * exponent / (3 * (n - 1))
    return min(lower + (upper - lower) * (float(x.mean()) + deviation), upper)
