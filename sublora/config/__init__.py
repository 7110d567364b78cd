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
from sublora.config.sections.model import ADAPTERS, ALLOCATION_MODES, ALLOCATION_SCOPES, TARGETS

__all__ = [
    "ADAPTERS",
    "ALLOCATION_MODES",
    "ALLOCATION_SCOPES",
    "BATCHINGS",
    "BOUND_TYPES",
    "SECTIONS",
    "TARGETS",
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
