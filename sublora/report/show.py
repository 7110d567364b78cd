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
from sublora.config.explaining import meanings
from sublora.errors import CertificateError, SubloraError
from sublora.files import read_bytes
from sublora.report.analysis.tables import at_most
from sublora.run_folder import RunFolder

_ENVELOPE = b'{"payload":'
"""how an attestation begins, and no certificate"""
_CLASSIFIER = b'{\n  "format": "classifier '
"""how the certificate of a classifier begins, whatever its format"""
_BITS = {
    "version": "of the format",
    "classes": "the words that stand for the classes of a classifier",
    "setting": "what is claimed, of which corpus, against which known code",
    "scoring": "how many documents are drawn, and in what windows a long one is read",
    "base": "the base model, and the context that it reads",
    "mixture": "weight of what the model falls back on",
    "prediction": "of losses, from the known code",
    "prompt": "documents that stand before every document",
    "adapter": "what is moved, where, and of what rank",
    "seed": "that the adapter and the operator are made from",
    "intrinsic_dim": "d",
    "intrinsic_mode": "kind of operator",
    "allocation": "how the coordinates are divided",
    "n_symbols": "how many values, where there is no subspace",
    "gates": "of learned allocation",
    "codebook": "the values that a coordinate may take",
    "entropy_model": "how frequent each of them is",
    "payload": "the coordinates",
    "padding": "to a whole byte",
}
"""what the bits of a message are spent on, by the name in its ledger"""
_WIDTH = 34
"""of names and values, before what they mean"""


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
    yield from _fields("of a classifier:", classifier.verbalizer)
    yield _line("classes", f"{classifier.ledger['classes']:g}", f"bits: {_BITS['classes']}")
    yield from _message((data, classifier.model))


def _classifier_certificate(certificate: ClassifierCertificate) -> Iterator[str]:
    yield f"certificate of format {certificate.format}"
    yield certificate.statement
    yield "what it does not say:"
    yield from (f"  {limit}" for limit in certificate.limits)
    yield table(certificate)
    yield from _sealed(certificate)


def _message(read: tuple[bytes, Message]) -> Iterator[str]:
    data, message = read
    header = message.header
    yield f"message of {len(data):,} bytes, K = {8 * len(data):,} bits, {len(message.alpha):,} coordinates"
    yield from _fields("what is claimed, and what was known beforehand:", header.setting)
    yield from _fields("the base:", header.architecture)
    yield from _fields("the adapter and its subspace:", header.spec)
    if len(message.gates):
        yield f"  gates: {', '.join(f'{gate:.3f}' for gate in message.gates)}"
    yield "how documents are read and measured:"
    named, texts = header.prompt.documents, header.prompt.texts
    written = f"{len(texts)} documents of {sum(map(len, texts))} tokens, written out" if texts else "none"
    yield f"  prompt: {f'known documents {list(named)}' if named else written}"
    yield f"  weight of what the model falls back on: 2^-{header.mixture_exponent}"
    yield f"  documents measured: {f'{header.samples:,}, drawn' if header.samples else 'all'}"
    yield f"  windows of a long document: in steps of {header.stride:,} tokens"
    yield from _fields("what is predicted of a loss, from the known code:", header.prediction)
    yield "what its bits are spent on:"
    yield from (_line(name, f"{bits:g}", _BITS[name]) for name, bits in message.ledger.items() if bits)


def _fields(title: str, part: Any) -> Iterator[str]:
    """A title, and a line for every field of a part of a header."""
    yield title
    meant = meanings(type(part))
    yield from (_line(field.name, getattr(part, field.name), meant[field.name]) for field in dataclasses.fields(part))


def _line(name: str, value: Any, meaning: str) -> str:
    return f"  {f'{name} {value}':<{_WIDTH}}{meaning}"


def _certificate(certificate: Certificate) -> Iterator[str]:
    yield f"certificate of format {certificate.format}"
    yield certificate.statement
    yield "what it does not say:"
    yield from (f"  {limit}" for limit in certificate.limits)
    yield "every claim:"
    for claim in certificate.claims:
        # Bounds are stored with six digits, rounded to the safe side: none is rounded again.
        yield f"  {claim.name}: {claim.sense} {claim.bound:.6f} (measured {claim.empirical:.4f})"
    yield "simple codes and the base through the same bound, in bits per token:"
    yield from (f"  {baseline.name}: {at_most(baseline.bound)}" for baseline in certificate.beside)
    yield from _sealed(certificate)


def _sealed(certificate: Certificate | ClassifierCertificate) -> Iterator[str]:
    """How a certificate ends: nothing of it was checked here."""
    yield f"digest: {certificate.digest}"
    yield f"versions: {', '.join(f'{name} {version}' for name, version in certificate.how.versions.items())}"
    yield "shown as it stands, not checked: `sublora verify` does that"


def _attestation(statement: dict[str, Any]) -> Iterator[str]:
    yield f"attestation of the kind {statement['predicateType']}"
    yield "shown as it stands, and its signature was not checked: `sublora verify --public-key` does that"
    yield "about these files:"
    yield from (f"  {subject['name']}: SHA-256 {subject['digest']['sha256']}" for subject in statement["subject"])
    yield "what it says:"
    yield from _nested(statement["predicate"], "  ")


def _nested(value: Any, indent: str) -> Iterator[str]:
    """The JSON of a predicate, an entry on each line."""
    entries = value.items() if isinstance(value, dict) else (("-", part) for part in value)
    for name, part in entries:
        head = indent + (name if name == "-" else f"{name}:")
        if not isinstance(part, dict | list):
            yield f"{head} {' '.join(str(part).split())}"
        elif isinstance(part, dict) and not any(isinstance(inner, dict | list) for inner in part.values()):
            yield f"{head} {', '.join(f'{key} {inner}' for key, inner in part.items())}"
        else:
            yield head
            yield from _nested(part, f"{indent}  ")
