"""What a certificate says in words: what is bounded, over what, how surely, and what that does not mean. Torch-free."""

import math
from typing import Any

from sublora.certificate.claims import Terms

NAMES = {"bpd": "bits per token", "bpb": "bits per byte"}


def metric_name(metric: str) -> str:
    """Return a metric's name in words."""
    return NAMES.get(metric) or metric.replace("_error", " error").replace("top_", "top-")


def statement(claim: dict[str, Any], terms: Terms, source: str) -> str:
    """Return a claim as one plain sentence.

    Args:
        claim: its metric and bound.
        terms: what the bound depends on.
        source: where the text comes from, in words.
    """
    # Rounded up: a claim that is rounded down is not the one that was proved.
    at_most = f"at most {math.ceil(1000 * claim['bound']) / 1000:.3f} {metric_name(claim['metric'])}"
    sure = f"With probability at least {100 * (1 - terms.delta):g} % over"
    if terms.about_tokens:
        return (
            f"{sure} the choice of each of the {terms.n:,} training tokens given those before it, the model in this "
            f"message needs on average {at_most} for what could have followed those very contexts ({source}); nothing "
            "is claimed about new text."
        )
    blocks = terms.bound_type == "sequence_level"
    sample = f"{terms.n:,} training {'blocks' if blocks else 'documents'}"
    drawn = " and of those measured" if terms.subsampled else ""
    new = f"block of {terms.min_tokens} tokens" if blocks else "document"
    weighted = "" if blocks else ", each document weighted equally"
    return (
        f"{sure} the draw of the {sample}{drawn}, the model in this message needs on average {at_most} for a new {new} "
        f"from the same source ({source}){weighted}."
    )


def limits(terms: Terms, base: str, tokenizer: str, bound: float, baselines: list[dict[str, Any]]) -> list[str]:
    """Return what the claims do not say, one sentence each.

    Args:
        terms: what the bounds depend on.
        base, tokenizer: base weights and tokenizer, in words.
        bound: the claim on bits per token.
        baselines: what it is compared with; each has a name and a bound.
    """
    better = [b["name"] for b in baselines if b["bound"] <= bound]
    out = [f"Uninteresting: certified no better than {', '.join(better)}."] if better else []
    out.append(
        "All claims hold at once: delta is divided between them."
        if terms.joint
        else "Each claim holds on its own with this probability, not all at once."
    )
    out += _OF_TYPE[terms.bound_type]
    if not terms.about_tokens:
        out.append(
            f"Bits are those of the decoded model mixed, over whole units, with weight {terms.mixture_weight:g} of a "
            f"fallback code ({terms.fallback.code}), which counts as known beforehand: if its prices had been fitted "
            "to the training text, the claims would be void."
        )
    if terms.subsampled:
        out.append(
            "The message seeds the draw. The probability is for one message that was written before its draw was "
            "measured; whoever measures many messages and shows the luckiest claims too much. With "
            "bounds.bound_samples=0 nothing is drawn, and nothing can be picked."
        )
    out += [
        f"Base weights ({base}) and tokenizer ({tokenizer}) count as known beforehand: if they were fitted to the "
        "training text, the claims are void.",
        "Architecture, context length, scoring windows and the rule for documents count as fixed beforehand: if they "
        "were chosen by looking at the training text, that choice is not paid for.",
    ]
    return out


_OF_TYPE = {
    "document_level": [
        "The claims are about documents drawn independently from the source of the training documents; paragraphs of "
        "one speech, or pages of one site, depend on each other, and the claims are as good as that assumption.",
        "The length of a document is given; end-of-text is not predicted.",
    ],
    "sequence_level": [
        "The claims are about blocks of the token file, cut without regard to documents, as if they were drawn "
        "independently; blocks that are neighbours share documents, and the claims are as good as that assumption.",
        "The first token of a block is predicted without the text before it; end-of-text is a token like others.",
    ],
    "token_level": [
        "The claims are not about new text: they average, over the contexts of the training text that the model was "
        "fitted to, what could have come next. A model that memorises its training text can have low claims and "
        "fail on other text.",
        "A context is the part of a block before the token; end-of-text is a token like others. No independence is "
        "assumed: the training text may depend on itself in any way.",
    ],
}
