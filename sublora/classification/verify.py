"""Re-checking the certificate of a classifier: from its recorded predictions, or from message, corpus and base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublora.certificate.draw import draw_units
from sublora.certificate.matching import require_match
from sublora.certificate.model import Part
from sublora.certificate.rounding import store_up
from sublora.classification.assemble import Measured, assemble
from sublora.classification.certified import require_labels
from sublora.classification.claims import ALLOWANCE
from sublora.classification.model import (
    GAIN,
    ClassifierCertificate,
    ErrorBaseline,
    ErrorClaims,
    read_classifier_certificate,
)
from sublora.classification.predictions import read_predictions
from sublora.classification.wording import beaten_by, limits, statement
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS
from sublora.coding.verbalizer import Classifier, decode_classifier
from sublora.corpus.corpus import open_corpus
from sublora.errors import CertificateError
from sublora.files import read_bytes, sha256
from sublora.run_folder import RunFolder
from sublora.scoring.decisions import RANK_MARGIN

# Simple classifiers are no part of the claims: ties may be decided otherwise on another machine.
_BASELINE_TOLERANCE = 0.01

_UNCHECKED = (
    "that the predictions are those of this classifier, that documents and labels are those of the corpus, and the "
    "errors of simple classifiers"
)
_BELIEVED = (
    "Taken from the folder of data: that its documents and labels are those of the source it names, and that what it "
    "calls known beforehand was. To check that too, make the folder yourself with sublora prepare."
)


@dataclass(frozen=True)
class VerifiedClassifier:
    """A certificate, and what was checked of it.

    certificate: as it was read.
    measured: claims that follow from what was measured now; None where only the arithmetic was checked.
    """

    certificate: ClassifierCertificate
    measured: ErrorClaims | None

    @property
    def found(self) -> dict[str, float] | None:
        """The bounds that follow from what was measured now, by metric; None where nothing was measured."""
        if self.measured is None:
            return None
        return {upper.metric: upper.bound for upper in self.measured.uppers.values()} | {GAIN: self.measured.gain.bound}

    def in_words(self) -> str:
        """Return what was checked, and what is claimed."""
        if self.measured is None:
            return (
                "arithmetic only: digest, message, draw and sentences agree, and the claims follow from the recorded "
                f"predictions. NOT checked: {_UNCHECKED}. Give --data for that. It claims: {self.certificate.statement}"
            )
        return f"verified (full replay): {self.certificate.statement} {_BELIEVED}"

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values for a program, as `sublora.certificate.verify.Verified` does."""
        claims, found = self.certificate.claims, self.found or {}
        rows = [(upper.metric, "at most", upper.bound) for upper in claims.uppers.values()]
        return {
            "checked": "arithmetic" if self.measured is None else "replay",
            "not_checked": _UNCHECKED if self.measured is None else _BELIEVED,
            "digest": self.certificate.digest,
            "statement": self.certificate.statement,
            "claims": [
                {"metric": metric, "sense": sense, "bound": bound, "found": found.get(metric)}
                for metric, sense, bound in (*rows, (GAIN, "at least", claims.gain.bound))
            ],
        }


def verify_classifier(path: Path, data_dir: Path | None, *, base: str = "", device: str = "cpu") -> VerifiedClassifier:
    """Verify the certificate of a classifier.

    Args:
        path: its file or folder; the message lies beside it, and the predictions may.
        data_dir: the verifier's own labelled corpus. None checks the arithmetic alone: digest, message, draw, and every
            number and sentence that follows from the recorded predictions. With the corpus the classifier is rebuilt
            from the bytes, documents are drawn and classified again, and every claim must follow from that; recorded
            predictions are checked if they are there.
        base: the verifier's own copy of a pretrained base.
        device: that reads documents: a name of torch's, or auto.

    Raises:
        SubloraError: names the first thing that differs.
    """
    certificate, run = read_classifier_certificate(path), RunFolder.of(path)
    data = read_bytes(run.classifier, "the message", CertificateError, MAX_BYTES)
    _expect("the hash of the message", certificate.message.sha256, sha256(data))
    classifier = decode_classifier(data, max_symbols=min(max(certificate.prior.D, 1), MAX_SYMBOLS))
    if data_dir is None or run.predictions.exists():
        _check_arithmetic(certificate, data, classifier, run)
    if data_dir is None:
        return VerifiedClassifier(certificate, None)
    return VerifiedClassifier(certificate, _replay(certificate, data, classifier, data_dir, base, device))


