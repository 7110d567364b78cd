"""What a file of ours is, in words: a message field by field, or a certificate. Torch-free."""

import dataclasses
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from sublora.certificate.model import Certificate
from sublora.certificate.reading import read_certificate
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Message, decode_message
from sublora.errors import CertificateError, SubloraError
from sublora.files import read_bytes
from sublora.report.tables import at_most
from sublora.run_folder import RunFolder


def show(path: Path) -> str:
    """Return what a file says: a message, a certificate, or the folder of both.

    Args:
        path: the file or folder. It is read strictly, and nothing that it names is loaded.

    Raises:
        SubloraError: it is neither.
    """
    if path.is_dir():
        return "\n\n".join(show(file) for file in _files(path))
    if path.suffix == ".json":
        return "\n".join(_certificate(read_certificate(path)))
    data, message = _read_message(path)
    return "\n".join(_message(data, message))


def show_json(path: Path) -> str:
    """Return the same for a program: a JSON object with the keys "certificate", "message" or both.

    Raises:
        SubloraError: it is neither.
    """
    shown: dict[str, Any] = {}
    for file in _files(path) if path.is_dir() else [path]:
        if file.suffix == ".json":
            shown["certificate"] = json.loads(read_certificate(file).to_text())
        else:
            data, message = _read_message(file)
            shown["message"] = {
                "bytes": len(data),
                "bits": 8 * len(data),
                "coordinates": len(message.alpha),
                "header": dataclasses.asdict(message.header),
                "gates": [float(gate) for gate in message.gates],
                "ledger": dict(message.ledger),
            }
    return json.dumps(shown, indent=2, default=_plain)


def _plain(value: Any) -> str:
    """A fraction in JSON: exactly, as text."""
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _files(folder: Path) -> list[Path]:
    run = RunFolder(folder)
    files = [file for file in (run.certificate, run.message) if file.exists()]
    if not files:
        raise CertificateError(f"{folder} holds neither a certificate nor a message")
    return files


def _read_message(path: Path) -> tuple[bytes, Message]:
    data = read_bytes(path, "the file", CertificateError, MAX_BYTES)
    try:
        return data, decode_message(data, max_symbols=MAX_SYMBOLS)
    except SubloraError as error:
        raise CertificateError(f"{path} is neither a certificate (.json) nor a message: {error}") from error


def _message(data: bytes, message: Message) -> Iterator[str]:
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
