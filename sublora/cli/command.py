"""What a subcommand is: its options, what it does, and what it says at the end."""

import json
import sys
import textwrap
from argparse import Action
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from sublora.console import write_table

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from rich.table import Table

BASE_HELP = "your own copy of a pretrained base: folder, GGUF file or hub id"


@dataclass(frozen=True)
class Result:
    """What a command has found, for a reader and for a program.

    words: text, or a table; "" says nothing.
    value: the same as JSON holds it.
    status: exit status.
    """

    words: "str | Table"
    value: dict[str, Any] = field(default_factory=dict)
    status: int = 0

    @staticmethod
    def of_file(path: object) -> "Result":
        """Return the result of a command that wrote a file or folder."""
        return Result(str(path), {"written": str(path)})


@dataclass(frozen=True)
class Command:
    """A subcommand.

    help: what it does, in a line.
    add_options: gives its parser the options.
    run: does it, with the options that were given.
    configured: it takes every key of the configuration; then only options that were given reach `run`.
    """

    help: str
    add_options: Callable[["Parser"], None]
    run: Callable[[Namespace], Result]
    configured: bool = False


class _Formatter(DefaultHelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        # A name with a hyphen stays whole, so that it can be searched for.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_type_str(self, action: Action) -> str | None:
        return "path" if getattr(action, "_typehint", None) is Path else super()._get_type_str(action)


class Parser(ArgumentParser):
    """A parser of jsonargparse whose help has colours on a terminal, and only there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Errors are the program's to word, an option is never taken for another that begins alike, and --print_config
        # is our own: it shows the keys without the options of a command.
        super().__init__(
            *args,
            exit_on_error=False,
            allow_abbrev=False,
            print_config=None,
            formatter_class=_Formatter,
            **kwargs,
        )

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """Write the help."""
        if file is not None or not sys.stdout.isatty():
            super().print_help(file)
            return
        from rich.console import Console
        from rich.text import Text

        text = Text(self.format_help())
        text.highlight_regex(r"(?m)^\S[^\n]*:$", "bold")
        text.highlight_regex(r"(?<![\w-])--?[a-z][\w.+-]*", "cyan")
        Console().print(text)


def say(result: Result, *, as_json: bool) -> None:
    """Write a result to standard output: as JSON for a program, else as words or a table."""
    if as_json:
        sys.stdout.write(f"{json.dumps(result.value, indent=2)}\n")
    elif not isinstance(result.words, str):
        write_table(result.words)
    elif result.words:
        sys.stdout.write(f"{result.words}\n")