def _check_arithmetic(certificate: ClassifierCertificate, data: bytes, classifier: Classifier, run: RunFolder) -> None:
    """Assemble the certificate again from the recorded predictions."""
    predictions = read_predictions(run.predictions, len(classifier.verbalizer.labels))
    _expect("the hash of the predictions", certificate.predictions_sha256, sha256(predictions.to_bytes()))
    corpus, header = certificate.corpus, classifier.model.header
    rows = draw_units(data, corpus.sha256, corpus.n, header.samples)
    _expect("the draw", rows.tolist(), predictions.documents.tolist())
    _expect("the seed of the division", corpus.split_seed, header.setting.split_seed)
    _expect("the size of the population", corpus.population, sum(c.documents for c in certificate.classes))
    _expect("the number of classes", len(certificate.classes), len(classifier.verbalizer.labels))
    simple = tuple(baseline for baseline in certificate.baselines if baseline.exact)
    for baseline in simple:
        _expect(f"the bound of {baseline.name}", baseline.bound, store_up(baseline.errors / baseline.documents))
    measured = Measured(
        predictions=predictions,
        classes=[(c.name, c.documents) for c in certificate.classes],
        simple=simple,
        corpus=corpus,
        prior=certificate.prior,
        how=certificate.how,
        prompt_tokens=certificate.setting.prompt_tokens,
    )
    again = assemble(data, classifier, measured)
    for name in ("classes", "setting", "message"):
        _expect(name, getattr(certificate, name), getattr(again, name))
    said, found = certificate.claims, again.claims
    _expect_claims(said, found)
    _expect_close("the claim", said.error, found.error)
    for claimed, now in zip(said.top, found.top, strict=True):
        _expect_close(f"the claim on the {now.k} likeliest labels", claimed, now)
    _expect_close("the improvement over the base", said.gain, found.gain)
    _expect("the simple classifiers", len(certificate.baselines), len(again.baselines))
    for simple_said, simple_found in zip(certificate.baselines, again.baselines, strict=True):
        _expect_close(simple_found.name, simple_said, simple_found)
    _check_sentences(certificate)


def _check_sentences(certificate: ClassifierCertificate) -> None:
    """The sentences are those of the numbers."""
    c = certificate
    said = statement(c.claims, c.baselines, c.setting, c.corpus, c.message.bits)
    _expect("the statement", c.statement, said)
    _expect("the limits", c.limits, limits(c.setting, c.corpus, c.prior))


def _replay(
    certificate: ClassifierCertificate, data: bytes, classifier: Classifier, data_dir: Path, base: str, device: str
) -> ErrorClaims:
    corpus, said = open_corpus(data_dir), certificate.prior.base
    name, published = (said.name, said.published or "") if said.kind == "pretrained" else ("", "")

    from sublora.classification.evidence import LabelEvidence
    from sublora.scoring.processes import Processes

    evidence = LabelEvidence(corpus, base, published, Processes(device))
    require_match(classifier.model.header, corpus, base, name)
    require_labels(classifier.verbalizer, corpus)
    _expect("the hash of the documents", certificate.corpus.sha256, evidence.content_sha256)
    measured = evidence.measure(data, classifier, certificate.how.batch_size)
    again = assemble(data, classifier, measured, margin=0.0)
    for name in ("setting", "message", "corpus", "prior"):
        _expect(name, getattr(certificate, name), getattr(again, name))
    _compare_errors(certificate, again, assemble(data, classifier, measured, margin=2 * RANK_MARGIN))
    _compare_bounds(certificate.claims, again.claims)
    _compare_baselines(certificate, again.baselines)
    _check_sentences(certificate)
    return again.claims


