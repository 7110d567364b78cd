"""The pretrained base as a competitor: what the same bound gives for it on the same documents. Torch-free."""

import dataclasses

import numpy as np
from jaxtyping import Float

from sublora.certificate.claims import (
    LOSS_MARGIN,
    base_upper,
    careful,
    chain_of,
    document_losses,
    prompted_of,
    risk_bound,
    units_of,
)
from sublora.certificate.model import Baseline
from sublora.certificate.rounding import store_up
from sublora.certificate.terms import PROMPT_MIXTURE, Terms
from sublora.coding.architecture import TAG_BITS
from sublora.coding.prediction import NEUTRAL
from sublora.inequalities.smoothing import excess_upper
from sublora.scoring.scores import Scores

# The base falls back on the known code, as the model does.
BASE_NAME = "the base with the same fallback"
PROMPTED_NAME = "the base with the same prompt and fallback"


def base_alone(scores: Scores, terms: Terms) -> Baseline | None:
    """Return what the same bound gives for the pretrained base without adapter and prompt, on the same documents.

    None with a random base.

    The base is known beforehand and needs no message; the bits that name it, and a prediction, are paid for.
    """
    if not terms.has_base:
        return None
    return _best_base(scores, terms, BASE_NAME, chain_of(scores, terms).base, 0)


def base_prompted(scores: Scores, terms: Terms) -> Baseline | None:
    """Return what the same bound gives for the base behind the message's prompt, on the same documents.

    None where the message has no prompt, or no adapter: it is then this base itself. Its message is the prompt, whose
    bits are paid for beside those of `base_alone`.
    """
    if not terms.has_base:
        return None
    prompted = prompted_of(scores, terms, chain_of(scores, terms))
    if prompted is None:
        return None
    return _best_base(scores, terms, PROMPTED_NAME, prompted.base, terms.prompt_bits)


def _best_base(scores: Scores, terms: Terms, name: str, lengths: Float[np.ndarray, " m"], prompt_bits: int) -> Baseline:
    """With the message's prediction or with none, whichever is better for the base."""
    return min(
        (_base_bound(scores, of, name, lengths, prompt_bits) for of in (terms, _unpredicted(terms))),
        key=lambda b: b.bound if b.bound_bpb is None else b.bound_bpb,
    )


def _unpredicted(terms: Terms) -> Terms:
    """The terms of a message that predicts of a document what it costs in the known code."""
    known = terms.known
    same = known.model_copy(update={"predicted_per_token": known.per_token, "predicted_per_byte": known.per_byte})
    return dataclasses.replace(terms, prediction=NEUTRAL, known=same)


def _base_bound(
    scores: Scores, terms: Terms, name: str, lengths: Float[np.ndarray, " m"], prompt_bits: int
) -> Baseline:
    paid = TAG_BITS + terms.prediction.bits + prompt_bits
    own = dataclasses.replace(terms, bits=paid, joint=False)
    bounds = {}
    for metric, unit in units_of(scores, own).items():
        upper = base_upper(unit, own) + (excess_upper(PROMPT_MIXTURE, unit.least) if prompt_bits else 0.0)
        losses = document_losses(lengths, upper, unit, scores, own)
        bounds[metric] = store_up(risk_bound(careful(losses, LOSS_MARGIN), own))
    return Baseline(
        name=name,
        bits=paid,
        held_out=None,
        bound=bounds["bpd"],
        held_out_bpb=None,
        bound_bpb=bounds.get("bpb"),
    )
