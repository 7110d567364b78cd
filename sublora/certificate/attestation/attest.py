"""Attestations as files beside a certificate: the issuer's, and that of a verifier who reproduced it."""

from pathlib import Path
from typing import Any

from sublora.certificate.attestation.envelope import read_envelope, sign
from sublora.certificate.attestation.statement import (
    Reproduction,
    Summary,
    reproduced_statement,
    reproduction_of,
    statement,
    summary_of,
)
from sublora.certificate.attestation.subjects import check_subjects, find_subjects
from sublora.errors import CertificateError
from sublora.files import read_bytes, write_bytes
from sublora.run_folder import RunFolder

MOST_BYTES = 1 << 24
"""of an attestation's file; a usual one has some thousand"""


def attest(path: Path, key_path: Path, summary: Summary, base_dir: Path | None = None) -> Path:
    """Sign what a certificate says, and write attestation.json beside it; return its path.

    Args:
        path: of the certificate, or its folder.
        key_path: private key in PEM.
        summary: of the certificate.
        base_dir: folder of the base model, if its files are to be attested too.

    Raises:
        CertificateError: a file is missing, a value is impossible, or the key cannot be used.
    """
    written = RunFolder.of(path).attestation
    write_bytes(written, sign(statement(find_subjects(path, base_dir), summary), key_path))
    return written


def reproduce(path: Path, key_path: Path, reproduction: Reproduction, base_dir: Path | None = None) -> Path:
    """Sign that a certificate was reproduced, and write reproduced.json beside it; return its path.

    Args:
        path: of the certificate, or its folder.
        key_path: the verifier's private key in PEM.
        reproduction: what the verifier found.
        base_dir: folder of the base model, if its files are to be attested too.

    Raises:
        CertificateError: as `attest`; also if what was found does not confirm the certificate.
    """
    written = RunFolder.of(path).reproduced
    write_bytes(written, sign(reproduced_statement(find_subjects(path, base_dir), reproduction), key_path))
    return written


def _read_file(path: Path, public_key_path: Path, base_dir: Path | None) -> dict[str, Any]:
    data = read_bytes(path, "the attestation", CertificateError, MOST_BYTES)
    found = read_envelope(data, public_key_path, what=str(path))
    check_subjects(found, path.parent, base_dir)
    return found


def read_attestation(folder: Path, public_key_path: Path, base_dir: Path | None = None) -> Summary:
    """Verify attestation.json and the files it names; return what was signed, to be compared with the certificate.

    Raises:
        CertificateError: it is missing or does not verify, a file is another one, or it is no issuer's statement.
    """
    return summary_of(_read_file(RunFolder(folder).attestation, public_key_path, base_dir))


def read_reproduction(folder: Path, public_key_path: Path, base_dir: Path | None = None) -> Reproduction:
    """Verify reproduced.json and the files it names; return what was signed.

    Raises:
        CertificateError: it is missing or does not verify, a file is another one, or it is no verifier's statement.
    """
    return reproduction_of(_read_file(RunFolder(folder).reproduced, public_key_path, base_dir))
