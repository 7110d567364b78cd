"""The certificate: a JSON file beside its message and its losses, sealed by a digest. Torch-free."""

import json
import math
from pathlib import Path
from typing import Any

from sublora.bounds.claims import Terms
from sublora.errors import CertificateError
from sublora.files import canonical_json, sha256, write_text

FORMAT = 1
CERTIFICATE, MESSAGE, LOSSES = "certificate.json", "message.bin", "losses.safetensors"

NAMES = {"bpd": "bits per token", "bpb": "bits per byte"}


def metric_name(metric: str) -> str:
    """Return a metric's name in words."""
    return NAMES.get(metric) or metric.replace("_error", " error").replace("top_", "top-")


def statement(claim: dict[str, Any], terms: Terms, source: str) -> str:
    """Return the first claim as one plain sentence."""
    # Rounded up: a claim that is rounded down is not the one that was proved.
    at_most = f"{math.ceil(1000 * claim['bound']) / 1000:.3f} {metric_name(claim['metric'])}"
    return (
        f"With probability at least {100 * (1 - terms.delta):g} % over the draw of the {terms.n:,} training documents"
        f"{' and of those measured' if terms.subsampled else ''}, "
        f"the model in this message needs on average at most {at_most} for a new document "
        f"from the same source ({source}), each document weighted equally."
    )


def limits(terms: Terms, base: str, tokenizer: str, bound: float, baselines: list[dict[str, Any]]) -> list[str]:
    """Return what the claims do not say, one sentence each; `bound` is the claim on bits per token."""
    better = [b["name"] for b in baselines if b["bound"] <= bound]
    together = (
        "All claims hold at once: delta is divided between them."
        if terms.joint
        else "Each claim holds on its own with this probability, not all at once."
    )
    uninteresting = [f"Uninteresting: certified no better than {', '.join(better)}."] if better else []
    return [
        *uninteresting,
        together,
        "The claims are about documents drawn independently from the source of the training documents; paragraphs of "
        "one speech, or pages of one site, depend on each other, and the claims are as good as that assumption.",
        f"Base weights ({base}) and tokenizer ({tokenizer}) count as known beforehand: if they were fitted to the "
        "training documents, the claims are void.",
        "The length of a document is given; end-of-text is not predicted.",
    ]


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
    try:
        certificate = json.loads(path.read_text())
    except OSError as error:
        raise CertificateError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise CertificateError(f"{path} is not a certificate: {error}") from error
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise CertificateError(f"{path} is not a certificate of format {FORMAT}")
    try:
        sealed = seal(certificate)["digest"]
    except ValueError as error:
        raise CertificateError(f"{path} is not a certificate: {error}") from error
    if sealed != certificate.get("digest"):
        raise CertificateError(f"{path} was changed: its digest does not match its content")
    return certificate
