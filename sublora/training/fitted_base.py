"""What the folder of a base that was fitted to known documents says of itself: pretrain.json. Torch-free."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sublora.config import Config, config_from_values
from sublora.errors import ConfigError
from sublora.files import read_json
from sublora.run_folder import RunFolder

# What decides about the weights, beside the documents and the base to start from. No path of a machine stands here.
_SECTIONS = {
    "pretrain": ("trains", "documents", "max_iters", "learning_rate", "weight_decay", "batch_size", "warmup_iters",
                 "lora_r", "optimizer", "eval_interval"),
    "model": ("n_layer", "n_head", "n_embd", "dropout", "bias", "apply_rope", "use_mistral_sliding_window",
              "attention_window"),
    "data": ("block_size", "batching", "perturb_word_order_window_size"),
    "system": ("seed", "dtype"),
}  # fmt: skip


def settings_of(config: Config) -> dict[str, Any]:
    """Return what decides about the weights, as `{"section.key": value}`."""
    return config.chosen(_SECTIONS)


@dataclass(frozen=True)
class FittedBase:
    """How a base came about."""

    settings: dict[str, Any]
    """what decides about the weights, see `settings_of`"""
    documents: int
    """known documents that it was fitted to, those that were held back among them"""
    documents_sha256: str
    """hash of all known documents, see `sublora.corpus.digest`"""
    start: str
    """the base that the fitting began with, in words"""
    start_is_random: bool
    """whether it knew nothing"""
    start_sha256: str
    """hash of its weights"""
    sha256: str
    """hash of the weights that were written"""
    steps: int
    """step at which these weights stood"""
    best_loss: float
    """their loss on the known documents held back, in `unit`"""
    unit: str
    """bits per token, or per byte"""
    evaluations: list[list[float]]
    """step and loss of every evaluation"""
    threads: int
    versions: dict[str, str]

    def config(self, start: str) -> Config:
        """Return the configuration that fits the base again from `start`, the source of a pretrained base or ""."""
        return config_from_values(self.settings | ({"prior.base": start} if start else {}))


def read_fitted_base(folder: Path) -> FittedBase | None:
    """Return what a base's folder says of itself, None where it says nothing.

    Raises:
        ConfigError: pretrain.json is damaged.
    """
    path = RunFolder(folder).pretrain
    if not path.is_file():
        return None
    raw = read_json(path, "the record of a base", ConfigError)
    fields = {field.name: field.type for field in dataclasses.fields(FittedBase)}
    if not isinstance(raw, dict) or set(raw) != set(fields):
        raise ConfigError(f"{path} is damaged: it does not have the fields of a base fitted to known documents")
    kinds = (dict, int, str, str, bool, str, str, int, float, str, list, int, dict)
    for name, kind in zip(fields, kinds, strict=True):
        if not isinstance(raw[name], kind):
            raise ConfigError(f"{path} is damaged: {name} is not {kind.__name__}")
    if set(raw["settings"]) != set(settings_of(Config())):
        raise ConfigError(f"{path} is damaged: its settings are not those of a base fitted to known documents")
    return FittedBase(**raw)
