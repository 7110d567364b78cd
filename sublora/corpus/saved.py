"""Data sets in folders that `save_to_disk` of the package datasets wrote, and the text in their rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sublora.corpus.tokenizers import INSTALL
from sublora.errors import CorpusError
from sublora.files import sha256_file

SPLIT = "train"
_ONE, _SEVERAL = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote, of a data set or of a dictionary of them."""
    return any((folder / name).is_file() for name in (_ONE, _SEVERAL))


def saved_name(folder: Path) -> str:
    """Return the name of a saved data set: its folder's and the hash of every file with rows, in their order.

    Raises:
        CorpusError: there is no split `train`, a file is missing, or the description is damaged.
    """
    part = _part(folder)
    try:
        names = [entry["filename"] for entry in json.loads((part / _ONE).read_bytes())["_data_files"]]
        digests = [sha256_file(part / Path(name).name) for name in names]
    except OSError as error:
        raise CorpusError(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{part / _ONE} is damaged: save the data set again") from error
    return f"{folder.name} (datasets, split {SPLIT}, SHA-256 {', '.join(digests)})"


def saved_texts(folder: Path, column: str) -> Iterator[str]:
    """Yield the texts of a column; the rows are memory-mapped, and nothing is read before the first is asked for.

    Raises:
        CorpusError: the folder is damaged, there is no such column, or a row of it is no text.
    """
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"the source hf:{folder} needs datasets: {INSTALL}") from error
    try:
        rows = datasets.load_from_disk(str(_part(folder))).with_format(None)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CorpusError(f"cannot read the data set {folder}: {' '.join(str(error).split())}") from error
    for number, row in enumerate(rows, 1):
        yield text_of(row, column, number, str(folder))


def text_of(row: dict[str, Any], column: str, number: int, name: str) -> str:
    """Return the text of a row.

    Args:
        row: of the data set.
        column: that holds the text.
        number: of the row, from 1, for errors.
        name: of the data set, for errors.

    Raises:
        CorpusError: no such column, or something else in it.
    """
    if column not in row:
        raise CorpusError(f'the data set {name} has no column "{column}", but {", ".join(row)}: name one with --column')
    if not isinstance(row[column], str):
        kind = type(row[column]).__name__
        raise CorpusError(f'row {number} of the data set {name} has no text in its column "{column}", but {kind}')
    return row[column]


def _part(folder: Path) -> Path:
    if not (folder / _SEVERAL).is_file():
        return folder
    if not (folder / SPLIT / _ONE).is_file():
        raise CorpusError(f"the data set {folder} has no split {SPLIT}: give the folder of one of its splits")
    return folder / SPLIT
