"""What a classifier's certificate says in words. Torch-free."""

from fractions import Fraction
from typing import NamedTuple

from sublora.certificate.model import Beforehand, CorpusPart
from sublora.certificate.rounding import confidence, downward, upward
from sublora.classification.model import (
    ClassifierCertificate,
    ErrorBaseline,
    ErrorClaim,
    ErrorClaims,
    ErrorSetting,
    GainClaim,
    TopClaim,
)


def percent(share: float) -> str:
    """Return a share in per cent, rounded up."""
    return f"{upward(100 * share, 1)} %"


def points(difference: float) -> str:
    """Return a difference between shares in percentage points, rounded down."""
    return downward(100 * difference, 1)


def share(errors: int, documents: int) -> str:
    """Return a share of errors that were counted in per cent, rounded to the nearest."""
    return f"{100 * errors / documents:.1f} %"


def sure(certificate: ClassifierCertificate) -> str:
    """Return 1 - delta in per cent, exactly."""
    return confidence(Fraction(certificate.setting.delta))


def beaten_by(claims: ErrorClaims, baselines: tuple[ErrorBaseline, ...]) -> list[str]:
    """Return the names of the classifiers that the claims do not beat: simple ones whose errors are counted, by the
    bound on the error, and the base by the improvement over it.
    """
    error, gain = claims.error.bound, claims.gain.bound
    return [b.name for b in baselines if (b.bound <= error if b.exact else gain <= 0)]


def headline(claim: ErrorClaim, setting: ErrorSetting, corpus: CorpusPart, bits: int) -> str:
    """Return the claim in one plain sentence."""
    drawn = " and of those measured" if setting.samples else ""
    return (
        f"With probability at least {confidence(Fraction(setting.delta))} over the random choice of the {corpus.n:,} "
        f"certified of {corpus.population:,} documents{drawn}, the classifier in this message of {bits // 8:,} bytes "
        f"gives at most {percent(claim.bound)} of these {corpus.population:,} documents a wrong label "
        f"({corpus.source})."
    )


def among(top: TopClaim) -> str:
    """Return a claim on the likeliest labels in one plain sentence."""
    return (
        f"With the same probability at most {percent(top.bound)} of them have a label that is not among the {top.k} "
        "that it finds likeliest."
    )


def improvement(gain: GainClaim) -> str:
    """Return in one plain sentence by how much fewer labels are certified to be wrong than the base's."""
    if gain.bound <= 0:
        return "That it gives fewer wrong labels than its base with the same prompt and label tokens is not certified."
    return (
        f"With the same probability its share of wrong labels is at least {points(gain.bound)} percentage points below "
        "that of its base with the same prompt and label tokens."
    )


def uninteresting(claims: ErrorClaims, baselines: tuple[ErrorBaseline, ...]) -> str:
    """Return what the claims do not beat, in words; "" where they beat everything."""
    names = beaten_by(claims, baselines)
    return f"certified no better than {', '.join(names)}" if names else ""


def statement(
    claims: ErrorClaims, baselines: tuple[ErrorBaseline, ...], setting: ErrorSetting, corpus: CorpusPart, bits: int
) -> str:
    """Return every claim in a plain sentence, and whether they are worth having."""
    sentences = [headline(claims.error, setting, corpus, bits), *map(among, claims.top), improvement(claims.gain)]
    if reason := uninteresting(claims, baselines):
        sentences.append(f"Uninteresting: {reason}.")
    return " ".join(sentences)


def limits(setting: ErrorSetting, corpus: CorpusPart, prior: Beforehand) -> tuple[str, ...]:
    """Return what the claims do not say, one sentence each."""
    out = [
        "Each claim holds on its own with this probability, not all at once, and so does the bound of the base beside "
        "them.",
        "The claims are about shares of errors over the documents of the population, of which the certified ones are "
        "a random choice by a seed that is paid for. Nothing is assumed about where the documents come from, and "
        "nothing is said about documents outside the population. The seed divides the documents in the order of their "
        "source: who could choose that order could choose the division.",
        "Labels are those of the file: that they are right is not claimed. Names of labels count only by the tokens "
        "that stand for them, which are in the message.",
        f"Of a text the first {setting.most_characters} characters are read. A class that ties with the label counts "
        "as likelier.",
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
            "that they were not fitted to the certified documents is assumed; if they were, the claims are void."
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


class Besides(NamedTuple):
    """A claim besides that on the error. what, measured, bound: in words."""

    what: str
    measured: str
    bound: str


def besides(certificate: ClassifierCertificate) -> list[Besides]:
    """Return the claims on the likeliest labels, and on the improvement over the base."""
    claims = certificate.claims
    measured, gain = claims.error.measured, claims.gain
    out = [
        Besides(f"label not among the {t.k} likeliest", share(t.errors, measured), f"at most {percent(t.bound)}")
        for t in claims.top
    ]
    found = 100 * (gain.mended - gain.spoiled) / measured
    counted = f"fewer wrong labels than the base: {gain.mended:,} mended, {gain.spoiled:,} spoiled"
    return [*out, Besides(counted, f"{found:.1f} points", f"at least {points(gain.bound)} points")]


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
    """Return the error beside simple classifiers, the other claims, and the errors of classes: tables of Markdown."""
    at = sure(certificate)
    lines = [f"| classifier | K, bits | errors | of documents | share | at most, with probability {at} |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, bits, errors, documents, bound in compared(certificate):
        lines.append(f"| {name} | {bits:,} | {errors:,} | {documents:,} | {share(errors, documents)} | {bound} |")
    lines += ["", f"| claimed besides | measured | with probability {at} |", "| --- | --- | --- |"]
    lines += [f"| {what} | {measured} | {bound} |" for what, measured, bound in besides(certificate)]
    lines += ["", "| class | in the population | measured | errors |", "| --- | --- | --- | --- |"]
    for c in certificate.classes:
        lines.append(f"| {c.name} | {c.documents:,} | {c.measured:,} | {c.errors:,} |")
    return "\n".join(lines)
