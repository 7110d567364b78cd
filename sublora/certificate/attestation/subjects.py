"""The files that an attestation is about, each by its digest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sublora.errors import CertificateError
from sublora.files import sha256_file
from sublora.run_folder import RunFolder

# Names of subjects under this prefix are files of the base; all others lie in the folder of the certificate.
BASE = "base/"
ADAPTER = "adapter/"


def _digest(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise CertificateError(f"cannot read the attested file {path}: it is no ordinary file")
    try:
        return sha256_file(path)
    except OSError as error:
        raise CertificateError(f"cannot read the attested file {path}: {error.strerror}") from error


def _files(folder: Path, prefix: str) -> dict[str, str]:
    """Return name and digest of every file in a folder and below it, but of none whose path has a hidden part."""
    relative = ((path, path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    visible = ((path, inner) for path, inner in relative if not any(part.startswith(".") for part in inner.parts))
    return {prefix + inner.as_posix(): _digest(path) for path, inner in visible}


def find_subjects(path: Path, base_dir: Path | None = None) -> dict[str, str]:
    """Return what is to be attested: names of files with their SHA-256 in hexadecimal, sorted by name.

    Args:
        path: of the certificate, or its folder. The message lies beside it; what lies in the subfolder `adapter`
            belongs to them.
        base_dir: folder of the base model; its files are named `base/...`.

    Raises:
        CertificateError: a file or the base's folder is missing, or cannot be read.
    """
    found = {file.name: _digest(file) for file in RunFolder.files_at(path)}
    found.update(_files(RunFolder.of(path).path / ADAPTER, ADAPTER))
    if base_dir is not None:
        base = _files(base_dir, BASE)
        if not base:
            raise CertificateError(f"there are no files of a base in {base_dir}")
        found.update(base)
    return dict(sorted(found.items()))


def check_subjects(statement: Mapping[str, Any], folder: Path, base_dir: Path | None = None) -> tuple[str, ...]:
    """Check that every file which a statement names is the file that was attested; return the names.

    Files that the statement does not name are not looked at.

    Args:
        statement: as `read_envelope` returns it.
        folder: of the certificate.
        base_dir: of the base model, if the statement names files of one.

    Raises:
        CertificateError: a file is missing or is another one, or the folder of the base was not given.
    """
    for subject in statement["subject"]:
        name, attested = subject["name"], subject["digest"]["sha256"]
        if not name.startswith(BASE):
            path = folder / name
        elif base_dir is not None:
            path = base_dir / name.removeprefix(BASE)
        else:
            raise CertificateError(f"the attestation names {name}: give the folder of the base model too")
        found = _digest(path)
        if found != attested:
            raise CertificateError(
                f"{path} is not the file that was attested: its SHA-256 is {found[:16]}..., not {attested[:16]}..."
            )
    return tuple(subject["name"] for subject in statement["subject"])
