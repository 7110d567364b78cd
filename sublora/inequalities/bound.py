"""The tightest bound we know for losses that somebody has measured, in one call."""

import math

import numpy as np
from jaxtyping import Shaped

from sublora.inequalities.betting_all import betting
from sublora.inequalities.betting_drawn import betting_subsampled
from sublora.inequalities.checks import nats
from sublora.inequalities.classical import kl_inverse
from sublora.inequalities.combine import weighted_minimum


def bound(
    losses: Shaped[np.ndarray, " m"],
    *,
    upper: float,
    lower: float | None = None,
    bits: int = 0,
    delta: float = 0.05,
    n: int | None = None,
) -> float:
    """Return an upper bound on the risk of a model, with probability at least 1 - delta.

    Args:
        losses: shape (m,), in any unit: bits per token, share of errors, 0 and 1. Of n independent documents, or of a
            random choice from a population without replacement; not of tokens or windows of one text.
        upper: limit of the loss of every document that could exist, same unit.
        lower: limit from below, if there is one: 0 for errors. Then the inverse of kl (Hoeffding 1963, theorem 1) is
            tried as well, with half of delta each; it is the better one where little else is paid for.
        bits: K, the length in bits of a prefix-free code of the model. 0 for a model that was fixed before these
            documents were looked at: then this is a bound from a test set.
        delta: probability that the bound may fail, in (0, 1).
        n: the model was chosen on n documents, of which these m were drawn afterwards, uniformly with replacement, in
            this order; None: these are all of them.

    Returns:
        The bound, at most `upper`, in the unit of the losses.

    Raises:
        ValueError: no losses, a loss that is not finite or above `upper`, an illegal delta or number of bits; with n,
            fewer than two losses.

    Source:
        Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting"; over all messages at
        once by Kraft's inequality, as in Lotfi et al. 2024, theorem 3.1, whose own bound is wider.
    """
    values = np.asarray(losses)
    values = values.astype(np.float64) if values.dtype.kind in "bui" else values
    if n is not None:
        if bits < 0:
            raise ValueError(f"a message cannot have {bits} bits")
        return betting_subsampled(values, upper=upper, n=n, message_nats=bits * math.log(2), delta=delta).value
    if lower is None:
        return betting(values, upper=upper, nats=nats(bits, delta))
    return weighted_minimum(
        [
            (0.5, lambda exponent: betting(values, upper=upper, nats=exponent)),
            (0.5, lambda exponent: kl_inverse(values, lower=lower, upper=upper, nats=exponent)),
        ],
        nats(bits, delta),
    )
