"""From YAML files and `--section.key=value` flags to a checked configuration.

Later sources win: defaults, then the file, then the flags. Every key is checked against the sections before anything
runs.
"""

import dataclasses
import datetime
import difflib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sublora.config.sections import SECTIONS, Config
from sublora.errors import ConfigError

log = logging.getLogger(__name__)

ALIASES = {"optimizer.adam_epislon": "optimizer.adam_epsilon"}
IGNORED = {
    "data.openwebtext_train_eot_indices_file": "the index of documents is built from train.bin",
    "data.empirical_document_length_distribution_file": "document lengths are read from the index",
    "data.num_docs": "n is counted from the corpus",
    "data.data_size": "n is counted from the corpus",
    "bounds.misc_extra_bits": "every bit the decoder needs is in the message",
    "optimizer.no_decay_bias": "every trained number but a gate is decayed",
    "model.use_mergedlinear": "the adapter is PEFT's LoRA",
}

SHIPPED = Path(__file__).parent / "shipped"
"""the configurations of config/, which an installed package brings along"""
_FILE_FLAGS = ("config-file", "config")


def _check_key(key: str) -> None:
    section, _, name = key.partition(".")
    if section not in SECTIONS:
        known = list(SECTIONS)
        kind, where = "section", ""
        word = section
    else:
        known = [f.name for f in dataclasses.fields(SECTIONS[section])]
        kind, where = "key", f" of {section}"
        word = name
        if name in known:
            return
    raise unknown_name(f"{kind} {word!r}{where}", word, known)


def unknown_name(what: str, word: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a word that is none of the known ones; it names the nearest."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return ConfigError(f"unknown {what}; the nearest is {near[0]!r}; known: {', '.join(known)}")


def read_yaml(path: Path, what: str) -> Any:
    """Return what a YAML file holds; `what` it is goes into the error.

    Outside a checkout, `config/NAME.yaml` is the configuration that the package brings along.

    Raises:
        ConfigError: it cannot be read, or is not YAML.
    """
    if path.parent == Path("config") and not path.exists() and (SHIPPED / path.name).is_file():
        path = SHIPPED / path.name
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def values_from_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file as `{"section.key": value}`.

    Raises:
        ConfigError: it cannot be read, or does not hold sections of keys.
    """
    nested = read_yaml(path, "config file")
    if not isinstance(nested, dict) or not all(v is None or isinstance(v, dict) for v in nested.values()):
        raise ConfigError(f"{path} must hold sections of keys, as in config/sublora_train.yaml")
    return {f"{section}.{name}": _plain(v) for section, keys in nested.items() for name, v in (keys or {}).items()}


def _plain(value: Any) -> Any:
    """YAML makes a date of what looks like one; keys hold text."""
    return value.isoformat() if isinstance(value, datetime.date) else value


def _split_flags(arguments: Sequence[str]) -> list[tuple[str, str]]:
    flags, words = [], list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"unexpected argument {word!r}: options are --config-file=FILE and --section.key=value")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"option --{name} needs a value: --{name}=VALUE")
            value = words.pop(0)
        flags.append((name, value))
    return flags


def load_config(arguments: Sequence[str] = ()) -> Config:
    """Build the configuration from command-line words.

    Args:
        arguments: `--config-file=FILE` (or `--config-file FILE`, or `--config`, repeatable) and `--section.key=value`.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a value of the wrong type or outside its range.
    """
    values: dict[str, Any] = {}
    flags = _split_flags(arguments)
    for name, value in flags:
        if name in _FILE_FLAGS:
            values.update(values_from_yaml(Path(value)))
    values.update({name: value for name, value in flags if name not in _FILE_FLAGS})
    return config_from_values(values)


def config_from_values(values: dict[str, Any]) -> Config:
    """Build the configuration from `{"section.key": value}`; strings are converted to the type of their key."""
    from jsonargparse import ArgumentError, ArgumentParser

    nested: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    explicit = set()
    for written, value in values.items():
        key = ALIASES.get(written, written)
        if key in IGNORED:
            log.warning("%s is ignored: %s", key, IGNORED[key])
            continue
        _check_key(key)
        section, _, name = key.partition(".")
        nested[section][name] = value
        explicit.add(key)
    parser = ArgumentParser(exit_on_error=False)
    for section, cls in SECTIONS.items():
        parser.add_class_arguments(cls, section)
    try:
        parsed = parser.parse_object(nested)
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    sections = {name: cls(**vars(parsed[name])) for name, cls in SECTIONS.items()}
    return Config(**sections, explicit=frozenset(explicit))


def config_from_json(text: str) -> Config:
    """Rebuild a configuration from the JSON of `Config.to_dict`."""
    nested = json.loads(text)
    return config_from_values({f"{s}.{k}": v for s, keys in nested.items() for k, v in keys.items()})
