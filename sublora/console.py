"""Words and tables for a reader: with rules on a terminal, plain lines elsewhere, and rows for a program."""

import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def printable(text: str) -> str:
    """Return a text that a terminal only shows: one from elsewhere may write escape sequences."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def write_table(table: "Table") -> None:
    """Write a table of text to standard output: as rich draws it on a terminal, as plain lines elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(table)
    else:
        sys.stdout.write(plain(table))


def plain(table: "Table") -> str:
    """Return a table as lines: its title, the names of its columns where they are shown, and its cells between tabs."""
    lines = [str(table.title)] if table.title else []
    if table.show_header:
        lines.append("\t".join(str(column.header) for column in table.columns))
    lines += ["\t".join(cells) for cells in _cells(table)]
    return "".join(f"{line}\n" for line in lines)


def rows(table: "Table") -> list[dict[str, str]]:
    """Return the rows of a table as JSON holds them: a cell by the name of its column."""
    names = [str(column.header) for column in table.columns]
    return [dict(zip(names, cells, strict=True)) for cells in _cells(table)]


def _cells(table: "Table") -> list[tuple[str, ...]]:
    return list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
