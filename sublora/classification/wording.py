"""What a classifier's certificate says in words. Torch-free."""

from fractions import Fraction
from typing import NamedTuple

from sublora.certificate.model import Beforehand, CorpusPart
from sublora.certificate.rounding import confidence, upward
from sublora.classification.model import (
    ClassifierCertificate,
    ErrorBaseline,
    ErrorClaim,
    ErrorSetting,
)


def percent(share: float) -> str:
    """Return a share in per cent, rounded up."""
    return f"{upward(100 * share, 1)} %"


def share(errors: int, documents: int) -> str:
    """Return a share of errors that were counted in per cent, rounded to the nearest."""
    return f"{100 * errors / documents:.1f} %"


def sure(certificate: ClassifierCertificate) -> str:
    """Return 1 - delta in per cent, exactly."""
    return confidence(Fraction(certificate.setting.delta))


def beaten_by(claim: ErrorClaim, baselines: tuple[ErrorBaseline, ...]) -> list[str]:
    """Return the names of the simple classifiers whose bound is no larger than the claim's."""
    return [baseline.name for baseline in baselines if baseline.bound <= claim.bound]


def headline(claim: ErrorClaim, setting: ErrorSetting, corpus: CorpusPart, bits: int) -> str:
    """Return the claim in one plain sentence."""
    drawn = " and of those measured" if setting.samples else ""
    return (
        f"With probability at least {confidence(Fraction(setting.delta))} over the random choice of the {corpus.n:,} "
        f"certified of {corpus.population:,} documents{drawn}, the classifier in this message of {bits // 8:,} bytes "
        f"gives at most {percent(claim.bound)} of these {corpus.population:,} documents a wrong label "
        f"({corpus.source})."
    )


def uninteresting(claim: ErrorClaim, baselines: tuple[ErrorBaseline, ...]) -> str:
    """Return what the claim does not beat, in words; "" where it beats everything."""
    names = beaten_by(claim, baselines)
    return f"certified no better than {', '.join(names)}" if names else ""


def statement(
    claim: ErrorClaim, baselines: tuple[ErrorBaseline, ...], setting: ErrorSetting, corpus: CorpusPart, bits: int
) -> str:
    """Return the claim in plain sentences, and whether it is worth having."""
    said, reason = headline(claim, setting, corpus, bits), uninteresting(claim, baselines)
    return f"{said} Uninteresting: {reason}." if reason else said


def limits(setting: ErrorSetting, corpus: CorpusPart, prior: Beforehand) -> tuple[str, ...]:
    """Return what the claim does not say, one sentence each."""
    out = [
        "Each bound, of the claim and of the base beside it, holds on its own with this probability, not both at once.",
        "The claim is about the share of errors over the documents of the population, of which the certified ones are "
        "a random choice by a seed that is paid for. Nothing is assumed about where the documents come from, and "
        "nothing is said about documents outside the population. The seed divides the documents in the order of their "
        "source: who could choose that order could choose the division.",
        "Labels are those of the file: that they are right is not claimed. Names of labels count only by the tokens "
        "that stand for them, which are in the message.",
        f"Of a text the first {setting.most_characters} characters are read. A tie between classes is an error.",
    ]
    if setting.samples:
        out.append(
            f"{setting.samples:,} documents were drawn and measured. The draw follows from the message and the "
            "documents; an issuer who tries up to 2^40 draws gains nothing, because so many are paid for."
        )
    base = prior.base
    if base.kind == "pretrained":
        when = f", published {base.published}" if base.published else ""
        why = (
            "that they were not fitted to the certified documents is assumed; if they were, the claim is void."
            if base.evidence == "assumed"
            else f"evidence: {base.evidence}. That the weights are no newer is for the reader to check."
        )
        out.append(f"Base weights ({base.name}{when}) count as known beforehand: {why}")
    if prior.documents:
        out.append(
            f"{prior.documents:,} labelled documents count as known beforehand, and n does not count them: whatever is "
            "learned from them is free. None is a certified document, but its text may be one under another label."
        )
    out.append("The tokenizer counts as known beforehand.")
    if corpus.distinct < corpus.n:
        out.append(f"Only {corpus.distinct:,} of the {corpus.n:,} documents are distinct.")
    return tuple(out)


class Line(NamedTuple):
    """A classifier with its errors. bound: in words."""

    name: str
    bits: int
    errors: int
    documents: int
    bound: str


def compared(certificate: ClassifierCertificate) -> list[Line]:
    """Return the claim, and the simple classifiers beside it."""
    claim, bits = certificate.claim, certificate.message.bits
    own = Line(f"the classifier in {bits // 8:,} bytes", bits, claim.errors, claim.measured, percent(claim.bound))
    return [
        own,
        *(
            Line(b.name, b.bits, b.errors, b.documents, "a fact" if b.exact else percent(b.bound))
            for b in certificate.baselines
        ),
    ]


def table(certificate: ClassifierCertificate) -> str:
    """Return the claim beside the simple classifiers, and the errors of every class, as tables of Markdown."""
    at = sure(certificate)
    lines = [f"| classifier | K, bits | errors | of documents | share | at most, with probability {at} |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, bits, errors, documents, bound in compared(certificate):
        lines.append(f"| {name} | {bits:,} | {errors:,} | {documents:,} | {share(errors, documents)} | {bound} |")
    lines += ["", "| class | in the population | measured | errors |", "| --- | --- | --- | --- |"]
    for c in certificate.classes:
        lines.append(f"| {c.name} | {c.documents:,} | {c.measured:,} | {c.errors:,} |")
    return "\n".join(lines)
