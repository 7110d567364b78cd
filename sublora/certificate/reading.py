"""A certificate's file: written in one form, and read strictly. Torch-free.

A certificate from elsewhere is untrusted input: an unknown or repeated field, a number of another type, a bound that no
loss can have, another order or layout of the file are all refused.
"""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sublora.certificate.model import FORMAT, Certificate, Sealed
from sublora.errors import CertificateError
from sublora.files import read_bytes, write_text
from sublora.run_folder import RunFolder

MOST_BYTES = 1 << 20
"""of a certificate's file; a usual one has ten thousand"""
# Categories of Unicode that change what stands around them: controls, marks of direction, separators of lines.
_UNPRINTED = ("Cc", "Cf", "Cs", "Zl", "Zp")

OF_CLASSIFIER = "a certificate of a classifier, and this is for those of language models"
"""what is said of a certificate of the other kind"""

Kind = TypeVar("Kind", bound=Sealed)


def write_certificate(run: RunFolder, certificate: Kind) -> Kind:
    """Seal and write a certificate of any kind; return it sealed."""
    sealed = certificate.sealed()
    write_text(sealed.files(run).certificate, sealed.to_text())
    return sealed


def read_certificate(path: Path) -> Certificate:
    """Read a certificate: its fields, their types, its form and its digest are checked, nothing else.

    Args:
        path: the JSON file, or the folder that holds it.

    Raises:
        CertificateError: it is missing, not a certificate, of a classifier, of another format, or was changed.
    """
    if RunFolder.holds_classifier(path):
        raise CertificateError(f"{path}: {OF_CLASSIFIER}")
    path = path if path.suffix == ".json" else RunFolder.of(path).certificate
    return certificate_of(read_bytes(path, "the certificate", CertificateError, MOST_BYTES), str(path))


def certificate_of(data: bytes, where: str) -> Certificate:
    """Return the certificate that the bytes of a file are; see `read_certificate`.

    Args:
        data: the bytes.
        where: they are from, for errors.
    """
    return sealed_certificate(data, where, Certificate, FORMAT)


def sealed_certificate(data: bytes, where: str, kind: type[Kind], number: int | str) -> Kind:
    """Return a certificate of some kind.

    Args:
        data: of its file.
        where: they are from, for errors.
        kind: of the certificate.
        number: of the format of this kind.

    Raises:
        CertificateError: as `read_certificate`.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CertificateError(f"the certificate {where} is damaged: it is not UTF-8") from error
    certificate = _parse(text, where, kind, number)
    if certificate.compute_digest() != vars(certificate)["digest"]:
        raise CertificateError(f"{where} was changed: its digest does not match its content")
    return certificate


def parse_certificate(text: str, where: str) -> Certificate:
    """Return the certificate that a text is, in its one form.

    Raises:
        CertificateError: a field is unknown, missing, repeated, of another type, or in another place or layout.
    """
    return _parse(text, where, Certificate, FORMAT)


def _parse(text: str, where: str, kind: type[Kind], number: int | str) -> Kind:
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
        if not isinstance(raw, dict) or raw.get("format") != number:
            raise CertificateError(f"{where} is not a certificate of format {number}: issue it again with this version")
        # Through JSON: there, tuples are arrays, and still no number becomes another type.
        certificate = kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CertificateError(f"{where} is no certificate: {place}: {first['msg'].lower()}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CertificateError):
            raise
        raise CertificateError(f"the certificate {where} is damaged: {error}") from error
    if hidden := next((c for c in _characters(raw) if unicodedata.category(c) in _UNPRINTED), None):
        raise CertificateError(f"{where} holds the character U+{ord(hidden):04X}, which is not printed as it is")
    if certificate.to_text() != text:
        raise CertificateError(f"{where} is not in the form that certificates are written in: was it edited?")
    return certificate


def _characters(value: Any) -> Iterator[str]:
    """The characters of all strings in a value of JSON: its sentences are shown to people."""
    if isinstance(value, str):
        yield from value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from key
            yield from _characters(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _characters(inner)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in pairs:
        if name in out:
            raise CertificateError(f"the field {name!r} is there twice")
        out[name] = value
    return out
