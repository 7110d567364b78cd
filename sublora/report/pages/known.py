"""What was fixed before a claim, in rows of a table: hashes, settings, the corpus, versions."""

import re
from typing import Any

from sublora.certificate.model import Certificate
from sublora.classification.model import ClassifierCertificate

_HASH = re.compile(r" \(SHA-256 [0-9a-f]{64}\)")


def without_hashes(sentence: str) -> str:
    """Return a sentence that opens a page; its hashes stand further down, in the statement in full."""
    return _HASH.sub("", sentence)


def known_rows(certificate: Certificate | ClassifierCertificate) -> list[tuple[str, str]]:
    """Return name and value of everything that a certificate says of message, base, corpus, setting and versions."""
    rows = [("message sha256", certificate.message.sha256)]
    for section in ("prior", "corpus", "setting", "how"):
        rows += _flat(section, getattr(certificate, section).model_dump())
    return [*rows, ("digest of the certificate", certificate.digest)]


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _flat(f"{name} {key}", item)]
    return [(name.replace("_", " "), "none" if value is None else str(value))]
