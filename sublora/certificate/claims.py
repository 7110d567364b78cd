"""From losses to claims: the arithmetic of a certificate. Torch-free."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sublora.certificate.fallback import FALLBACK_SHARE, Fallback
from sublora.corpus.fallback import UNIT
from sublora.inequalities import (
    betting,
    betting_subsampled,
    hoeffding_subsampling,
    nats,
    projected_betting,
    token_azuma,
    token_betting,
)
from sublora.inequalities.smoothing import (
    TOKEN_SMOOTHING_GRID,
    excess_upper,
    mixture_excess,
    token_smoothing_bits,
    token_smoothing_range,
)
from sublora.scoring.scores import TOP_K, Scores

# Another machine may get losses that differ in their last digits. Claims are computed with this much added to every
# loss (bits per token, or share of tokens), so that a replay elsewhere, which adds nothing, still confirms them.
LOSS_MARGIN = 1e-4
# Bounds are shown rounded up at this many digits.
DIGITS = 6


# Before a token is seen, its loss is predicted to be this share of the limit: any number that is fixed beforehand will
# do, because the bets that are tried make up for it.
PREDICTED_SHARE = 0.5


@dataclass(frozen=True)
class Losses:
    """The losses of one metric, in two parts: a known one, and the excess over it that a model is responsible for.

    Only the excess is bounded for all models at once, so only its range and its spread are multiplied by K. The
    expectation of the known part is bounded once, for nobody chose it.

    excess: per unit or token, at most `upper`; it may be negative.
    upper: limit of the excess of every unit or token that could exist.
    known: per unit, or 0.
    expected: upper bound on the expectation of the known part.
    limit: of the whole loss.
    """

    excess: Float[np.ndarray, " m"]
    upper: float
    known: Float[np.ndarray, " m"] | float
    expected: float
    limit: float

    @property
    def values(self) -> Float[np.ndarray, " m"]:
        """The whole losses."""
        return self.known + self.excess


def plain(losses: Float[np.ndarray, " m"], upper: float) -> Losses:
    """Return losses of which nothing is known beforehand."""
    return Losses(losses, upper, 0.0, 0.0, upper)


@dataclass(frozen=True)
class Terms:
    """What a bound depends on besides the losses.

    bound_type: document_level and sequence_level claims are about units (documents, blocks) that are drawn
        independently, token_level claims about the next token after each context of the training text.
    bits: K, length of the message in bits.
    n: units in the training sample; tokens, for token_level.
    delta: probability that the claim may fail.
    joint: split delta over all claims, so that all hold at once.
    mixture_weight: e, of the fallback code in the document mixture; for token_level a, of the uniform distribution in
        token smoothing.
    n_symbols: number of tokens that can occur inside a unit.
    min_tokens: every unit has at least this many tokens.
    fallback: what is known of the fallback code's lengths.
    subsampled: the losses are a draw with replacement from the units, rather than all of them.
    """

    bound_type: str
    bits: int
    n: int
    delta: float
    joint: bool
    mixture_weight: float
    n_symbols: int
    min_tokens: int
    fallback: Fallback
    subsampled: bool

    @property
    def about_tokens(self) -> bool:
        """Whether losses are those of tokens."""
        return self.bound_type == "token_level"


def _round_up(value: float) -> float:
    return math.ceil(round(value * 10**DIGITS, 3)) / 10**DIGITS


def mixture_losses(
    bits: Float[np.ndarray, " m"], known: Float[np.ndarray, " m"], lengths: Int[np.ndarray, " m"], terms: Terms
) -> Losses:
    """Return the losses of units in bits per token, under the mixture of a model and the fallback code.

    Args:
        bits: -log2 of the model's probabilities.
        known: lengths in the fallback code, in bits.
        lengths: tokens.
        terms: mixture weight, shortest unit, and what is known of the fallback code.
    """
    upper = excess_upper(terms.mixture_weight, terms.min_tokens)
    return Losses(
        excess=mixture_excess(bits, known, lengths, terms.mixture_weight),
        upper=upper,
        known=known / lengths,
        expected=terms.fallback.per_token,
        limit=terms.fallback.limit + upper,
    )


def losses_by_metric(scores: Scores, terms: Terms) -> dict[str, Losses]:
    """Return the losses that are bounded, per metric.

    `bpd` is bits per token under the mixture of the model and the fallback code; `bpb` divides by bytes instead, and
    its excess has the same limit because a token is at least one byte; it is left out where bytes are unknown. For
    claims about tokens, `bpd` is the bits of every token under token smoothing, and a miss is a loss of 1.
    """
    if terms.about_tokens:
        return _token_losses(scores, terms)
    known = scores.fallback * UNIT
    bpd = mixture_losses(scores.bits, known, scores.lengths, terms)
    out = {"bpd": bpd}
    if scores.byte_lengths.all() and terms.fallback.per_byte is not None:
        out["bpb"] = dataclasses.replace(
            bpd,
            excess=bpd.excess * (scores.lengths / scores.byte_lengths),
            known=known / scores.byte_lengths,
            expected=terms.fallback.per_byte,
        )
    return out | {f"top_{k}_error": plain(scores.errors[:, i], 1.0) for i, k in enumerate(TOP_K)}


def _token_losses(scores: Scores, terms: Terms) -> dict[str, Losses]:
    bits = token_smoothing_bits(scores.token_bits.ravel(), terms.mixture_weight, terms.n_symbols)
    out = {"bpd": plain(bits, token_smoothing_range(terms.mixture_weight, terms.n_symbols)[1])}
    for i, k in enumerate(TOP_K):
        # Predictions are constant, so the order of the losses does not matter.
        misses = (np.arange(len(bits)) < scores.misses[:, i].sum()).astype(np.float64)
        out[f"top_{k}_error"] = plain(misses, 1.0)
    return out


def risk_bound(losses: Losses, terms: Terms, claims: int = 1, pilot_margin: float = 0.0) -> float:
    """Return the betting bound: of all n losses, in two stages of those that were drawn, or of tokens.

    R = E excess + E known, with the shares 1 - FALLBACK_SHARE and FALLBACK_SHARE of delta.

    Args:
        losses: as measured.
        terms: K, n, delta.
        claims: number of claims that share delta.
        pilot_margin: added to the losses that bets are chosen for.
    """
    delta = (1 - FALLBACK_SHARE) * terms.delta / claims
    if terms.about_tokens:
        excess = _token_bound(losses, nats(terms.bits, delta))
    elif terms.subsampled:
        excess = betting_subsampled(
            losses.excess,
            upper=losses.upper,
            n=terms.n,
            message_nats=terms.bits * math.log(2),
            delta=delta,
            pilot_margin=pilot_margin,
        ).value
    else:
        excess = betting(losses.excess, upper=losses.upper, nats=nats(terms.bits, delta))
    return min(excess + losses.expected, losses.limit)


def _token_bound(losses: Losses, exponent: float) -> float:
    values, upper = losses.excess, losses.upper
    predicted = PREDICTED_SHARE * upper
    return token_betting(values, np.full(len(values), predicted), least=predicted, upper=upper, nats=exponent)


def projected_bound(losses: Losses, terms: Terms) -> float:
    """Return the bound that all n losses would get if they were distributed as these: an estimate, not a claim."""
    exponent = nats(terms.bits, (1 - FALLBACK_SHARE) * terms.delta)
    if terms.about_tokens:
        return _token_bound(losses, exponent * len(losses.excess) / terms.n)
    return projected_betting(losses.excess, upper=losses.upper, nats=exponent, n=terms.n) + losses.expected


def make_claims(scores: Scores, terms: Terms, margin: float = LOSS_MARGIN) -> list[dict[str, Any]]:
    """Return the claims of a certificate: metric, mean measured loss, bound, and the limit of the loss.

    Args:
        scores: losses of the documents that were measured, in the order of the draw.
        terms: what the bound depends on besides them.
        margin: added to every loss, at most LOSS_MARGIN. Bets are always chosen for losses with all of LOSS_MARGIN, so
            that a replay, which adds less, takes those of the certificate.
    """
    metrics = losses_by_metric(scores, terms)
    claims = []
    for metric, losses in metrics.items():
        careful = dataclasses.replace(losses, excess=np.minimum(losses.excess + margin, losses.upper))
        value = risk_bound(careful, terms, len(metrics) if terms.joint else 1, LOSS_MARGIN - margin)
        empirical = float(losses.values.mean())
        claims.append({"metric": metric, "empirical": empirical, "bound": _round_up(value), "upper": losses.limit})
    return claims


def decompose(scores: Scores, terms: Terms, bound: float) -> dict[str, float]:
    """Split the first claim's bound into what the model loses and what each step of the proof adds, in bits per token.

    `complexity` is what K, n and delta would cost if the losses measured were all n of them; `sampling` is the rest.
    """
    losses = losses_by_metric(scores, terms)["bpd"]
    raw, mean = float((scores.bits / scores.lengths).mean()), float(losses.values.mean())
    full = projected_bound(losses, terms) - mean
    return {"empirical": raw, "smoothing": mean - raw, "complexity": full, "sampling": bound - mean - full}


def earlier_bound(scores: Scores, terms: Terms) -> dict[str, Any]:
    """Return what earlier work's bound gives for the same message and the same losses."""
    return azuma_bound(scores, terms) if terms.about_tokens else reference_bound(scores, terms)


