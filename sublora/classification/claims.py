"""From predictions to claims: bounds on shares of errors in a population. Torch-free."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8

from sublora.certificate.draw import DRAW_BITS
from sublora.certificate.rounding import store_down, store_up
from sublora.classification.model import ErrorClaim, ErrorClaims, GainClaim, TopClaim
from sublora.classification.predictions import Predictions
from sublora.inequalities import betting, betting_subsampled, nats, projected_betting, projected_subsampled
from sublora.inequalities.betting_drawn import pilot_size
from sublora.scoring.decisions import RANK_MARGIN, clear_errors, label_errors

# The label is claimed to be among so many of the likeliest, and among fewer.
MOST_K = 5
# Another machine adds numbers in another order: what it finds, which is given no allowance, is still below the claim.
ALLOWANCE = 1e-6


Losses = Bool[np.ndarray, " m"] | Int8[np.ndarray, " m"]
"""of documents, at most 1: errors, or by how many the classifier makes more than its base"""


@dataclass(frozen=True)
class Terms:
    """What a bound depends on besides the losses.

    n: certified documents.
    bits: what the union over messages and divisions pays.
    delta: probability that the bound may fail.
    drawn: the losses are those of uniform draws with replacement, which may be repeated 2^40 times; else of all n.
    """

    n: int
    bits: int
    delta: float
    drawn: bool


def make_claims(predictions: Predictions, terms: Terms, margin: float) -> ErrorClaims:
    """Return every claim of a certificate.

    Args:
        predictions: of the documents that were measured, in the order of the draw.
        terms: what the bounds depend on besides them.
        margin: near ties of so much count against the classifier, and for the base that it is compared with.
    """
    p = predictions

    def errors(k: int) -> tuple[int, float]:
        own, careful = (label_errors(p.logits, p.classes, m, k) for m in (margin, RANK_MARGIN))
        return int(own.sum()), claimed(error_bound(own, careful, terms))

    wrong, at_most = errors(1)
    top = ((k, *errors(k)) for k in range(2, min(MOST_K, p.logits.shape[1] - 1) + 1))
    more = errors_over_base(p, margin)
    return ErrorClaims(
        error=ErrorClaim(bound=at_most, measured=len(more), errors=wrong),
        top=tuple(TopClaim(k=k, bound=value, errors=count) for k, count, value in top),
        gain=GainClaim(
            bound=claimed_gain(error_bound(more, errors_over_base(p, RANK_MARGIN), terms)),
            mended=int((more < 0).sum()),
            spoiled=int((more > 0).sum()),
        ),
    )


def errors_over_base(predictions: Predictions, margin: float) -> Int8[np.ndarray, " m"]:
    """Return 1 where the classifier alone is wrong, -1 where the base alone is, and 0 elsewhere.

    Args:
        predictions: of both.
        margin: near ties of so much, and exact ones, are errors of the classifier and none of the base.
    """
    p = predictions
    own = label_errors(p.logits, p.classes, margin)
    return own.astype(np.int8) - clear_errors(p.base_logits, p.classes, margin)


def error_bound(errors: Losses, careful: Losses, terms: Terms) -> float:
    """Bound the mean loss over the population that n documents were drawn from without replacement.

    An error is a loss of 1, so this is the share of errors. Less those of the base, losses are in [-1, 1]: betting
    needs no lower limit, and its bound for them is that for (1 + loss) / 2 in [0, 1], rescaled.

    Args:
        errors: losses of the documents that were measured, in the order of the draw, or of all n.
        careful: the same with near ties as errors: bets are chosen for these, so that machines which decide near ties
            differently choose the same bets.
        terms: what the bound depends on besides.
    """
    losses = errors.astype(np.float64)
    if not terms.drawn:
        return betting(losses, upper=1.0, nats=nats(terms.bits, terms.delta))
    pilot = pilot_size(len(losses))
    losses[:pilot] = careful[:pilot]
    return betting_subsampled(
        losses,
        upper=1.0,
        n=terms.n,
        message_nats=terms.bits * math.log(2),
        delta=terms.delta,
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


def claimed_gain(value: float) -> float:
    """Return the gain that is claimed where a bound says by how much more errors there are: rounded down."""
    return max(store_down(-value - ALLOWANCE), -1.0)
