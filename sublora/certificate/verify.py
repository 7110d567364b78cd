"""Re-checking a certificate: its arithmetic from the recorded losses, or everything from message, corpus and base.

A certificate is assembled again from what is measured now, and the two are compared part by part. Nothing that it says
decides what is loaded: the corpus and the base are the verifier's own.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublora.certificate.assemble import Measured, assemble
from sublora.certificate.claims import LOSS_MARGIN
from sublora.certificate.matching import require_match
from sublora.certificate.model import Baseline, Certificate, Claim, HeldOut, Known, Part
from sublora.certificate.reading import read_certificate
from sublora.certificate.terms import bytes_of_a_token
from sublora.certificate.wording import beaten_by, limits, statement
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Header, Message, decode_message
from sublora.coding.prediction import NEUTRAL
from sublora.corpus.corpus import META, Corpus, open_corpus
from sublora.corpus.fallback import fallback_code
from sublora.errors import CertificateError
from sublora.files import read_bytes, sha256
from sublora.run_folder import RunFolder
from sublora.scoring.scores import Scores, read_scores

log = logging.getLogger(__name__)

# Recomputed from the same recorded losses, a number agrees to rounding.
_ARITHMETIC_TOLERANCE = 1e-9
# What a claim is split into, and compared with, agrees to this when it is measured again: the claim itself was computed
# with the margin added to every loss. The claim has no tolerance at all.
_REPLAY_TOLERANCE = 10 * LOSS_MARGIN
# Top-k errors beside a claim: a document's near ties count at issue and not in a replay.
_ERROR_TOLERANCE = 0.02
# Simple codes are no part of a claim.
_BASELINE_TOLERANCE = 0.01

_UNCHECKED = (
    "that the losses are those of this model, that the corpus has n documents and these lengths in the known code, and "
    "what simple codes and held-out text were measured at"
)

_BELIEVED = (
    "Taken from the folder of data: that its documents are those of the source it names, with these tokens and bytes, "
    "and that what it calls known beforehand was. To check that too, make the folder yourself with sublora prepare."
)


@dataclass(frozen=True)
class Verified:
    """A certificate, and what was checked of it.

    certificate: as it was read.
    measured: claims that follow from what was measured now; None where only the arithmetic was checked.
    """

    certificate: Certificate
    measured: tuple[Claim, ...] | None

    def in_words(self) -> str:
        """Return what was checked, and what is claimed."""
        if self.measured is None:
            return (
                "arithmetic only: digest, message, ledger and sentences agree, and the claims follow from the recorded "
                f"losses. NOT checked: {_UNCHECKED}. Give --data for that. It claims: {self.certificate.statement}"
            )
        return f"verified (full replay): {self.certificate.statement} {_BELIEVED}"

    @property
    def found(self) -> dict[str, float] | None:
        """The bounds that follow from what was measured now, by metric; None where nothing was measured."""
        return None if self.measured is None else {c.metric: c.bound for c in self.measured}

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values for a program: `checked` is "arithmetic" or "replay".

        Every claim holds what is claimed (`bound`) and what follows from what was measured now (`found`; None where
        only the arithmetic was checked). Bounds are in the unit of their metric.
        """
        found = self.found or {}
        return {
            "checked": "arithmetic" if self.measured is None else "replay",
            "not_checked": _UNCHECKED if self.measured is None else _BELIEVED,
            "digest": self.certificate.digest,
            "statement": self.certificate.statement,
            "claims": [
                {"metric": c.metric, "sense": c.sense, "bound": c.bound, "found": found.get(c.metric)}
                for c in self.certificate.claims
            ],
        }


