"""What follows from the facts of a certificate and its losses: claims, comparison and words. Torch-free.

Issuing computes them, and verifying computes them again and compares: there is one way to get them.
"""

from typing import Any

from sublora.certificate.claims import LOSS_MARGIN, Terms, decompose, earlier_bound, make_claims
from sublora.certificate.fallback import Fallback
from sublora.certificate.wording import limits, metric_name, statement
from sublora.coding.spec import ModelSpec
from sublora.scoring.scores import Scores


def terms_of(facts: dict[str, Any]) -> Terms:
    """Return what the bound depends on, as a certificate states it.

    Raises:
        KeyError, TypeError: a field is missing.
    """
    corpus, documents = facts["corpus"], facts["bound_type"] == "document_level"
    return Terms(
        bound_type=facts["bound_type"],
        bits=facts["message"]["bits"],
        n=corpus["n"],
        delta=facts["delta"],
        joint=facts["joint"],
        mixture_weight=facts["mixture_weight"],
        n_symbols=corpus["vocab_size"] - (1 if documents else 0),
        min_tokens=corpus["min_tokens"],
        fallback=Fallback(**facts["fallback"]),
        subsampled=facts["draw"]["samples"] > 0,
    )


def numbers(facts: dict[str, Any], scores: Scores, margin: float = LOSS_MARGIN) -> dict[str, Any]:
    """Return claims, comparison and decomposition: the fields that follow from the losses.

    Args:
        facts: the other fields of a certificate.
        scores: losses of what was measured, in the order of the draw.
        margin: added to every loss before it is bounded.

    Raises:
        KeyError, TypeError, ValueError: a field is missing or impossible.
    """
    terms = terms_of(facts)
    claims = [{**c, "name": metric_name(c["metric"])} for c in make_claims(scores, terms, margin)]
    return {
        "claims": claims,
        "comparison": [earlier_bound(scores, terms)],
        "decomposition": decompose(scores, terms, claims[0]["bound"]),
    }


def words(facts: dict[str, Any], claims: list[dict[str, Any]]) -> dict[str, Any]:
    """Return statement and limits: the fields that say in words what the claims are, and what they are not.

    Raises:
        KeyError, TypeError: a field is missing.
    """
    terms, prior = terms_of(facts), facts["prior"]
    headline = next((c for c in claims if c["metric"] == "bpb"), claims[0])
    return {
        "statement": statement(headline, terms, facts["corpus"]["source"]),
        "limits": limits(terms, prior["base_weights"], prior["tokenizer"], claims[0]["bound"], facts["baselines"]),
    }


def base_weights(source: str, spec: ModelSpec) -> str:
    """Return where base weights come from, in words."""
    return f"random, seed {spec.seed}" if source == "scratch" else source
