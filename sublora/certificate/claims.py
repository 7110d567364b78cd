"""From losses to claims: the arithmetic of a certificate. Torch-free."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sublora.certificate.draw import DRAW_BITS
from sublora.certificate.model import Claim, Comparison, Decomposition
from sublora.certificate.rounding import store_down, store_up
from sublora.certificate.terms import BASE_MIXTURE, PROMPT_MIXTURE, Terms
from sublora.certificate.wording import metric_name
from sublora.inequalities import (
    betting,
    betting_subsampled,
    hoeffding_subsampling,
    nats,
    projected_betting,
    projected_subsampled,
    token_azuma,
    token_betting,
)
from sublora.inequalities.smoothing import (
    TOKEN_SMOOTHING_GRID,
    excess_upper,
    mixture_bits,
    mixture_excess,
    token_smoothing_bits,
    token_smoothing_range,
)
from sublora.scoring.scores import TOP_K, Scores

# Another machine may get losses that differ in their last digits. Claims are computed with this much added to every
# loss (bits per token, or share of tokens), so that a replay elsewhere, which adds nothing, still confirms them.
LOSS_MARGIN = 1e-4

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
    expected: the expectation of the known part, or an upper bound on it.
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
class Chain:
    """Lengths of units in bits along the chain of references: known code, base over it, model over that.

    q1 = (1 - e1) base + e1 known, and q1 = known where the base is random; q2 = (1 - e2) model + e2 q1. So
    g2 - g1 <= log2(1/e2) / T and g1 - g0 <= log2(1/e1) / T for every document that could exist.
    """

    known: Float[np.ndarray, " m"]
    base: Float[np.ndarray, " m"]
    model: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class Prompted:
    """Lengths of units in bits where the base behind the message's prompt stands between base and model.

    base: of (1 - e) (base behind the prompt) + e q1, with e fixed by the format.
    model: of the model that falls back on this.
    """

    base: Float[np.ndarray, " m"]
    model: Float[np.ndarray, " m"]


def chain_of(scores: Scores, terms: Terms) -> Chain:
    """Return the lengths of units along the chain of references."""
    known, lengths = scores.known, scores.lengths
    base = mixture_bits(scores.base_bits[:, 0], known, lengths, BASE_MIXTURE) if terms.has_base else known
    return Chain(known, base, mixture_bits(scores.bits, base, lengths, terms.mixture_weight))


def prompted_of(scores: Scores, terms: Terms, chain: Chain) -> Prompted | None:
    """Return the base behind the message's prompt and the model over it; None where they are not compared.

    Args:
        scores: of units.
        terms: of the claim.
        chain: of the same.
    """
    if not terms.prompt_bits or scores.base_bits.shape[1] < 2:
        return None
    lengths = scores.lengths
    base = mixture_bits(scores.base_bits[:, 1], chain.base, lengths, PROMPT_MIXTURE)
    return Prompted(base, mixture_bits(scores.bits, base, lengths, terms.mixture_weight))


def mixture_losses(
    bits: Float[np.ndarray, " m"], known: Float[np.ndarray, " m"], lengths: Int[np.ndarray, " m"], terms: Terms
) -> Losses:
    """Return the losses of units in bits per token, under the mixture of a code and the known code.

    Args:
        bits: -log2 of the code's probabilities.
        known: lengths in the known code, in bits.
        lengths: tokens.
        terms: mixture weight, shortest unit, and what is known of the known code.
    """
    upper = excess_upper(terms.mixture_weight, terms.min_tokens)
    return Losses(
        excess=mixture_excess(bits, known, lengths, terms.mixture_weight),
        upper=upper,
        known=known / lengths,
        expected=terms.known.per_token,
        limit=terms.known.limit + upper,
    )


def losses_by_metric(scores: Scores, terms: Terms) -> dict[str, Losses]:
    """Return the losses that are bounded, per metric.

    `bpd` is bits per token under the mixture of the model and what it falls back on; `bpb` divides by bytes instead, of
    which the shortest document has at least as many; it is left out where bytes are unknown.
    With a pretrained base, `bpd_gain` and `bpb_gain` are by how much more the model needs than its base with the same
    fallback (a negative loss is a gain), and `_gain_alone` than the base alone. `_gain_prompted`, where the message has
    prompt and adapter, compares it with the base behind the same prompt, and here the model falls back on that.
    For claims about tokens, `bpd` is the bits of every token under token smoothing, and a miss is a loss of 1.
    """
    if terms.about_tokens:
        return _token_losses(scores, terms)
    chain = chain_of(scores, terms)
    prompted = prompted_of(scores, terms, chain)
    out, gains = {}, {}
    for metric, unit in units_of(scores, terms).items():
        own = excess_upper(terms.mixture_weight, unit.least)
        out[metric] = document_losses(chain.model, own + base_upper(unit, terms), unit, scores, terms)
        if terms.has_base:
            gains[f"{metric}_gain"] = plain((chain.model - chain.base) / unit.sizes, own)
            # g1 is at most log2(1/(1-e1)) / T above the base alone.
            alone = own + excess_upper(1 - BASE_MIXTURE, unit.least)
            gains[f"{metric}_gain_alone"] = plain((chain.model - scores.base_bits[:, 0]) / unit.sizes, alone)
        if prompted is not None:
            gains[f"{metric}_gain_prompted"] = plain((prompted.model - prompted.base) / unit.sizes, own)
    out |= gains
    return out | {f"top_{k}_error": plain(scores.errors[:, i], 1.0) for i, k in enumerate(TOP_K)}


@dataclass(frozen=True)
class Unit:
    """What bits are counted per: tokens, or bytes of text.

    sizes: of the documents.
    least: of the shortest document that could exist.
    expected: what is predicted of a document on average, or an upper bound on it.
    weight: ceilings of a prediction are so many times as high as per byte.
    """

    sizes: Int[np.ndarray, " m"]
    least: int
    expected: float
    weight: int


def units_of(scores: Scores, terms: Terms) -> dict[str, Unit]:
    """Return what bits are counted per, by metric: tokens, and bytes of text where they are known."""
    known = terms.known
    out = {"bpd": Unit(scores.lengths, terms.min_tokens, known.predicted_per_token, terms.bytes_of_a_token)}
    if scores.byte_lengths.all() and known.predicted_per_byte is not None:
        out["bpb"] = Unit(scores.byte_lengths, terms.min_bytes, known.predicted_per_byte, 1)
    return out


def base_upper(unit: Unit, terms: Terms) -> float:
    """Return by how much the base, with its fallback, can be above the known code."""
    return excess_upper(BASE_MIXTURE, unit.least) if terms.has_base else 0.0


def document_losses(bits: Float[np.ndarray, " m"], upper: float, unit: Unit, scores: Scores, terms: Terms) -> Losses:
    """Return the losses of documents, and what is predicted of them.

    Args:
        bits: lengths of documents, which are at most `upper` per unit above those in the known code.
        upper: see bits.
        unit: tokens or bytes.
        scores: what was measured of the documents.
        terms: on which they are bounded.
    """
    known = scores.known / unit.sizes
    predicted = terms.prediction.losses(known, unit.sizes, unit.weight)
    return Losses(
        excess=bits / unit.sizes - predicted,
        # A prediction is at least the price in the known code less its ceiling.
        upper=upper + terms.prediction.ceiling_per(unit.weight),
        known=predicted,
        expected=unit.expected,
        limit=terms.known.limit + upper,
    )


def alone(scores: Scores, terms: Terms, metric: str) -> float:
    """Return the mean loss (or gain) of the decoded model without any mixture."""
    if terms.about_tokens and metric == "bpd":
        return float(scores.token_bits.mean(dtype=np.float64))
    unit, _, kind = metric.partition("_")
    if unit == "top":
        return float(scores.errors[:, TOP_K.index(int(kind.partition("_")[0]))].mean())
    size = scores.lengths if unit == "bpd" else scores.byte_lengths
    if not kind:
        return float((scores.bits / size).mean())
    return float(((scores.base_bits[:, int(kind == "gain_prompted")] - scores.bits) / size).mean())


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

    R = E excess + E known, with the shares 1 - KNOWN_SHARE and KNOWN_SHARE of delta, unless E known is a fact.

    Args:
        losses: as measured.
        terms: K, n, delta.
        claims: number of claims that share delta.
        pilot_margin: added to the losses that bets are chosen for.
    """
    delta = terms.excess_delta / claims
    if terms.about_tokens:
        excess = _token_bound(losses, nats(terms.paid_bits, delta))
    elif terms.subsampled:
        excess = betting_subsampled(
            losses.excess,
            upper=losses.upper,
            n=terms.n,
            message_nats=terms.paid_bits * math.log(2),
            delta=delta,
            claims=2**DRAW_BITS,
            pilot_margin=pilot_margin,
        ).value
    else:
        excess = betting(losses.excess, upper=losses.upper, nats=nats(terms.paid_bits, delta))
    return min(excess + losses.expected, losses.limit)