def verify(path: Path, data_dir: Path | None, dataset: str = "", *, base: str = "", device: str = "cpu") -> Verified:
    """Verify a certificate.

    Args:
        path: certificate.json or its folder; message.bin lies beside it, and losses.safetensors may.
        data_dir: the corpus. None checks the arithmetic alone: digest, message, ledger, and every number and sentence
            that follows from the recorded losses. With the corpus the model is rebuilt from the bytes, the units are
            drawn and scored again, and every claim must follow from the new losses; the recorded ones are checked if
            they are there.
        dataset: subfolder of data_dir.
        base: folder, hub id or GGUF file of the pretrained base, where the message names one.
        device: that scores: a name of torch's, or auto.

    Raises:
        CertificateError, MessageError, CorpusError, ConfigError: names the first thing that differs.
    """
    certificate = read_certificate(path)
    run = RunFolder.of(path)
    data = read_bytes(run.message, "the message", CertificateError, MAX_BYTES)
    message = _message_of(certificate, data)
    if data_dir is None or run.losses.exists():
        _check_arithmetic(certificate, data, message, _recorded(run, certificate))
    else:
        log.info("no %s: the claims are compared with the losses that are measured now", run.losses)
    if data_dir is None:
        return Verified(certificate, None)
    setting = message.header.setting
    known_vocabulary = (
        {}
        if (data_dir / META).exists()
        else {
            "eot_token": setting.eot_token,
            "vocab_size": setting.vocab_size,
        }
    )
    return replay(certificate, data, open_corpus(data_dir, dataset, **known_vocabulary), base, device)


def replay(certificate: Certificate, data: bytes, corpus: Corpus, base: str = "", device: str = "cpu") -> Verified:
    """Measure again everything that a certificate claims, and compare.

    Args:
        certificate: as it was read.
        data: the message.
        corpus: the verifier's own.
        base: folder, hub id or GGUF file of the pretrained base, where the message names one.
        device: that scores: a name of torch's, or auto.

    Raises:
        CertificateError, MessageError, CorpusError, ConfigError: names the first thing that differs.
    """
    message = _message_of(certificate, data)
    return Verified(certificate, _measured_claims(certificate, data, message, corpus, base, device))


def _message_of(certificate: Certificate, data: bytes) -> Message:
    return decode_message(data, max_symbols=min(max(certificate.prior.D, 1), MAX_SYMBOLS))


def _recorded(run: RunFolder, certificate: Certificate) -> Scores:
    scores = read_scores(run.losses)
    if sha256(run.losses.read_bytes()) != certificate.losses_sha256:
        raise CertificateError(f"the hash of the losses differs: {run.losses} is not of this certificate")
    return scores


def _check_arithmetic(certificate: Certificate, data: bytes, message: Message, scores: Scores) -> None:
    header, prior = message.header, certificate.prior
    setting = header.setting
    tokens = setting.bound_type == "token_level"
    _expect("the number of losses", header.samples or certificate.corpus.n,
            scores.token_bits.size if tokens else len(scores.bits))  # fmt: skip
    measured_bases = int(header.architecture.kind == "pretrained") + int(header.compares_prompt)
    _expect("the number of pretrained bases", measured_bases, scores.base_bits.shape[1])
    if not setting.ngram_order:
        # An n-gram needs the known documents; this code needs nothing.
        code = fallback_code(prior.tokenizer, setting.vocab_size)
        _expect("the known code", prior.known.code, code.name)
        _expect("the longest price of the known code", prior.known.limit, code.limit)
    if not 0 <= prior.known.per_token <= prior.known.limit or (prior.known.per_byte or 0.0) > prior.known.limit:
        raise CertificateError("the expected length in the known code is no length that a document can have")
    _expect("whether the known code was measured on the population", prior.known.exact, setting.split_seed is not None)
    _check_prediction(header, prior.known)
    for claim in certificate.claims:
        # A loss is never negative, and no gain exceeds what the base and the code it falls back on can lose.
        if claim.sense == "at most" and claim.bound < 0:
            raise CertificateError(f"the bound on {claim.metric} is negative: no model has a negative loss")
    measured = Measured(scores, certificate.corpus, prior, certificate.baselines, certificate.held_out, certificate.how)
    again = assemble(data, message, measured)
    _expect_metrics(certificate, again)
    for claimed, found in zip(certificate.claims, again.claims, strict=True):
        _expect(f"the bound on {claimed.metric}", claimed.bound, found.bound, _ARITHMETIC_TOLERANCE)
    _compare(certificate, again, _ARITHMETIC_TOLERANCE, without={"digest"})
    log.info("message and ledger agree, and what follows from the recorded losses")


