"""From losses to claims: the arithmetic of a certificate. Torch-free."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sublora.bounds.inequalities import (
    betting,
    betting_subsampled,
    hoeffding_subsampling,
    nats,
    projected_betting,
    token_azuma,
    token_betting,
)
from sublora.bounds.scores import TOP_K, Scores
from sublora.bounds.smoothing import (
    TOKEN_SMOOTHING_GRID,
    mixture_bits,
    mixture_upper,
    token_smoothing_bits,
    token_smoothing_range,
)

# Another machine may get losses that differ in their last digits. Claims are computed with this much added to every
# loss (bits per token, or share of tokens), so that a replay elsewhere, which adds nothing, still confirms them.
LOSS_MARGIN = 1e-4
# Bounds are shown rounded up at this many digits.
DIGITS = 6


# Before a token is seen, its loss is predicted to be this share of the limit: any number that is fixed beforehand will
# do, because the bets that are tried make up for it.
PREDICTED_SHARE = 0.5


@dataclass(frozen=True)
class Terms:
    """What a bound depends on besides the losses.

    bound_type: document_level and sequence_level claims are about units (documents, blocks) that are drawn
        independently, token_level claims about the next token after each context of the training text.
    bits: K, length of the message in bits.
    n: units in the training sample; tokens, for token_level.
    delta: probability that the claim may fail.
    joint: split delta over all claims, so that all hold at once.
    mixture_weight: of the uniform distribution: e of the document mixture, or a of token smoothing for token_level.
    n_symbols: number of tokens that can occur inside a unit.
    min_tokens: every unit has at least this many tokens.
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
    subsampled: bool

    @property
    def about_tokens(self) -> bool:
        """Whether losses are those of tokens."""
        return self.bound_type == "token_level"


def _round_up(value: float) -> float:
    return math.ceil(round(value * 10**DIGITS, 3)) / 10**DIGITS


def losses_by_metric(scores: Scores, terms: Terms) -> dict[str, tuple[Float[np.ndarray, " m"], float]]:
    """Return, per metric, the losses that are bounded and their upper limit.

    `bpd` is bits per token under the document mixture; `bpb` divides by bytes instead, and has the same limit because
    a token is at least one byte; it is left out where bytes are unknown. For claims about tokens, `bpd` is the bits of
    every token under token smoothing, and a miss is a loss of 1.
    """
    if terms.about_tokens:
        return _token_losses(scores, terms)
    bpd = mixture_bits(scores.bits, scores.lengths, terms.n_symbols, terms.mixture_weight)
    upper = mixture_upper(terms.n_symbols, terms.mixture_weight, terms.min_tokens)
    out = {"bpd": (bpd, upper)}
    if scores.byte_lengths.all():
        out["bpb"] = (bpd * scores.lengths / scores.byte_lengths, upper)
    return out | {f"top_{k}_error": (scores.errors[:, i], 1.0) for i, k in enumerate(TOP_K)}


def _token_losses(scores: Scores, terms: Terms) -> dict[str, tuple[np.ndarray, float]]:
    bits = token_smoothing_bits(scores.token_bits.ravel(), terms.mixture_weight, terms.n_symbols)
    out = {"bpd": (bits, token_smoothing_range(terms.mixture_weight, terms.n_symbols)[1])}
    for i, k in enumerate(TOP_K):
        # Predictions are constant, so the order of the losses does not matter.
        out[f"top_{k}_error"] = ((np.arange(len(bits)) < scores.misses[:, i].sum()).astype(np.float64), 1.0)
    return out


def risk_bound(losses: Float[np.ndarray, " m"], upper: float, terms: Terms, claims: int = 1) -> float:
    """Return the betting bound: of all n losses, in two stages of those that were drawn, or of tokens.

    Args:
        losses: per unit or token, at most `upper`.
        upper: limit of the loss of every unit or token that could exist.
        terms: K, n, delta.
        claims: number of claims that share delta.
    """
    delta = terms.delta / claims
    if terms.about_tokens:
        return _token_bound(losses, upper, nats(terms.bits, delta))
    if terms.subsampled:
        return betting_subsampled(
            losses, upper=upper, n=terms.n, message_nats=terms.bits * math.log(2), delta=delta
        ).value
    return betting(losses, upper=upper, nats=nats(terms.bits, delta))


def _token_bound(losses: np.ndarray, upper: float, exponent: float) -> float:
    predicted = PREDICTED_SHARE * upper
    return token_betting(losses, np.full(len(losses), predicted), least=predicted, upper=upper, nats=exponent)


def projected_bound(losses: Float[np.ndarray, " m"], upper: float, terms: Terms) -> float:
    """Return the bound that all n losses would get if they were distributed as these m: an estimate, not a claim."""
    exponent = nats(terms.bits, terms.delta)
    if terms.about_tokens:
        return _token_bound(losses, upper, exponent * len(losses) / terms.n)
    return projected_betting(losses, upper=upper, nats=exponent, n=terms.n)


def make_claims(scores: Scores, terms: Terms, margin: float = LOSS_MARGIN) -> list[dict[str, Any]]:
    """Return the claims of a certificate: metric, mean measured loss, bound, and the limit of the loss.

    Args:
        scores: losses of the documents that were measured, in the order of the draw.
        terms: what the bound depends on besides them.
        margin: added to every loss.
    """
    metrics = losses_by_metric(scores, terms)
    claims = []
    for metric, (losses, upper) in metrics.items():
        value = risk_bound(np.minimum(losses + margin, upper), upper, terms, len(metrics) if terms.joint else 1)
        claims.append(
            {"metric": metric, "empirical": float(losses.mean()), "bound": _round_up(min(value, upper)), "upper": upper}
        )
    return claims


def decompose(scores: Scores, terms: Terms, bound: float) -> dict[str, float]:
    """Split the first claim's bound into what the model loses and what each step of the proof adds, in bits per token.

    `complexity` is what K, n and delta would cost if the losses measured were all n of them; `sampling` is the rest.
    """
    losses, upper = losses_by_metric(scores, terms)["bpd"]
    raw, mean = float((scores.bits / scores.lengths).mean()), float(losses.mean())
    full = projected_bound(losses, upper, terms) - mean
    return {"empirical": raw, "smoothing": mean - raw, "complexity": full, "sampling": bound - mean - full}


def earlier_bound(scores: Scores, terms: Terms) -> dict[str, Any]:
    """Return what earlier work's bound gives for the same message and the same losses."""
    return azuma_bound(scores, terms) if terms.about_tokens else reference_bound(scores, terms)


def azuma_bound(scores: Scores, terms: Terms) -> dict[str, Any]:
    """Return the bound on tokens of Lotfi et al. (2024b) for the same message, losses and smoothing."""
    losses, _ = losses_by_metric(scores, terms)["bpd"]
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
