"""Typed configuration: sections of keys, read from YAML files and flags. Torch-free."""

from sublora.config.explaining import help_text
from sublora.config.loading import (
    config_from_json,
    config_from_values,
    load_config,
    read_yaml,
    unknown_name,
    values_from_yaml,
)
from sublora.config.sections import BOUND_TYPES, SECTIONS, BoundType, Config, Data, LearningRate, Sublora

__all__ = [
    "BOUND_TYPES",
    "SECTIONS",
    "BoundType",
    "Config",
    "Data",
    "LearningRate",
    "Sublora",
    "config_from_json",
    "config_from_values",
    "help_text",
    "load_config",
    "read_yaml",
    "unknown_name",
    "values_from_yaml",
]
