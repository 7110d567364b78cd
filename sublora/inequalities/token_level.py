"""Bounds for tokens that depend on each other.

They bound T = (1/M) sum_k E[loss_k | the tokens before k], on the TRAINING contexts. That needs no independence, and
it is not the risk on new documents: T averages over what could have followed the very contexts that the model was
trained on.
"""

import math

import numpy as np
from jaxtyping import Float

from sublora.inequalities.checks import ROUNDING, check_nats, checked_losses

# lambda is tried at so many points, in geometric progression between these shares of its limit 1/(upper - least).
GRID_POINTS = 32
GRID_LIMITS = (1e-3, 0.99)


def token_azuma(losses: Float[np.ndarray, " M"], *, lower: float, upper: float, nats: float) -> float:
    """Bound T by mean + (upper - lower) sqrt(nats / (2 M)).

    Args:
        losses: of M successive tokens; they may depend on each other in any way.
        lower: smallest loss of any token that could occur, in the unit of the losses.
        upper: largest loss of any token that could occur.
        nats: K ln 2 + ln(1/delta).

    Returns:
        The bound on T (not on the risk on new documents), at most `upper`.

    Raises:
        ValueError: no losses, a loss that is not finite or outside its limits, an illegal exponent.

    Source:
        Lotfi et al. 2024b, "Unlocking tokens as data points for generalization bounds on larger language models";
        Azuma 1967, with the constant of McDiarmid 1989.
    """
    check_nats(nats)
    x = checked_losses(losses, upper, lower)
    return min(float(x.mean()) + (upper - lower) * math.sqrt(nats / (2 * len(x))), upper)


def token_betting(
    losses: Float[np.ndarray, " M"], predicted: Float[np.ndarray, " M"], *, least: float, upper: float, nats: float
) -> float:
    """Bound T by bets on how the losses differ from predictions made before each token is seen.

        T <= mean Y - (exp(mean ln(1 + lambda (Y_k - X_k)) - (nats + ln G)/M) - 1) / lambda,

    the smallest over a fixed grid of G values of lambda in (0, 1/(upper - least)). X_k is a loss, Y_k its prediction.
    The grid is needed: the argument by which `betting` holds for every c fails when the conditional means vary.

    Args:
        losses: X, of M successive tokens; they may depend on each other in any way.
        predicted: Y, in the unit of the losses; Y_k may depend on the model and the tokens before k only.
        least: lower limit of the predictions, fixed beforehand.
        upper: limit of the loss of every token that could occur.
        nats: K ln 2 + ln(1/delta).

    Returns:
        The bound on T (not on the risk on new documents), at most `upper`.

    Raises:
        ValueError: illegal losses or exponent, another number of predictions, predictions below `least`.

    Source:
        Waudby-Smith & Ramdas 2023 for the martingale; the arithmetic-geometric inequality gathers its factors.
    """
    check_nats(nats)
    x = checked_losses(losses, upper)
    if predicted.shape != x.shape:
        raise ValueError(f"{len(predicted)} predictions for {len(x)} losses")
    if least >= upper:
        raise ValueError(f"the predictions' lower limit {least} must be below the upper limit {upper} of the loss")
    y = predicted.astype(np.float64)
    if not y.min() >= least - ROUNDING:
        raise ValueError(f"a prediction of {y.min()} is below {least}, or not a number")
    difference = np.maximum(y, least) - x
    best = upper
    for rate in np.geomspace(*GRID_LIMITS, GRID_POINTS) / (upper - least):
        growth = float(np.log1p(rate * difference).mean()) - (nats + math.log(GRID_POINTS)) / len(x)
        best = min(best, float(np.maximum(y, least).mean()) - math.expm1(growth) / float(rate))
    return best
