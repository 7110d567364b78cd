"""What a certificate claims when it is the best of several. Torch-free.

Every one of N certificates holds with probability 1 - delta. The one with the smallest bound was chosen because its
bound is small, so its own probability says nothing about it. If each of the N claims the bound that it gets with
delta / N, all N hold at once with probability 1 - delta (union bound): the best one too, however it is chosen.
"""

import dataclasses
import json

from sublora.certificate.assemble import Measured
from sublora.certificate.claims import make_claims
from sublora.certificate.model import Certificate, Claim, Part
from sublora.certificate.reading import read_certificate
from sublora.coding.message import MAX_SYMBOLS, decode_message
from sublora.errors import CertificateError
from sublora.files import canonical_json, sha256, sha256_file, write_text
from sublora.run_folder import RunFolder
from sublora.scoring.scores import read_scores


class Selection(Part):
    """What a certificate claims as one of several."""

    certificate: str
    """digest of the certificate"""
    candidates: int
    """number of certificates that the best is chosen from"""
    claims: tuple[Claim, ...]
    digest: str = ""

    def compute_digest(self) -> str:
        """Return SHA-256 of the canonical JSON of everything but the digest."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"digest"})))


def write_selection(run: RunFolder, candidates: int) -> None:
    """Write what a certificate claims as one of several: the bounds of the same losses with delta / candidates.

    The losses, the draw and K stay as they are; only the bounds are computed again, all of them, because the bets of
    the two-stage bound depend on delta.

    Args:
        run: holds certificate, message and losses.
        candidates: N, the number of certificates that the best is chosen from.

    Raises:
        CertificateError: the certificate or its losses are missing or damaged, or do not belong together.
    """
    assert candidates >= 1
    certificate = read_certificate(run.certificate)
    scores = read_scores(run.losses)
    if sha256_file(run.losses) != certificate.losses_sha256:
        raise CertificateError(f"the losses in {run.path} do not belong to its certificate: certify the run again")
    c, data = certificate, run.message.read_bytes()
    measured = Measured(scores, c.corpus, c.prior, c.baselines, c.held_out, c.how)
    terms = measured.terms(data, decode_message(data, max_symbols=MAX_SYMBOLS))
    shared = dataclasses.replace(terms, delta=terms.delta / candidates)
    selection = Selection(certificate=c.digest, candidates=candidates, claims=make_claims(scores, shared))
    sealed = selection.model_copy(update={"digest": selection.compute_digest()})
    write_text(run.selection, json.dumps(sealed.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")


def read_selection(run: RunFolder, certificate: Certificate) -> Selection | None:
    """Return what `write_selection` wrote beside a certificate; None where it was not written.

    Raises:
        CertificateError: it is damaged, was changed, or belongs to another certificate.
    """
    if not run.selection.exists():
        return None
    try:
        selection = Selection.model_validate_json(run.selection.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{run.selection} is damaged: {str(error).splitlines()[0]}") from error
    if selection.compute_digest() != selection.digest:
        raise CertificateError(f"{run.selection} was changed: its digest does not match its content")
    if selection.certificate != certificate.digest:
        raise CertificateError(f"{run.selection} belongs to another certificate: run the sweep again")
    return selection
