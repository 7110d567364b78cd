"""What a file of ours is, in words: message, certificate, attestation, or a pack of them. Torch-free."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from sublora.certificate.attestation.envelope import unverified_statement
from sublora.certificate.model import Certificate
from sublora.certificate.reading import certificate_of, sealed_certificate
from sublora.certificate.zipped import SUFFIX, read_zip
from sublora.classification.model import FORMAT, ClassifierCertificate
from sublora.classification.wording import table
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Message, decode_message
from sublora.coding.verbalizer import Classifier, decode_classifier, is_classifier_message
from sublora.errors import CertificateError, SubloraError
from sublora.files import read_bytes
from sublora.report.analysis.tables import at_most
from sublora.run_folder import RunFolder

_ENVELOPE = b'{"payload":'
"""how an attestation begins, and no certificate"""
_CLASSIFIER = f'{{\n  "format": "{FORMAT}",'.encode()
"""how the certificate of a classifier begins"""


def show(path: Path) -> str:
    """Return what a file says: a message, a certificate, an attestation, a pack of them, or a folder that holds them.

    Args:
        path: the file or folder. It is read strictly, and nothing that it names is loaded.

    Raises:
        SubloraError: it is none of them.
    """
    words: dict[str, Callable[[Any], Iterator[str]]] = {
        "certificate": _certificate,
        "message": _message,
        "classifier_certificate": _classifier_certificate,
        "classifier": _classifier,
        "attestation": _attestation,
        "reproduced": _attestation,
    }
    return "\n\n".join("\n".join(words[kind](part)) for kind, part in _parts(path))


def show_json(path: Path) -> str:
    """Return the same for a program: a JSON object with a key for every file.

    Raises:
        SubloraError: it is none of them.
    """
    shown: dict[str, Any] = {}
    for kind, part in _parts(path):
        if kind in ("certificate", "classifier_certificate"):
            shown[kind] = json.loads(part.to_text())
        elif kind == "message":
            shown[kind] = _message_values(*part)
        elif kind == "classifier":
            data, found = part
            verbalizer = {"classes": dataclasses.asdict(found.verbalizer)}
            shown[kind] = _message_values(data, found.model) | verbalizer | {"ledger": dict(found.ledger)}
        else:
            shown[kind] = {"signature_checked": False, "statement": part}
    return json.dumps(shown, indent=2, default=_plain)


def _message_values(data: bytes, message: Message) -> dict[str, Any]:
    return {
        "bytes": len(data),
        "bits": 8 * len(data),
        "coordinates": len(message.alpha),
        "header": dataclasses.asdict(message.header),
        "gates": [float(gate) for gate in message.gates],
        "ledger": dict(message.ledger),
    }


def _parts(path: Path) -> list[tuple[str, Any]]:
    """What a file holds, in the order in which it is shown: of each part its kind, and what was read."""
    if path.is_dir():
        return [_read(read_bytes(file, "the file", CertificateError, MAX_BYTES), file) for file in _files(path)]
    if path.suffix == SUFFIX:
        parts = read_zip(path)
        return [_read(parts[file.name], path / file.name) for file in _order(RunFolder(path)) if file.name in parts]
    return [_read(read_bytes(path, "the file", CertificateError, MAX_BYTES), path)]


def _read(data: bytes, where: Path) -> tuple[str, Any]:
    if data.startswith(_ENVELOPE):
        kind = "reproduced" if where.name == RunFolder(where.parent).reproduced.name else "attestation"
        return kind, unverified_statement(data, str(where))
    if data.startswith(_CLASSIFIER):
        return "classifier_certificate", sealed_certificate(data, str(where), ClassifierCertificate, FORMAT)
    if where.suffix == ".json":
        return "certificate", certificate_of(data, str(where))
    try:
        if is_classifier_message(data):
            return "classifier", (data, decode_classifier(data, max_symbols=MAX_SYMBOLS))
        return "message", (data, decode_message(data, max_symbols=MAX_SYMBOLS))
    except SubloraError as error:
        raise CertificateError(f"{where} is neither a certificate (.json) nor a message: {error}") from error


def _plain(value: Any) -> str:
    """A fraction in JSON: exactly, as text."""
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _files(folder: Path) -> list[Path]:
    files = [file for file in _order(RunFolder(folder)) if file.exists()]
    if not files:
        raise CertificateError(f"{folder} holds neither a certificate nor a message")
    return files


def _order(run: RunFolder) -> tuple[Path, ...]:
    """The files of a run that are shown, one after the other."""
    return (*run.of_model(), *run.of_classifier(), run.attestation, run.reproduced)


def _classifier(read: tuple[bytes, Classifier]) -> Iterator[str]:
    data, classifier = read
    yield f"of a classifier: {_fields(classifier.verbalizer)}; {classifier.ledger['classes']:g} bits"
    yield from _message((data, classifier.model))


def _classifier_certificate(certificate: ClassifierCertificate) -> Iterator[str]:
    yield f"certificate of format {certificate.format}"
    yield certificate.statement
    yield "what it does not say:"
    yield from (f"  {limit}" for limit in certificate.limits)
    yield table(certificate)
    yield f"digest: {certificate.digest}"
    yield f"versions: {json.dumps(certificate.how.versions)}"


def _message(read: tuple[bytes, Message]) -> Iterator[str]:
    data, message = read
    header = message.header
    yield f"message of {len(data):,} bytes, K = {8 * len(data):,} bits, {len(message.alpha):,} coordinates"
    for part in ("setting", "architecture", "spec", "prediction"):
        yield f"{part}: {_fields(getattr(header, part))}"
    named, texts = header.prompt.documents, header.prompt.texts
    written = f"{len(texts)} documents of {sum(map(len, texts))} tokens, written out" if texts else "none"
    yield f"prompt: {f'known documents {list(named)}' if named else written}"
    yield (
        f"mixture weight 2^-{header.mixture_exponent}, {header.samples or 'all'} documents measured, "
        f"windows in steps of {header.stride}"
    )
    if len(message.gates):
        yield f"gates: {', '.join(f'{gate:.3f}' for gate in message.gates)}"
    yield "bits: " + ", ".join(f"{name} {bits:g}" for name, bits in message.ledger.items() if bits)


def _fields(part: Any) -> str:
    return ", ".join(f"{field.name} {getattr(part, field.name)}" for field in dataclasses.fields(part))


def _certificate(certificate: Certificate) -> Iterator[str]:
    yield f"certificate of format {certificate.format}"
    yield certificate.statement
    yield "what it does not say:"
    yield from (f"  {limit}" for limit in certificate.limits)
    yield "claims:"
    for claim in certificate.claims:
        # Bounds are stored with six digits, rounded to the safe side: none is rounded again.
        yield f"  {claim.name}: {claim.sense} {claim.bound:.6f} (measured {claim.empirical:.4f})"
    yield "simple codes through the same bound, in bits per token:"
    yield from (f"  {baseline.name}: {at_most(baseline.bound)}" for baseline in certificate.beside)
    yield f"digest: {certificate.digest}"
    yield f"versions: {json.dumps(certificate.how.versions)}"


def _attestation(statement: dict[str, Any]) -> Iterator[str]:
    yield f"attestation of the kind {statement['predicateType']}; its signature was not checked (verify --public-key)"
    yield "about these files:"
    yield from (f"  {subject['name']}: SHA-256 {subject['digest']['sha256']}" for subject in statement["subject"])
    yield "what it says:"
    yield from (f"  {line}" for line in json.dumps(statement["predicate"], indent=2).splitlines())
