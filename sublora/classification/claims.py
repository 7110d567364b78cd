"""From errors to a bound on their share in a population. Torch-free."""

import math

import numpy as np
from jaxtyping import Bool, Float64

from sublora.certificate.draw import DRAW_BITS
from sublora.certificate.rounding import store_up
from sublora.inequalities import betting, betting_subsampled, nats, projected_betting, projected_subsampled
from sublora.inequalities.betting_drawn import pilot_size

# Another machine adds numbers in another order: what it finds, which is given no allowance, is still below the claim.
ALLOWANCE = 1e-6


def error_bound(
    errors: Bool[np.ndarray, " m"],
    careful: Bool[np.ndarray, " m"],
    *,
    n: int,
    bits: int,
    delta: float,
    drawn: bool,
) -> float:
    """Bound the share of errors in the population that n documents were drawn from without replacement.

    Args:
        errors: of the documents that were measured, in the order of the draw, or of all n.
        careful: the same with near ties as errors: bets are chosen for these, so that machines which decide near ties
            differently choose the same bets.
        n: certified documents.
        bits: what the union over messages and divisions pays.
        delta: probability that the bound may fail.
        drawn: the errors are those of uniform draws with replacement, which may be repeated 2^40 times.
    """
    losses = errors.astype(np.float64)
    if not drawn:
        return betting(losses, upper=1.0, nats=nats(bits, delta))
    pilot = pilot_size(len(losses))
    losses[:pilot] = careful[:pilot]
    return betting_subsampled(
        losses,
        upper=1.0,
        n=n,
        message_nats=bits * math.log(2),
        delta=delta,
        claims=2**DRAW_BITS,
    ).value


def projected_error_bound(losses: Float64[np.ndarray, " m"], *, n: int, bits: int, delta: float, samples: int) -> float:
    """Return the bound that so many draws would get if they erred as often as these: an estimate, not a claim.

    Args:
        losses: errors of a few documents.
        n: number of certified documents.
        bits: length of the message.
        delta: probability that the bound may fail.
        samples: draws; 0: all n documents are measured.
    """
    if not samples:
        return projected_betting(losses, upper=1.0, nats=nats(bits, delta), n=n)
    return projected_subsampled(
        losses,
        upper=1.0,
        n=n,
        samples=samples,
        message_nats=bits * math.log(2),
        delta=delta,
        claims=2**DRAW_BITS,
    )


def claimed(value: float) -> float:
    """Return a bound as it is claimed: rounded up, and at most 1."""
    return min(store_up(value + ALLOWANCE), 1.0)
