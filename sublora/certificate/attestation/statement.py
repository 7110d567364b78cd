"""What an attestation says: in-toto Statements, version 1, with two predicates of our own.

A statement is read strictly: the typed object is taken from it, the statement of that object is made again, and both
must be the same JSON. So there are no unknown fields, and fields that repeat each other agree.

Source: github.com/in-toto/attestation, spec/v1/statement.md. The names `claims`, `metric`, `comparator`, `threshold`,
`passed`, `sampleSize`, `harness` and `assuranceLevel` are those of the predicate `eval-result` v0.1 that was proposed
to it, `verifier.id` and `verifier.version` those of SLSA's verification summary.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from sublora.errors import CertificateError
from sublora.files import canonical_json
from sublora.run_folder import RunFolder

# Names of subjects.
_KINDS = tuple(
    tuple(file.name for file in files) for files in (RunFolder(Path()).of_model(), RunFolder(Path()).of_classifier())
)
STATEMENT = "https://in-toto.io/Statement/v1"
# Identifiers, not pages.
CERTIFICATE_PREDICATE = "https://sublora.dev/attestation/certificate/v1"
REPRODUCED_PREDICATE = "https://sublora.dev/attestation/reproduced/v1"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Claim:
    """One bound of a certificate.

    metric: what is bounded, as `bpd`.
    bound: the value that the metric is at most, in the metric's unit.
    method: name of the inequality, as `betting_subsampled`.
    """

    metric: str
    bound: float
    method: str


@dataclass(frozen=True)
class Summary:
    """What the issuer of a certificate signs.

    claims: at least one.
    delta: probability that a claim fails.
    joint: the claims hold all at once with probability 1 - delta, rather than each on its own.
    n: documents (units) in the training sample.
    measured: documents (units) whose losses were measured; n, where nothing was drawn.
    bits: K, length of the message in bits.
    prior: sentences that say what was fixed before the documents were seen.
    assumptions: sentences that say what else the claims rest on.
    version: of sublora.
    """

    claims: tuple[Claim, ...]
    delta: float
    joint: bool
    n: int
    measured: int
    bits: int
    prior: tuple[str, ...]
    assumptions: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Found:
    """One bound that a verifier measured again.

    metric: what is bounded.
    claimed: the certificate's bound.
    bound: what the verifier's own losses give; at most `claimed`, or nothing was reproduced.
    """

    metric: str
    claimed: float
    bound: float


@dataclass(frozen=True)
class Reproduction:
    """What a verifier signs who has scored the documents again.

    verifier: who or what verified, in words or as a URI.
    versions: of the libraries that the verifier used, by name.
    found: at least one bound.
    delta: of the certificate.
    measured: documents (units) that were scored again.
    """

    verifier: str
    versions: Mapping[str, str]
    found: tuple[Found, ...]
    delta: float
    measured: int


def _decimal(value: float) -> str:
    """Write a number as a decimal string, which reads back as the same number whatever library reads it."""
    if not math.isfinite(value):
        raise CertificateError(f"{value} cannot be attested: it is not a number")
    return f"{Decimal(repr(float(value))):f}"


def _wrap(subjects: Mapping[str, str], predicate_type: str, predicate: dict[str, Any]) -> dict[str, Any]:
    for name, digest in subjects.items():
        path = PurePosixPath(name)
        plain = name.isprintable() and "\\" not in name and str(path) == name
        if not plain or path.is_absolute() or ".." in path.parts or not path.parts:
            raise CertificateError(f"{name!r} cannot be attested: it is not the plain relative path of a file")
        if not _SHA256.fullmatch(digest):
            raise CertificateError(f"the digest of {name} is not a SHA-256 in hexadecimal")
    _certificate_of(subjects)
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def _certificate_of(subjects: Mapping[str, str]) -> str:
    """The digest of the one certificate, of whatever kind, that a statement is about with its message."""
    found = [kind for kind in _KINDS if any(name in subjects for name in kind)] or [_KINDS[0]]
    if len(found) > 1:
        raise CertificateError("the statement is about two certificates: sign each in a folder of its own")
    for name in reversed(found[0]):
        if name not in subjects:
            raise CertificateError(f"the statement is not about a {name}")
    return subjects[found[0][0]]


def _expect(right: bool, what: str) -> None:
    if not right:
        raise CertificateError(f"this cannot be attested: {what}")


def _evaluation(metric: str, bound: float) -> dict[str, Any]:
    return {"metric": metric, "comparator": "<=", "threshold": _decimal(bound), "passed": True}


def statement(subjects: Mapping[str, str], summary: Summary) -> dict[str, Any]:
    """Return the issuer's statement.

    Args:
        subjects: names of files with their SHA-256, as `find_subjects` finds them.
        summary: what the certificate says.

    Raises:
        CertificateError: certificate and message are not among the files, or a value is impossible.
    """
    _expect(len(summary.claims) > 0, "there is no claim")
    _expect(0 < summary.delta < 1, f"delta = {summary.delta} is not between 0 and 1")
    _expect(min(summary.n, summary.measured, summary.bits) > 0, "n, measured and bits must be positive")
    predicate = {
        "K": summary.bits,
        "n": summary.n,
        "delta": _decimal(summary.delta),
        "joint": summary.joint,
        "prior": list(summary.prior),
        "assumptions": list(summary.assumptions),
        "claims": [
            {**_evaluation(claim.metric, claim.bound), "bound": _decimal(claim.bound), "method": claim.method}
            for claim in summary.claims
        ],
        "sampleSize": summary.measured,
        "assuranceLevel": "self_attested",
        "harness": {"name": "sublora", "version": summary.version},
    }
    return _wrap(subjects, CERTIFICATE_PREDICATE, predicate)


def reproduced_statement(subjects: Mapping[str, str], reproduction: Reproduction) -> dict[str, Any]:
    """Return a verifier's statement.

    Args:
        subjects: names of files with their SHA-256, as `find_subjects` finds them.
        reproduction: what the verifier found.

    Raises:
        CertificateError: as `statement`; also if a bound that was found is above the claimed one.
    """
    _expect(len(reproduction.found) > 0, "no bound was measured")
    _expect(0 < reproduction.delta < 1, f"delta = {reproduction.delta} is not between 0 and 1")
    _expect(reproduction.measured > 0, "measured must be positive")
    for found in reproduction.found:
        _expect(
            found.bound <= found.claimed,
            f"the bound on {found.metric} is {found.bound}, which does not confirm the claimed {found.claimed}",
        )
    predicate = {
        "certificate": {"sha256": _certificate_of(subjects)},
        "verifier": {"id": reproduction.verifier, "version": dict(reproduction.versions)},
        "delta": _decimal(reproduction.delta),
        "claims": [
            {**_evaluation(found.metric, found.claimed), "bound": _decimal(found.bound)} for found in reproduction.found
        ],
        "sampleSize": reproduction.measured,
        "assuranceLevel": "reproduced",
    }
    return _wrap(subjects, REPRODUCED_PREDICATE, predicate)


def _take(value: Any, key: str, kind: type[_T]) -> _T:
    """Return a field of an object; its type is exactly `kind`, so that True is no integer."""
    if type(value) is not dict or type(value.get(key)) is not kind:
        raise CertificateError(f"the statement is malformed: {key} is missing, or is not of type {kind.__name__}")
    return value[key]


def _number(value: Any, key: str) -> float:
    text = _take(value, key, str)
    try:
        return float(text)
    except ValueError as error:
        raise CertificateError(f"the statement is malformed: {key} is not a decimal number") from error


def _words(value: Any, key: str) -> tuple[str, ...]:
    words = _take(value, key, list)
    if any(type(word) is not str for word in words):
        raise CertificateError(f"the statement is malformed: {key} is not a list of sentences")
    return tuple(words)


def _subjects(value: Any) -> dict[str, str]:
    return {
        _take(item, "name", str): _take(_take(item, "digest", dict), "sha256", str)
        for item in _take(value, "subject", list)
    }


def _predicate(value: Any, predicate_type: str) -> dict[str, Any]:
    if _take(value, "_type", str) != STATEMENT:
        raise CertificateError(f"this is no in-toto statement of version 1, but {value['_type']!r}")
    if _take(value, "predicateType", str) != predicate_type:
        raise CertificateError(f"the predicate is {value['predicateType']!r}, but {predicate_type} is expected")
    return _take(value, "predicate", dict)


def summary_of(value: Any) -> Summary:
    """Return what an issuer's statement says.

    Raises:
        CertificateError: it is not such a statement.
    """
    predicate = _predicate(value, CERTIFICATE_PREDICATE)
    claims = _take(predicate, "claims", list)
    return Summary(
        tuple(Claim(_take(c, "metric", str), _number(c, "bound"), _take(c, "method", str)) for c in claims),
        delta=_number(predicate, "delta"),
        joint=_take(predicate, "joint", bool),
        n=_take(predicate, "n", int),
        measured=_take(predicate, "sampleSize", int),
        bits=_take(predicate, "K", int),
        prior=_words(predicate, "prior"),
        assumptions=_words(predicate, "assumptions"),
        version=_take(_take(predicate, "harness", dict), "version", str),
    )


def reproduction_of(value: Any) -> Reproduction:
    """Return what a verifier's statement says.

    Raises:
        CertificateError: it is not such a statement.
    """
    predicate = _predicate(value, REPRODUCED_PREDICATE)
    claims, verifier = _take(predicate, "claims", list), _take(predicate, "verifier", dict)
    versions = _take(verifier, "version", dict)
    return Reproduction(
        _take(verifier, "id", str),
        {name: _take(versions, name, str) for name in versions},
        tuple(Found(_take(c, "metric", str), _number(c, "threshold"), _number(c, "bound")) for c in claims),
        delta=_number(predicate, "delta"),
        measured=_take(predicate, "sampleSize", int),
    )


def check_statement(value: Any) -> None:
    """Check that a JSON value is a statement of one of our two kinds, with exactly its fields.

    Raises:
        CertificateError: it is not; says why.
    """
    kind = _take(value, "predicateType", str)
    if kind == CERTIFICATE_PREDICATE:
        again = statement(_subjects(value), summary_of(value))
    elif kind == REPRODUCED_PREDICATE:
        again = reproduced_statement(_subjects(value), reproduction_of(value))
    else:
        raise CertificateError(f"the statement's predicate is of an unknown type: {kind!r}")
    try:
        same = canonical_json(again) == canonical_json(value)
    except (ValueError, RecursionError):
        # Not a number, or nested too deeply; neither occurs in a statement.
        same = False
    if not same:
        raise CertificateError("the statement is malformed: a field is unknown, or contradicts another")
