"""What a certificate claims when it is the best of several. Torch-free.

Every one of N certificates holds with probability 1 - delta. The one with the smallest bound was chosen because its
bound is small, so its own probability says nothing about it. If each of the N claims the bound that it gets with
delta / N, all N hold at once with probability 1 - delta (union bound): the best one too, however it is chosen.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from sublora.certificate.certificate import CERTIFICATE, LOSSES, read_certificate, seal
from sublora.certificate.claims import make_claims
from sublora.certificate.derive import terms_of
from sublora.errors import CertificateError
from sublora.files import sha256_file, write_text
from sublora.scoring.scores import read_scores

SELECTION = "selection.json"


def write_selection(folder: Path, candidates: int) -> Path:
    """Write what a certificate claims as one of several: the bounds of the same losses with delta / candidates.

    The losses, the draw and K stay as they are; only the bounds are computed again, all of them, because the bets of
    the two-stage bound depend on delta.

    Args:
        folder: holds certificate.json and losses.safetensors.
        candidates: N, the number of certificates that the best is chosen from.

    Returns:
        The file written, selection.json in the same folder.

    Raises:
        CertificateError: the certificate or its losses are missing or damaged, or do not belong together.
    """
    assert candidates >= 1
    certificate = read_certificate(folder / CERTIFICATE)
    scores = read_scores(folder / LOSSES)
    if sha256_file(folder / LOSSES) != certificate["losses_sha256"]:
        raise CertificateError(f"the losses in {folder} do not belong to its certificate: certify the run again")
    terms = terms_of(certificate)
    shared = dataclasses.replace(terms, delta=terms.delta / candidates)
    selection = {
        "certificate": certificate["digest"],
        "candidates": candidates,
        "delta": terms.delta,
        "claims": make_claims(scores, shared),
    }
    write_text(folder / SELECTION, json.dumps(seal(selection), indent=2, allow_nan=False) + "\n")
    return folder / SELECTION


def read_selection(folder: Path, certificate: dict[str, Any]) -> dict[str, Any] | None:
    """Return what `write_selection` wrote beside a certificate; None where it was not written.

    Raises:
        CertificateError: it is damaged, was changed, or belongs to another certificate.
    """
    path = folder / SELECTION
    if not path.exists():
        return None
    try:
        selection = json.loads(path.read_text())
        agrees = seal(selection)["digest"] == selection["digest"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CertificateError(f"{path} is damaged: {error}") from error
    if not agrees:
        raise CertificateError(f"{path} was changed: its digest does not match its content")
    if selection["certificate"] != certificate["digest"]:
        raise CertificateError(f"{path} belongs to another certificate: run the sweep again")
    return selection