def azuma_bound(scores: Scores, terms: Terms) -> dict[str, Any]:
    """Return the bound on tokens of Lotfi et al. (2024b) for the same message, losses and smoothing."""
    losses = losses_by_metric(scores, terms)["bpd"].values
    low, high = token_smoothing_range(terms.mixture_weight, terms.n_symbols)
    return {
        "name": "token_azuma",
        "metric": "bpd",
        "bound": token_azuma(losses, lower=low, upper=high, nats=nats(terms.bits, terms.delta)),
        "smoothing": terms.mixture_weight,
        "empirical": float(losses.mean()),
        "note": "Lotfi et al. 2024b; not a claim of this certificate",
    }


def reference_bound(scores: Scores, terms: Terms) -> dict[str, Any]:
    """Return the bound of Lotfi et al. (2024) for the same message, losses and draw.

    Token smoothing, and the smallest over the grid of smoothing values, for which that paper pays nothing.
    """
    best = {"bound": math.inf}
    for i, a in enumerate(TOKEN_SMOOTHING_GRID):
        low, high = token_smoothing_range(a, terms.n_symbols)
        value = hoeffding_subsampling(
            scores.smoothed[:, i],
            spread=high - low,
            n=terms.n,
            message_nats=terms.bits * math.log(2),
            delta=terms.delta,
        )
        if value < best["bound"]:
            best = {"bound": value, "smoothing": a, "empirical": float(scores.smoothed[:, i].mean())}
    return {
        "name": "hoeffding_subsampling",
        "metric": "bpd",
        **best,
        "note": "Lotfi et al. 2024; not a claim of this certificate",
    }
