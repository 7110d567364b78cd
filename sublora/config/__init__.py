"""Typed configuration: sections of keys, read from YAML files and flags. Torch-free."""

from sublora.config.loading import (
    add_keys,
    config_from_json,
    config_from_values,
    given_keys,
    load_config,
    read_yaml,
    unknown_name,
    values_from_yaml,
)
from sublora.config.sections import SECTIONS, Config, Data, LearningRate, Sublora
from sublora.config.sections.bounds import BOUND_TYPES, BoundType
from sublora.config.sections.data import BATCHINGS

__all__ = [
    "BATCHINGS",
    "BOUND_TYPES",
    "SECTIONS",
    "BoundType",
    "Config",
    "Data",
    "LearningRate",
    "Sublora",
    "add_keys",
    "config_from_json",
    "config_from_values",
    "given_keys",
    "load_config",
    "read_yaml",
    "unknown_name",
    "values_from_yaml",
]
