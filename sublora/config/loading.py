"""From YAML files and `--section.key=value` flags to a checked configuration.

Later sources win: defaults, then the file, then the flags. Every key is checked against the sections before anything
runs.
"""

import dataclasses
import datetime
import difflib
import functools
import json
import logging
import typing
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sublora.config.explaining import choices, meanings
from sublora.config.sections import SECTIONS, Config
from sublora.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

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


def add_keys(parser: "ArgumentParser") -> None:
    """Give a parser of jsonargparse the option --config, and one for every key, section by section."""
    parser.add_argument(
        "--config",
        "--config-file",
        action="append",
        metavar="FILE",
        help="YAML file of sections and keys; may be repeated, and flags win over files",
    )
    for name, section in SECTIONS.items():
        group = parser.add_argument_group(name, " ".join((section.__doc__ or "").split()))
        kinds, meaning = typing.get_type_hints(section), meanings(section)
        for field in dataclasses.fields(section):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            kind, metavar = kinds[field.name], None
            if legal := choices(kind):
                # The section refuses other words, with an error that says more.
                kind, metavar = str, "{" + ",".join(legal) + "}"
            explained = meaning[field.name].replace("%", "%%")
            group.add_argument(f"--{name}.{field.name}", type=kind, default=default, metavar=metavar, help=explained)
    for key in (*ALIASES, *IGNORED):
        parser.add_argument(f"--{key}", help=SUPPRESS)


@functools.cache
def _parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    # Written out, a key is never taken for another one that begins alike.
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_keys(parser)
    return parser


def load_config(arguments: Sequence[str] = ()) -> Config:
    """Build the configuration from command-line words.

    Args:
        arguments: `--config-file=FILE` (or `--config-file FILE`, or `--config`, repeatable) and `--section.key=value`.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a value of the wrong type or outside its range.
    """
    from jsonargparse import ArgumentError

    check_words(arguments)
    try:
        given = _parser().parse_args(list(arguments), defaults=False)
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return config_from_values(given_keys(given))


def check_words(arguments: Sequence[str]) -> None:
    """Refuse an option `--section.key` whose section or key is unknown.

    Raises:
        ConfigError: it names the nearest known one.
    """
    for word in arguments:
        key = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and "." in key and key not in ALIASES and key not in IGNORED:
            _check_key(key)


def given_keys(given: "Namespace") -> dict[str, Any]:
    """Return what a parser of `add_keys` was given, as `{"section.key": value}`. Flags win over files."""
    values: dict[str, Any] = {}
    for file in given.get("config") or ():
        values.update(values_from_yaml(Path(file)))
    return values | {key: value for key, value in vars(given.as_flat()).items() if "." in key}


def config_from_values(values: dict[str, Any]) -> Config:
    """Build the configuration from `{"section.key": value}`; strings are converted to the type of their key.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or outside its range.
    """
    from jsonargparse import ArgumentError

    nested: dict[str, dict[str, Any]] = {}
    explicit = set()
    for written, value in values.items():
        key = ALIASES.get(written, written)
        if key in IGNORED:
            log.warning("%s is ignored: %s", key, IGNORED[key])
            continue
        _check_key(key)
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
        explicit.add(key)
    try:
        parsed = _parser().parse_object(nested, defaults=False)
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    sections = {name: cls(**vars(parsed[name]) if name in parsed else {}) for name, cls in SECTIONS.items()}
    return Config(**sections, explicit=frozenset(explicit))


def config_from_json(text: str) -> Config:
    """Rebuild a configuration from the JSON of `Config.to_dict`."""
    nested = json.loads(text)
    return config_from_values({f"{s}.{k}": v for s, keys in nested.items() for k, v in keys.items()})
