"""Writing files so that a reader sees the old content or the new one, never a part."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sublora.errors import SubloraError


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, flush it to the disk, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # What is there was left by a killed process, or is a link that a folder from elsewhere holds: it is not followed.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(file: IO[bytes]) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that processes left behind which were killed while they wrote."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())


def read_bytes(path: Path, what: str, error: type[SubloraError], most: int | None = None) -> bytes:
    """Return the content of a file from elsewhere.

    Args:
        path: the file; a pipe or a device, whose end may never come, is refused before it is opened.
        what: it is, as in "the certificate", for the error.
        error: its class.
        most: bytes that it may have; None: any number.

    Raises:
        SubloraError: of that class; the file is missing, is no ordinary file, or is too long.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise error(f"cannot read {what} {path}: it is no ordinary file")
        if most is not None and status.st_size > most:
            raise error(f"{what} {path} is {status.st_size} bytes long: none has more than {most}")
        return path.read_bytes()
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror}") from cause


def read_json(path: Path, what: str, error: type[SubloraError] = SubloraError) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        what: it is, as in "the certificate", for the error.
        error: its class.

    Raises:
        SubloraError: of that class; the file is missing, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror}") from cause
    except ValueError as cause:
        raise error(f"{what} {path} is damaged: {cause}") from cause


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return SHA-256 of a file's content in hexadecimal, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(to: Path) -> Iterator[Path]:
    """Yield a scratch folder that takes the place of `to`, which is missing or empty, once all is written.

    Where writing fails, nothing is left of it.
    """
    scratch = to.with_name(f".{to.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        if to.exists():
            to.rmdir()
        scratch.rename(to)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
