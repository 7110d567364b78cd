"""What a certificate says in words: what is bounded, over what, how surely, and what that does not mean. Torch-free."""

from fractions import Fraction
from typing import TYPE_CHECKING

from sublora.certificate.rounding import confidence, downward, upward

if TYPE_CHECKING:
    from sublora.certificate.model import Baseline, Claim, CorpusPart, Prior, Setting

DIGITS = 3
_NAMES = {
    "bpd": "bits per token",
    "bpb": "bits per byte",
    "bpd_gain": "bits per token below the base with the same fallback",
    "bpb_gain": "bits per byte below the base with the same fallback",
    "bpd_gain_alone": "bits per token below the base alone",
    "bpb_gain_alone": "bits per byte below the base alone",
    "bpd_gain_prompted": "bits per token below the base with the same prompt and fallback",
    "bpb_gain_prompted": "bits per byte below the base with the same prompt and fallback",
}


def metric_name(metric: str) -> str:
    """Return a metric's name in words."""
    return _NAMES.get(metric) or metric.replace("_error", " error").replace("top_", "top-")


def amount(claim: "Claim") -> str:
    """Return what a claim bounds and by how much, rounded to the side on which it stays true."""
    rounded = upward(claim.bound, DIGITS) if claim.sense == "at most" else downward(claim.bound, DIGITS)
    return f"{claim.sense} {rounded} {claim.name}"


def beaten_by(headline: "Claim", baselines: "tuple[Baseline, ...]") -> list[str]:
    """Return the names of the simple codes whose bound is no larger than the headline's, in the same unit."""
    per_byte = headline.metric == "bpb"
    bounds = [(b.name, b.bound_bpb if per_byte and b.bound_bpb is not None else b.bound) for b in baselines]
    return [name for name, bound in bounds if bound <= headline.bound]


def statement(
    claims: "tuple[Claim, ...]",
    setting: "Setting",
    corpus: "CorpusPart",
    prior: "Prior",
    bits: int,
    baselines: "tuple[Baseline, ...]",
) -> str:
    """Return the claim in plain sentences: the headline, the improvement over the base, and whether it is worth having.

    Args:
        claims: of the certificate, the first is in bits per token.
        setting: how the claim is made.
        corpus: what it is about.
        prior: what was known beforehand.
        bits: K.
        baselines: what the certificate has to beat.
    """
    sentences = [headline_sentence(claims, setting, corpus, bits)]
    if setting.bound_type == "token_level":
        return sentences[0]
    by_metric = {claim.metric: claim for claim in claims}
    headline = by_metric.get("bpb") or claims[0]
    if prior.base.kind == "pretrained" and f"{headline.metric}_gain" in by_metric:
        gains = (by_metric.get(f"{headline.metric}_gain{kind}") for kind in ("", "_alone", "_prompted"))
        sentences += [_improvement(gain, prior.base.name) for gain in gains if gain]
    if names := beaten_by(headline, baselines):
        sentences.append(f"Uninteresting: certified no better than {', '.join(names)}.")
    return " ".join(sentences)


def headline_sentence(claims: "tuple[Claim, ...]", setting: "Setting", corpus: "CorpusPart", bits: int) -> str:
    """Return what is claimed of the loss, over what and how surely: the first sentence of `statement`."""
    headline = next((claim for claim in claims if claim.metric == "bpb"), claims[0])
    at_most = amount(headline)
    sure = f"With probability at least {confidence(Fraction(setting.delta))} over"
    model = f"the model in this message of {bits // 8:,} bytes needs on average"
    if setting.bound_type == "token_level":
        return (
            f"{sure} the choice of each of the {corpus.n:,} training tokens given those before it, {model} {at_most} "
            f"for what could have followed those very contexts ({corpus.source}); nothing is claimed about new text."
        )
    blocks = setting.bound_type == "sequence_level"
    things = "blocks" if blocks else "documents"
    drawn = " and of those measured" if setting.samples else ""
    weighted = "" if blocks else ", each document weighted equally"
    if setting.about == "population":
        sample = f"the random choice of the {corpus.n:,} certified of {corpus.population:,} {things}{drawn}"
        over = f"over these {corpus.population:,} {things} ({corpus.source}){weighted}"
    else:
        sample = f"the draw of the {corpus.n:,} training {things}{drawn}"
        new = f"block of {setting.block_size} tokens" if blocks else "document"
        over = f"for a new {new} from the same source ({corpus.source}){weighted}"
    return f"{sure} {sample}, {model} {at_most} {over}."