def _check_prediction(header: Header, known: Known) -> None:
    """Check that what is predicted can follow from the prices in the known code: the mean of a maximum is no smaller
    than the maximum of means, and no larger than the sum.
    """
    prediction, weight = header.prediction, bytes_of_a_token(header.setting)
    _expect("where bytes are known", known.predicted_per_byte is None, known.per_byte is None)
    for price, predicted, unit in (
        (known.per_token, known.predicted_per_token, weight),
        (known.per_byte, known.predicted_per_byte, 1),
    ):
        if price is None or predicted is None:
            continue
        low = max(prediction.slope * price, price - prediction.ceiling_per(unit))
        if not known.exact and prediction != NEUTRAL:
            # Bounds on two means say nothing of each other.
            low = 0.0
        high = price + prediction.document_bits if known.exact else prediction.limit(known.limit, 1, unit)
        if not low - _ARITHMETIC_TOLERANCE <= predicted <= high + _ARITHMETIC_TOLERANCE:
            raise CertificateError(
                f"a predicted loss of {predicted} bits does not follow from a price of {price} in the known code"
            )


def _measured_claims(
    certificate: Certificate, data: bytes, message: Message, corpus: Corpus, base: str, device: str
) -> tuple[Claim, ...]:
    header = message.header
    require_match(header, corpus, base, _base_name(certificate))

    from sublora.certificate.evidence import Evidence
    from sublora.scoring.measure import protocol_of
    from sublora.scoring.processes import Processes

    prior_base = certificate.prior.base
    published = prior_base.published or "" if prior_base.kind == "pretrained" else ""
    evidence = Evidence(header, corpus, base, published, Processes(device))
    _expect("the hash of the corpus", certificate.corpus.sha256, evidence.content_sha256)
    # Nothing is added to the new losses and exact ties alone are misses, so a claim that passes follows from them
    # without any tolerance.
    protocol = protocol_of(header, certificate.how.batch_size)
    rebuilt, scores = evidence.losses(data, message, protocol)
    claimed_beside = certificate.baselines, certificate.held_out
    measured = evidence.measured(message, rebuilt, scores, claimed_beside, protocol.batch_size)
    again = assemble(data, message, measured, margin=0.0)
    _expect_metrics(certificate, again)
    for claimed, now in zip(certificate.claims, again.claims, strict=True):
        holds = now.bound <= claimed.bound if claimed.sense == "at most" else now.bound >= claimed.bound
        if not holds:
            raise CertificateError(
                f"the bound on {claimed.metric} differs: the certificate says {claimed.bound:.6f}, "
                f"but it is {now.bound:.6f}"
            )
    _compare_replayed(certificate, again)
    # Last, because it takes long and proves nothing: what stands beside the claims.
    simple_codes, on_held_out = evidence.beside(data, message, rebuilt, protocol)
    _compare_baselines(certificate.baselines, simple_codes)
    _expect_beaten(certificate, again.model_copy(update={"baselines": simple_codes}).beside)
    _expect_held_out(certificate.held_out, on_held_out)
    return again.claims


def _compare_replayed(certificate: Certificate, again: Certificate) -> None:
    for name in ("setting", "message", "corpus", "prior"):
        _expect(name, _plain(getattr(certificate, name)), _plain(getattr(again, name)), _ARITHMETIC_TOLERANCE)
    for name in ("comparison", "decomposition"):
        _expect(name, _plain(getattr(certificate, name)), _plain(getattr(again, name)), _REPLAY_TOLERANCE)
    for what, name in (("the base alone", "base_alone"), ("the base behind the prompt", "base_prompted")):
        _expect(what, _plain(getattr(certificate, name)), _plain(getattr(again, name)), _REPLAY_TOLERANCE)
    for claimed, now in zip(certificate.claims, again.claims, strict=True):
        tolerance = _ERROR_TOLERANCE if claimed.metric.endswith("_error") else _REPLAY_TOLERANCE
        for name in ("empirical", "model_alone", "limit"):
            _expect(f"{claimed.metric}: {name}", getattr(claimed, name), getattr(now, name), tolerance)
    # The sentences are those of the claims as they were issued.
    parts = certificate.setting, certificate.corpus, certificate.prior
    said = statement(certificate.claims, *parts, certificate.message.bits, certificate.beside)
    _expect("the statement", certificate.statement, said)
    _expect("the limits", list(certificate.limits), list(limits(*parts)))


