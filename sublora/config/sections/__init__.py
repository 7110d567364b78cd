"""The configuration's sections: one dataclass each, with every key, its default and its meaning.

A section checks its values when it is built.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from sublora.config.sections.bounds import Bounds
from sublora.config.sections.data import Corpus, Data, Login
from sublora.config.sections.model import SIZES, Model, Sublora
from sublora.config.sections.prior import Practise, Pretrain, Prior, Prompt
from sublora.config.sections.training import LearningRate, Optimizer, System, Training
from sublora.errors import ConfigError

__all__ = [
    "SECTIONS",
    "Bounds",
    "Config",
    "Corpus",
    "Data",
    "LearningRate",
    "Login",
    "Model",
    "Optimizer",
    "Practise",
    "Pretrain",
    "Prior",
    "Prompt",
    "Sublora",
    "System",
    "Training",
]


@dataclass
class Config:
    """All sections. `explicit` lists the keys that a file or a flag set, as `section.key`."""

    login: Login = field(default_factory=Login)
    corpus: Corpus = field(default_factory=Corpus)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    learning_rate: LearningRate = field(default_factory=LearningRate)
    prior: Prior = field(default_factory=Prior)
    pretrain: Pretrain = field(default_factory=Pretrain)
    practise: Practise = field(default_factory=Practise)
    prompt: Prompt = field(default_factory=Prompt)
    model: Model = field(default_factory=Model)
    sublora: Sublora = field(default_factory=Sublora)
    bounds: Bounds = field(default_factory=Bounds)
    system: System = field(default_factory=System)
    explicit: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        given = [name for name in SIZES if getattr(self.model, name) != getattr(Model, name)]
        if self.prior.base and given:
            raise ConfigError(
                f"prior.base={self.prior.base} has sizes of its own, which model.{given[0]} contradicts: leave it out"
            )

    def chosen(self, keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the values of some keys, given by section, as `{"section.key": value}`."""
        return {f"{name}.{key}": getattr(getattr(self, name), key) for name, some in keys.items() for key in some}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the sections as nested dictionaries of plain values."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML that loads to the same Config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


SECTIONS: dict[str, type] = {
    "login": Login,
    "corpus": Corpus,
    "data": Data,
    "training": Training,
    "optimizer": Optimizer,
    "learning_rate": LearningRate,
    "prior": Prior,
    "pretrain": Pretrain,
    "practise": Practise,
    "prompt": Prompt,
    "model": Model,
    "sublora": Sublora,
    "bounds": Bounds,
    "system": System,
}