def _improvement(gain: "Claim", name: str) -> str:
    unit, _, than = gain.name.partition(" below ")
    than = than.replace("the base", f"its base ({name})")
    if gain.bound <= 0:
        return f"That it needs less than {than} is not certified."
    return f"With the same probability it needs at least {downward(gain.bound, DIGITS)} {unit} less than {than}."


def limits(setting: "Setting", corpus: "CorpusPart", prior: "Prior") -> tuple[str, ...]:
    """Return what the claims do not say, one sentence each."""
    out = [
        "All claims hold at once: delta is divided between them."
        if setting.joint
        else "Each claim holds on its own with this probability, not all at once.",
        *_OF_TYPE[setting.bound_type],
    ]
    if setting.bound_type == "document_level":
        out.append(_POPULATION if setting.about == "population" else _SOURCE)
    if setting.bound_type != "token_level":
        out.append(
            f"Bits are those of the decoded model mixed, over whole {_UNIT[setting.bound_type]}, with weight "
            f"{setting.mixture_weight:g} of what it falls back on; what the decoded model needs alone stands beside "
            f"every claim. The code known beforehand is: {prior.known.code}. If its prices had been fitted to the "
            "certified text, the claims would be void."
        )
    if setting.samples:
        out.append(
            f"{setting.samples:,} {_UNIT[setting.bound_type]} were drawn and measured. The draw follows from the "
            "message and the documents; an issuer who tries up to 2^40 draws gains nothing, because so many are paid "
            "for."
        )
    if prior.base.kind == "pretrained":
        out.append(_base_sentence(prior))
    if prior.documents:
        out.append(
            f"{prior.documents:,} documents count as known beforehand, and n does not count them: whatever is learned "
            "from them is free. They must not be documents of the certified or held-out ones under another form."
        )
    out.append(
        f"The tokenizer ({prior.tokenizer}) counts as known beforehand: if it was fitted to the certified text, the "
        "claims are void."
    )
    if corpus.distinct < corpus.n and setting.bound_type != "token_level":
        out.append(
            f"Only {corpus.distinct:,} of the {corpus.n:,} {_UNIT[setting.bound_type]} are distinct: repetitions make "
            "n larger than what is known."
        )
    return tuple(out)


def _base_sentence(prior: "Prior") -> str:
    base = prior.base
    assert base.kind == "pretrained"
    when = f", published {base.published}" if base.published else ""
    if base.evidence == "assumed":
        return (
            f"Base weights ({base.name}{when}) count as known beforehand: that they were not fitted to the certified "
            "text is assumed, and if they were, the claims are void."
        )
    if base.evidence.startswith("known documents"):
        start = "" if base.evidence == "known documents" else (
            " They began as another base, and that this was not fitted to the certified text is assumed."
        )  # fmt: skip
        return (
            f"Base weights ({base.name}{when}) were fitted to documents known beforehand, which n does not count. That "
            "they were fitted to nothing else is for the issuer to keep, and for `sublora verify --retrain-base` to "
            f"check; otherwise the claims are void.{start}"
        )
    return (
        f"Base weights ({base.name}{when}) count as known beforehand. The certified documents are absent from an older "
        "copy of their source; that the weights are no newer than that copy is for the reader to check."
    )


_UNIT = {"document_level": "documents", "sequence_level": "blocks", "token_level": "tokens"}
_POPULATION = (
    "The claims are about the average over the documents of the population, of which the certified ones are a random "
    "choice by a seed that is paid for. Nothing is assumed about where the documents come from, and nothing is said "
    "about documents outside the population. The seed divides the documents in the order of their source: who could "
    "choose that order could choose the division."
)
_SOURCE = (
    "The claims are about documents drawn independently from the source of the training documents; paragraphs of one "
    "speech, or pages of one site, depend on each other, and the claims are as good as that assumption."
)
_OF_TYPE = {
    "document_level": ["The length of a document is given; end-of-text is not predicted."],
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