def _token_bound(losses: Losses, exponent: float) -> float:
    values, upper = losses.excess, losses.upper
    predicted = PREDICTED_SHARE * upper
    return token_betting(values, np.full(len(values), predicted), least=predicted, upper=upper, nats=exponent)


def projected_bound(losses: Losses, terms: Terms) -> float:
    """Return the bound that all n losses would get if they were distributed as these: an estimate, not a claim."""
    exponent = nats(terms.paid_bits, terms.excess_delta)
    if terms.about_tokens:
        return _token_bound(losses, exponent * len(losses.excess) / terms.n)
    return projected_betting(losses.excess, upper=losses.upper, nats=exponent, n=terms.n) + losses.expected


def projected_claim(losses: Losses, terms: Terms, samples: int) -> float:
    """Return the claim that so many draws would get if all lost what these lose: an estimate.

    Args:
        losses: of a few units.
        terms: K, n, delta.
        samples: draws; 0: all units are measured.
    """
    if not samples:
        return projected_bound(losses, terms)
    excess = projected_subsampled(
        losses.excess,
        upper=losses.upper,
        n=terms.n,
        samples=samples,
        message_nats=terms.paid_bits * math.log(2),
        delta=terms.excess_delta,
        claims=2**DRAW_BITS,
    )
    return min(excess + losses.expected, losses.limit)


