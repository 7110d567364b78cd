"""The keys in words: name, type, default, choices and meaning of each, as its section states them."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing

import yaml

from sublora.config import sections
from sublora.config.sections import SECTIONS

# Text keys with few legal values, which their sections check.
CHOICES = {
    "data.batching": sections.BATCHINGS,
    "pretrain.trains": sections.PRETRAINED_PARTS,
    "pretrain.documents": sections.KNOWN_DOCUMENTS,
    "pretrain.optimizer": sections.PRETRAIN_OPTIMIZERS,
    "practise.documents": sections.KNOWN_DOCUMENTS,
    "prompt.source": sections.PROMPT_SOURCES,
    "model.size": tuple(sections.GPT2_SIZES),
    "model.init_from": ("scratch", "best_ckpt"),
    "sublora.adapter": sections.ADAPTERS,
    "sublora.targets": sections.TARGETS,
    "sublora.allocation_mode": sections.ALLOCATION_MODES,
    "sublora.allocation_scope": sections.ALLOCATION_SCOPES,
    "bounds.quantizer": sections.QUANTIZERS,
    "bounds.bound_type": sections.BOUND_TYPES,
    "bounds.claim": sections.CLAIMS,
    "system.dtype": sections.DTYPES,
}
_TYPES = {str: "text", int: "integer", float: "number", bool: "{true,false}", list: "list"}
_WIDTH = 100


def meanings(section: type) -> dict[str, str]:
    """Return what every field of a section means: the string that stands below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def help_text(command: str) -> str:
    """Return the help of a configured command: every key, section by section.

    Args:
        command: name of the subcommand, for the first line.
    """
    lines = [
        f"usage: sublora {command} [--config FILE] [--section.key=value ...]",
        "",
        "  --config FILE, --config-file FILE",
        "      YAML file of sections and keys; may be repeated, and flags win over files",
        "  --print_config",
        "      print the configuration that these files and flags make, as YAML, and stop",
    ]
    for name, section in SECTIONS.items():
        lines += ["", *_wrapped(f"{name}: {section.__doc__}", "")]
        explained = meanings(section)
        for field in dataclasses.fields(section):
            key = f"{name}.{field.name}"
            lines.append(f"  --{key}={_type(key, typing.get_type_hints(section)[field.name])} ({_default(field)})")
            lines += _wrapped(explained[field.name], " " * 6)
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str) -> list[str]:
    words = " ".join(text.split())
    # A name with a hyphen stays whole, so that it can be searched for.
    return textwrap.wrap(words, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _type(key: str, kind: object) -> str:
    """What a value may be: its choices where there are some, otherwise the name of its type."""
    if key in CHOICES:
        return "{" + ",".join(CHOICES[key]) + "}"
    if isinstance(kind, types.UnionType):
        return " or ".join("null" if part is types.NoneType else _type(key, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return f"list of {_TYPES[typing.get_args(kind)[0]]}s"
    return _TYPES[typing.cast(type, kind)]


def _default(field: "dataclasses.Field[object]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        value: object = field.default_factory()
    else:
        value = field.default
    # As YAML writes it, so that it can be copied; YAML ends a single value with dots.
    return f"default: {yaml.safe_dump(value).splitlines()[0]}"