def _expect_claims(said: ErrorClaims, found: ErrorClaims) -> None:
    """The same things are claimed, whatever of them."""
    _expect("the claims on the likeliest labels", [top.k for top in said.top], [top.k for top in found.top])
    _expect("the documents measured", said.error.measured, found.error.measured)


def _compare_errors(
    certificate: ClassifierCertificate, least: ClassifierCertificate, most: ClassifierCertificate
) -> None:
    """Errors may differ by near ties alone: they lie between those without and those with all of them."""
    _expect("the number of classes", len(certificate.classes), len(least.classes))
    _expect_claims(certificate.claims, least.claims)
    counted, low_counts, high_counts = (_counts(c.claims) for c in (certificate, least, most))
    rows = [(what, count, low_counts[what], high_counts[what]) for what, count in counted.items()]
    for claimed, low, high in zip(certificate.classes, least.classes, most.classes, strict=True):
        without = {"errors": 0}
        _expect(f"the class {low.name}", claimed.model_copy(update=without), low.model_copy(update=without))
        rows.append((f"the errors of the class {low.name}", claimed.errors, low.errors, high.errors))
    for what, said, found, with_ties in rows:
        if not min(found, with_ties) <= said <= max(found, with_ties):
            raise CertificateError(f"{what} differ: the certificate says {said}, but they are {found}")


def _counts(claims: ErrorClaims) -> dict[str, int]:
    """What was counted for the claims. Near ties make errors more, and mended documents fewer."""
    top = {f"the labels not among the {top.k} likeliest": top.errors for top in claims.top}
    gain = {"the mended documents": claims.gain.mended, "the spoiled documents": claims.gain.spoiled}
    return {"the errors": claims.error.errors, **top, **gain}


def _compare_bounds(claimed: ErrorClaims, found: ErrorClaims) -> None:
    """What was measured now must give as much as is claimed, or more."""
    rows = [
        (f"the bound on {upper.name}", upper.bound, now.bound, now.bound - upper.bound)
        for upper, now in zip(claimed.uppers.values(), found.uppers.values(), strict=True)
    ]
    gain, gained = claimed.gain.bound, found.gain.bound
    rows.append(("the improvement over the base", gain, gained, gain - gained))
    for what, said, now, missing in rows:
        if not missing <= ALLOWANCE:
            raise CertificateError(f"{what} differs: the certificate says {said:.6f}, but it is {now:.6f}")


def _compare_baselines(certificate: ClassifierCertificate, found: tuple[ErrorBaseline, ...]) -> None:
    _expect("the simple classifiers", [b.name for b in certificate.baselines], [b.name for b in found])
    for claimed, now in zip(certificate.baselines, found, strict=True):
        for name in ("bits", "documents", "exact"):
            _expect(f"{name} of {now.name}", getattr(claimed, name), getattr(now, name))
        shares = (claimed.errors / claimed.documents, now.errors / now.documents), (claimed.bound, now.bound)
        for said, measured in shares:
            if abs(said - measured) > _BASELINE_TOLERANCE:
                raise CertificateError(f"{now.name} differs: the certificate says {said:.4f}, but it is {measured:.4f}")
    # Whatever the tolerance is: one that is better here than the claim must be named.
    claims = certificate.claims
    error = claims.error.model_copy(update={"bound": claims.error.bound - _BASELINE_TOLERANCE})
    lower = claims.model_copy(update={"error": error})
    named = beaten_by(claims, certificate.baselines)
    for name in beaten_by(lower, found):
        if name not in named:
            raise CertificateError(f"the certificate does not say that it is certified no better than {name}")


def _expect(what: str, claimed: Any, found: Any) -> None:
    if claimed != found:
        said, now = (" ".join(str(value).split())[:200] for value in (claimed, found))
        raise CertificateError(f"{what} differs: the certificate says {said}, but it is {now}")


def _expect_close(what: str, claimed: Part, found: Part) -> None:
    """Compare two parts whose bound may differ as rounding does."""
    said, now = claimed.model_dump(), found.model_dump()
    if abs(said["bound"] - now["bound"]) <= 2 * ALLOWANCE:
        now["bound"] = said["bound"]
    _expect(what, said, now)