def make_claims(scores: Scores, terms: Terms, margin: float = LOSS_MARGIN) -> tuple[Claim, ...]:
    """Return the claims of a certificate.

    Args:
        scores: losses of the documents that were measured, in the order of the draw.
        terms: what the bound depends on besides them.
        margin: added to every loss, at most LOSS_MARGIN. Bets are always chosen for losses with all of LOSS_MARGIN, so
            that a replay, which adds less, takes those of the certificate.
    """
    metrics = losses_by_metric(scores, terms)
    claims = []
    for metric, losses in metrics.items():
        value = risk_bound(careful(losses, margin), terms, len(metrics) if terms.joint else 1, LOSS_MARGIN - margin)
        empirical, gain = float(losses.values.mean()), "_gain" in metric
        claims.append(
            Claim(
                metric=metric,
                name=metric_name(metric),
                sense="at least" if gain else "at most",
                bound=store_down(-value) if gain else store_up(value),
                empirical=-empirical if gain else empirical,
                model_alone=alone(scores, terms, metric),
                limit=-losses.limit if gain else losses.limit,
            )
        )
    return tuple(claims)


def careful(losses: Losses, margin: float) -> Losses:
    """Return losses that are larger by a margin, inside their limit."""
    return dataclasses.replace(losses, excess=np.minimum(losses.excess + margin, losses.upper))


def decompose(scores: Scores, terms: Terms, bound: float) -> Decomposition:
    """Split the first claim's bound into what the model loses and what each step of the proof adds, in bits per token.

    `complexity` is what K, n and delta would cost if the losses measured were all n of them; `sampling` is the rest.
    """
    losses = losses_by_metric(scores, terms)["bpd"]
    raw, mean = float((scores.bits / scores.lengths).mean()), float(losses.values.mean())
    full = projected_bound(losses, terms) - mean
    return Decomposition(empirical=raw, smoothing=mean - raw, complexity=full, sampling=bound - mean - full)


def earlier_bound(scores: Scores, terms: Terms) -> Comparison:
    """Return what earlier work's bound gives for the same message and the same losses."""
    return azuma_bound(scores, terms) if terms.about_tokens else reference_bound(scores, terms)


def azuma_bound(scores: Scores, terms: Terms) -> Comparison:
    """Return the bound on tokens of Lotfi et al. (2024b) for the same message, losses and smoothing."""
    losses = losses_by_metric(scores, terms)["bpd"].values
    low, high = token_smoothing_range(terms.mixture_weight, terms.n_symbols)
    return Comparison(
        name="token_azuma",
        metric="bpd",
        bound=token_azuma(losses, lower=low, upper=high, nats=nats(terms.bits, terms.delta)),
        smoothing=terms.mixture_weight,
        empirical=float(losses.mean()),
        note="Lotfi et al. 2024b; not a claim of this certificate",
    )


def reference_bound(scores: Scores, terms: Terms) -> Comparison:
    """Return the bound of Lotfi et al. (2024) for the same message, losses and draw.

    Token smoothing, and the smallest over the grid of smoothing values, for which that paper pays nothing.
    """
    tried = []
    for i, a in enumerate(TOKEN_SMOOTHING_GRID):
        low, high = token_smoothing_range(a, terms.n_symbols)
        value = hoeffding_subsampling(
            scores.smoothed[:, i],
            spread=high - low,
            n=terms.n,
            message_nats=terms.bits * math.log(2),
            delta=terms.delta,
        )
        tried.append((value, a, float(scores.smoothed[:, i].mean())))
    bound, smoothing, empirical = min(tried)
    return Comparison(
        name="hoeffding_subsampling",
        metric="bpd",
        bound=bound,
        smoothing=smoothing,
        empirical=empirical,
        note="Lotfi et al. 2024; not a claim of this certificate",
    )