def _compare_baselines(claimed: tuple[Baseline, ...], found: tuple[Baseline, ...]) -> None:
    """Fitting a code decides by floating-point numbers, so another machine may find one of nearly the same length."""
    _expect("the simple codes", [b.name for b in claimed], [b.name for b in found])
    for c, f in zip(claimed, found, strict=True):
        if abs(c.bits - f.bits) > _BASELINE_TOLERANCE * f.bits:
            raise CertificateError(f"the bits of {c.name} differ: the certificate says {c.bits}, but it is {f.bits}")
        without = {"bits"}
        _expect(c.name, c.model_dump(exclude=without), f.model_dump(exclude=without), _BASELINE_TOLERANCE)


def _expect_beaten(certificate: Certificate, found: tuple[Baseline, ...]) -> None:
    """Whatever the tolerance for simple codes is: one that is better here than the claim must be named."""
    headline = certificate.headline
    named = beaten_by(headline, certificate.beside)
    lower = headline.model_copy(update={"bound": headline.bound - LOSS_MARGIN})
    for name in beaten_by(lower, found):
        if name not in named:
            raise CertificateError(f"the certificate does not say that it is certified no better than {name}")


def _expect_held_out(claimed: HeldOut | None, found: HeldOut | None) -> None:
    if claimed is None or found is None:
        _expect("the held-out loss", _plain(claimed), _plain(found))
        return
    error = "top_1_error"
    _expect("the held-out top-1 error", claimed.top_1_error, found.top_1_error, _ERROR_TOLERANCE)
    without = {error}
    _expect(
        "the held-out loss", claimed.model_dump(exclude=without), found.model_dump(exclude=without), _REPLAY_TOLERANCE
    )


def _base_name(certificate: Certificate) -> str:
    base = certificate.prior.base
    return base.name if base.kind == "pretrained" else base.family


def _expect_metrics(certificate: Certificate, again: Certificate) -> None:
    for name in ("metric", "name", "sense"):
        _expect(
            "the list of claims",
            [getattr(c, name) for c in certificate.claims],
            [getattr(c, name) for c in again.claims],
        )


def _compare(certificate: Certificate, again: Certificate, tolerance: float, without: set[str]) -> None:
    for name in (name for name in Certificate.model_fields if name not in without):
        _expect(name, _plain(getattr(certificate, name)), _plain(getattr(again, name)), tolerance)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.model_dump()
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _expect(what: str, claimed: Any, found: Any, tolerance: float = 0.0) -> None:
    """Compare two values; numbers may differ by `tolerance` and words not at all."""
    if isinstance(claimed, dict) and isinstance(found, dict) and set(claimed) == set(found):
        for key in found:
            _expect(f"{what}: {key}", claimed[key], found[key], tolerance)
    elif isinstance(claimed, list) and isinstance(found, list) and len(claimed) == len(found):
        for i, (c, f) in enumerate(zip(claimed, found, strict=True)):
            _expect(f"{what} {i + 1}", _plain(c), _plain(f), tolerance)
    elif type(claimed) is type(found) is float:
        # Written so that a NaN, which compares with nothing, differs.
        if not abs(claimed - found) <= tolerance * max(1.0, abs(found) if math.isfinite(found) else 1.0):
            raise CertificateError(f"{what} differs: the certificate says {claimed}, but it is {found}")
    elif type(claimed) is not type(found) or claimed != found:
        raise CertificateError(f"{what} differs: the certificate says {claimed}, but it is {found}")
