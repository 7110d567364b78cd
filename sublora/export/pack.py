"""A certified run in one small file."""

from pathlib import Path

from sublora.certificate.attestation.attest import MOST_BYTES
from sublora.certificate.zipped import ATTESTATION, SUFFIX, to_zip
from sublora.classification.certified import open_any
from sublora.errors import CertificateError, ConfigError
from sublora.files import read_bytes, write_bytes
from sublora.run_folder import RunFolder


def pack(path: Path, to: Path) -> Path:
    """Write message, certificate and, if there is one, attestation of a run into one zip file, and return its path.

    The same run gives the same bytes everywhere. Unpacked by any tool, it is a folder that `sublora verify` reads.

    Args:
        path: of the run.
        to: file to write, NAME.sublora.

    Raises:
        CertificateError, MessageError: certificate or message are missing or damaged, or do not belong together.
        ConfigError: the name ends otherwise, and would not be recognized as that of a pack.
    """
    if to.suffix != SUFFIX:
        raise ConfigError(f"{to} is no name of a pack: it ends in {SUFFIX}")
    certified, run = open_any(path), RunFolder.of(path)
    files = certified.certificate.files(run)
    parts = {files.message.name: certified.data, files.certificate.name: certified.certificate.to_text().encode()}
    if run.attestation.is_file():
        parts[ATTESTATION] = read_bytes(run.attestation, "the attestation", CertificateError, MOST_BYTES)
    write_bytes(to, to_zip(parts))
    return to
