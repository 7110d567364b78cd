"""What the folder of a base says of the frame that it brings: practice.json. Torch-free."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublora.config import Config, config_from_values
from sublora.errors import ConfigError
from sublora.files import read_json
from sublora.run_folder import RunFolder

# What decides about the frame, beside the documents and the base. No path of a machine stands here.
_SECTIONS = {
    "practise": ("documents", "parts", "max_iters", "learning_rate", "batch_size", "warmup_iters", "lora_r", "rank"),
    "data": ("block_size", "batching"),
    "system": ("seed",),
}


def settings_of(config: Config) -> dict[str, Any]:
    """Return what decides about the frame, as `{"section.key": value}`."""
    return config.chosen(_SECTIONS)


@dataclass(frozen=True)
class PracticeRecord:
    """How a frame came about."""

    settings: dict[str, Any]
    """what decides about the frame, see `settings_of`"""
    documents: int
    """known documents that were practised on"""
    documents_sha256: str
    """hash of all known documents, see `sublora.corpus.digest`"""
    weights_sha256: str
    """hash of the base's weights"""
    frame_sha256: str
    """hash of the frame, see `sublora.nn.practised.hash_frames`"""
    losses: list[list[float]]
    """loss of the first and of the last step on every part, in `unit`"""
    unit: str
    """bits per token, or per byte"""
    threads: int
    versions: dict[str, str]

    def config(self, base: str) -> Config:
        """Return the configuration that practises again with one's own copy of the base."""
        return config_from_values(self.settings | {"prior.base": base})


def read_practice(folder: Path) -> PracticeRecord | None:
    """Return what a base's folder says of its frame, None where it says nothing.

    Raises:
        ConfigError: practice.json is damaged.
    """
    path = RunFolder(folder).practice
    if not path.is_file():
        return None
    raw = read_json(path, "the record of a frame", ConfigError)
    names = [field.name for field in dataclasses.fields(PracticeRecord)]
    kinds = (dict, int, str, str, str, list, str, int, dict)
    if (
        not isinstance(raw, dict)
        or set(raw) != set(names)
        or not all(isinstance(raw[name], kind) for name, kind in zip(names, kinds, strict=True))
        or set(raw["settings"]) != set(settings_of(Config()))
    ):
        raise ConfigError(f"{path} is damaged: it does not have the fields of a frame's record")
    return PracticeRecord(**raw)
