"""What is signed of a certificate: the issuer's attestation, and that of a verifier who scored the documents again."""

import importlib.metadata
import platform
from pathlib import Path

from sublora import __version__
from sublora.certificate.attestation import Claim, Reproduction, Summary, attest, read_attestation, reproduce
from sublora.certificate.attestation.statement import Found
from sublora.certificate.model import Certificate
from sublora.certificate.verify import Verified
from sublora.errors import CertificateError
from sublora.files import sha256_file
from sublora.run_folder import RunFolder

VERIFIER_PACKAGES = ("numpy", "torch", "transformers")
VERIFIER = "sublora verify"


def method(certificate: Certificate) -> str:
    """Return the name of the inequality that a certificate's claims follow from."""
    if certificate.setting.bound_type == "token_level":
        return "token_betting"
    return "betting_subsampled" if certificate.setting.samples else "betting"


def summary(certificate: Certificate) -> Summary:
    """Return what the issuer signs of a certificate.

    Only claims of the form "at most": the predicate has no word for the others. The digest of the certificate, which is
    signed too, covers all of them.
    """
    c, how = certificate, method(certificate)
    return Summary(
        claims=tuple(Claim(claim.metric, claim.bound, how) for claim in c.claims if claim.sense == "at most"),
        delta=c.delta,
        joint=c.setting.joint,
        n=c.corpus.n,
        measured=c.setting.samples or c.corpus.n,
        bits=c.message.bits,
        prior=_prior(c),
        assumptions=c.limits,
        version=c.how.versions.get("sublora", __version__),
    )


def _prior(certificate: Certificate) -> tuple[str, ...]:
    prior = certificate.prior
    base = prior.base
    if base.kind == "random":
        weights = f"Base weights: random, seed {base.seed}."
    else:
        weights = f"Base weights: {base.name}, SHA-256 {base.sha256}."
    sentences = [weights, f"Tokenizer: {prior.tokenizer}.", f"Code known beforehand: {prior.known.code}."]
    if prior.documents:
        sentences.append(f"Documents known beforehand: {prior.documents:,}, SHA-256 {prior.documents_sha256}.")
    return tuple(sentences)


def sign_certificate(run: RunFolder, certificate: Certificate, key: Path, base: str = "") -> Path:
    """Sign a certificate and write the attestation beside it; return its path.

    Args:
        run: holds certificate and message.
        certificate: as `read_certificate` returns it.
        key: private key in PEM.
        base: folder of the base whose files are signed too; "" for none.

    Raises:
        CertificateError: the message is another one, or the key cannot be used.
    """
    _check_message(run, certificate)
    return attest(run.path, key, summary(certificate), _folder(base, required=True))


def check_attestation(run: RunFolder, certificate: Certificate, public_key: Path, base: str = "") -> None:
    """Check that the attestation beside a certificate was signed with a key, and says what the certificate says.

    Args:
        run: holds the attestation and what it names.
        certificate: as `read_certificate` returns it.
        public_key: in PEM.
        base: of the base; its files are looked at where they were signed.

    Raises:
        CertificateError: it is missing, not signed with this key, about other files, or says something else.
    """
    if read_attestation(run.path, public_key, _folder(base)) != summary(certificate):
        raise CertificateError(f"{run.attestation} says something else than the certificate: it was not made from it")


def sign_reproduction(run: RunFolder, verified: Verified, key: Path, base: str = "") -> Path:
    """Sign that the documents were scored again and confirm the claims; return the path of what was written.

    Args:
        run: holds certificate and message.
        verified: what a full replay returned.
        key: the verifier's private key in PEM.
        base: folder of the base whose files are signed too.

    Raises:
        CertificateError: nothing was measured, or the key cannot be used.
    """
    c = verified.certificate
    if verified.measured is None:
        raise CertificateError("the arithmetic alone reproduces nothing: verify with the corpus first")
    now = {claim.metric: claim.bound for claim in verified.measured}
    claims = [claim for claim in c.claims if claim.sense == "at most"]
    versions = {"sublora": __version__, "python": platform.python_version()}
    reproduction = Reproduction(
        verifier=VERIFIER,
        versions=versions | {name: importlib.metadata.version(name) for name in VERIFIER_PACKAGES},
        found=tuple(Found(claim.metric, claim.bound, now[claim.metric]) for claim in claims),
        delta=c.delta,
        measured=c.setting.samples or c.corpus.n,
    )
    _check_message(run, c)
    return reproduce(run.path, key, reproduction, _folder(base))


def _check_message(run: RunFolder, certificate: Certificate) -> None:
    try:
        found = sha256_file(run.message)
    except OSError as error:
        raise CertificateError(f"cannot read the message {run.message}: {error.strerror}") from error
    if found != certificate.message.sha256:
        raise CertificateError(f"{run.message} is not the message of the certificate beside it")


def _folder(base: str, *, required: bool = False) -> Path | None:
    """Return the folder of a base whose files can be signed; a hub id or a single file is none."""
    if base and Path(base).is_dir():
        return Path(base)
    if base and required:
        raise CertificateError(f"no folder {base}: only the files of a folder can be signed")
    return None
