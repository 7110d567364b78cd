"""The subsampled bound of earlier work, for comparison."""

import math

import numpy as np
from jaxtyping import Float

from sublora.inequalities.checks import check_delta, check_nats, checked_losses


def hoeffding_subsampling(
    losses_drawn: Float[np.ndarray, " m"], *, spread: float, n: int, message_nats: float, delta: float
) -> float:
    """Bound the risk by Hoeffding's inequality twice: for the n documents, and for the m of them that were measured.

        mean + spread (sqrt((message_nats + ln(1/(r delta))) / (2 n)) + sqrt(ln(1/((1-r) delta)) / (2 m))),
        r = m/(m+n).

    Args:
        losses_drawn: m losses drawn from the n, uniformly and after the model was fixed.
        spread: upper minus lower limit of the loss; log2(1 + (1-a) V/a) bits under token smoothing, 1 for error rates.
        n: documents in the sample.
        message_nats: K ln 2.
        delta: probability that the claim may fail, in (0, 1).

    Returns:
        The bound on the risk, in the unit of the losses. Only the spread is known here, so it may be above the loss's
        limit.

    Raises:
        ValueError: no losses, losses that are not finite or further apart than the spread, illegal n, delta or
            exponent.

    Source:
        Lotfi et al. 2024, "Non-vacuous generalization bounds for large language models", the subsampling bound.
    """
    check_delta(delta)
    check_nats(message_nats)
    if n < 1 or spread <= 0:
        raise ValueError(f"n = {n} and a spread of {spread}: both must be positive")
    smallest = float(losses_drawn.min(initial=math.inf))
    x = checked_losses(losses_drawn, smallest + spread if math.isfinite(smallest) else spread)
    m = len(x)
    share = m / (m + n)
    sample = math.sqrt((message_nats + math.log(1 / (share * delta))) / (2 * n))
    draw = math.sqrt(math.log(1 / ((1 - share) * delta)) / (2 * m))
    return float(x.mean()) + spread * (sample + draw)
