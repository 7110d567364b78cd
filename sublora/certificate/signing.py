"""What is signed of a certificate: the issuer's attestation, and that of a verifier who scored the documents again."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

from sublora import __version__
from sublora.certificate.attestation import Claim, Reproduction, Summary, attest, read_attestation, reproduce
from sublora.certificate.attestation.statement import Found
from sublora.certificate.issued import Issued
from sublora.certificate.model import Beforehand, Prior
from sublora.errors import CertificateError
from sublora.files import sha256_file
from sublora.run_folder import RunFolder

VERIFIER_PACKAGES = ("numpy", "torch", "transformers")
VERIFIER = "sublora verify"


def summary(certificate: Issued) -> Summary:
    """Return what the issuer signs of a certificate.

    Only claims of the form "at most": the predicate has no word for the others. The digest of the certificate, which is
    signed too, covers all of them.
    """
    c = certificate
    return Summary(
        claims=tuple(Claim(claim.metric, claim.bound, c.inequality) for claim in c.uppers),
        delta=c.delta,
        joint=c.joint,
        n=c.corpus.n,
        measured=c.measured,
        bits=c.message.bits,
        prior=_prior(c.prior),
        assumptions=c.limits,
        version=c.how.versions.get("sublora", __version__),
    )


def _prior(prior: Beforehand) -> tuple[str, ...]:
    base = prior.base
    if base.kind == "random":
        weights = f"Base weights: random, seed {base.seed}."
    else:
        weights = f"Base weights: {base.name}, SHA-256 {base.sha256}."
    sentences = [weights, f"Tokenizer: {prior.tokenizer}."]
    if isinstance(prior, Prior):
        sentences.append(f"Code known beforehand: {prior.known.code}.")
    if prior.documents:
        sentences.append(f"Documents known beforehand: {prior.documents:,}, SHA-256 {prior.documents_sha256}.")
    return tuple(sentences)


def sign_certificate(run: RunFolder, certificate: Issued, key: Path, base: str = "") -> Path:
    """Sign a certificate and write the attestation beside it; return its path.

    Args:
        run: holds certificate and message.
        certificate: as it was read.
        key: private key in PEM.
        base: folder of the base whose files are signed too; "" for none.

    Raises:
        CertificateError: the message is another one, or the key cannot be used.
    """
    _check_message(run, certificate)
    return attest(certificate.files(run).certificate, key, summary(certificate), _folder(base, required=True))


def check_attestation(run: RunFolder, certificate: Issued, public_key: Path, base: str = "") -> None:
    """Check that the attestation beside a certificate was signed with a key, and says what the certificate says.

    Args:
        run: holds the attestation and what it names.
        certificate: as it was read.
        public_key: in PEM.
        base: of the base; its files are looked at where they were signed.

    Raises:
        CertificateError: it is missing, not signed with this key, about other files, or says something else.
    """
    if read_attestation(run.path, public_key, _folder(base)) != summary(certificate):
        raise CertificateError(f"{run.attestation} says something else than the certificate: it was not made from it")


def sign_reproduction(
    run: RunFolder, certificate: Issued, found: Mapping[str, float] | None, key: Path, base: str = ""
) -> Path:
    """Sign that the documents were scored again and confirm the claims; return the path of what was written.

    Args:
        run: holds certificate and message.
        certificate: that a full replay confirmed.
        found: bounds that it measured, by metric; None where nothing was measured.
        key: the verifier's private key in PEM.
        base: folder of the base whose files are signed too.

    Raises:
        CertificateError: nothing was measured, or the key cannot be used.
    """
    c = certificate
    if found is None:
        raise CertificateError("the arithmetic alone reproduces nothing: verify with the corpus first")
    versions = {"sublora": __version__, "python": platform.python_version()}
    reproduction = Reproduction(
        verifier=VERIFIER,
        versions=versions | {name: importlib.metadata.version(name) for name in VERIFIER_PACKAGES},
        found=tuple(Found(claim.metric, claim.bound, found[claim.metric]) for claim in c.uppers),
        delta=c.delta,
        measured=c.measured,
    )
    _check_message(run, c)
    return reproduce(c.files(run).certificate, key, reproduction, _folder(base))


def _check_message(run: RunFolder, certificate: Issued) -> None:
    message = certificate.files(run).message
    try:
        found = sha256_file(message)
    except OSError as error:
        raise CertificateError(f"cannot read the message {message}: {error.strerror}") from error
    if found != certificate.message.sha256:
        raise CertificateError(f"{message} is not the message of the certificate beside it")


def _folder(base: str, *, required: bool = False) -> Path | None:
    """Return the folder of a base whose files can be signed; a hub id or a single file is none."""
    if base and Path(base).is_dir():
        return Path(base)
    if base and required:
        raise CertificateError(f"no folder {base}: only the files of a folder can be signed")
    return None
