"""The certificate: a JSON file beside its message and its losses, sealed by a digest. Torch-free."""

import json
from pathlib import Path
from typing import Any

from sublora.errors import CertificateError
from sublora.files import canonical_json, read_json, sha256, write_text

FORMAT = 2
CERTIFICATE, MESSAGE, LOSSES = "certificate.json", "message.bin", "losses.safetensors"


def seal(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return the certificate with the digest of everything else in it."""
    body = {key: value for key, value in certificate.items() if key != "digest"}
    return {**body, "digest": sha256(canonical_json(body))}


def write_certificate(path: Path, certificate: dict[str, Any]) -> None:
    """Seal and write a certificate."""
    write_text(path, json.dumps(seal(certificate), indent=2, allow_nan=False) + "\n")


def read_certificate(path: Path) -> dict[str, Any]:
    """Read a certificate and check its format and digest.

    Args:
        path: the JSON file, or the folder that holds it.

    Raises:
        CertificateError: it is missing, not a certificate, of another format, or was changed.
    """
    if path.is_dir():
        path = path / CERTIFICATE
    certificate = read_json(path, "the certificate", CertificateError)
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise CertificateError(f"{path} is not a certificate of format {FORMAT}")
    try:
        sealed = seal(certificate)["digest"]
    except ValueError as error:
        raise CertificateError(f"the certificate {path} is damaged: {error}") from error
    if sealed != certificate.get("digest"):
        raise CertificateError(f"{path} was changed: its digest does not match its content")
    return certificate
