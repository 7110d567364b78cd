"""Text to a corpus on disk: token files as nanoGPT reads them, an index of documents, and meta.json.

A document is what the source calls one, stripped of white space at both ends and long enough by a rule that is
fixed in advance. Documents are held out by position, so the split needs no random numbers.
"""

import hashlib
import json
import logging
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import sublora
from sublora import files
from sublora.corpus.corpus import META
from sublora.corpus.index import TOKEN, index_path, write_documents
from sublora.corpus.sources import Source, open_source
from sublora.corpus.tokenizers import ByteTokenizer, Tokenizer, make_tokenizer
from sublora.errors import CorpusError
from sublora.progress import progress

log = logging.getLogger(__name__)

SPLITS = ("train", "val")
DOCUMENTS_AT_ONCE = 1000


def prepare(
    source: str,
    out_dir: Path,
    *,
    paths: Sequence[Path] = (),
    tokenizer: str | None = None,
    min_characters: int | None = None,
    val_every: int | None = None,
    max_documents: int | None = None,
) -> Path:
    """Write train.bin, val.bin, their indices and meta.json, and return the folder.

    Nothing is written under its final name before all of it is complete. A folder that holds the same corpus
    already is left as it is.

    Args:
        source: sotu, text, jsonl, openwebtext or hf:NAME, see `sources.open_source`.
        out_dir: folder to write.
        paths: files of the sources text and jsonl.
        tokenizer: bytes, gpt2, or a folder with vocab.json and merges.txt; the source's usual one unless given.
        min_characters: documents with fewer characters are left out; 40 for sotu and 1 elsewhere unless given.
        val_every: the last of every so many documents is held out; 2000 for openwebtext and 25 elsewhere unless given.
        max_documents: stop after this many documents.

    Raises:
        CorpusError: the source cannot be read, holds no document, or the folder holds another corpus.
    """
    for name, value in (("min_characters", min_characters), ("max_documents", max_documents)):
        if value is not None and value < 1:
            raise CorpusError(f"{name} is {value}, but must be at least 1")
    if val_every is not None and val_every < 2:
        raise CorpusError(f"val_every is {val_every}, but must be at least 2: it leaves no training document")
    documents = open_source(source, paths)
    encoder = make_tokenizer(tokenizer or documents.tokenizer)
    shortest = min_characters or documents.min_characters
    every = val_every or documents.val_every
    recipe = {
        "source": documents.name,
        "tokenizer": encoder.description,
        "min_characters": shortest,
        "val_every": every,
        "max_documents": max_documents,
    }
    if _holds(out_dir, recipe):
        log.info("%s holds this corpus already: nothing to do", out_dir)
        return out_dir
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"cannot make the folder {out_dir}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix=".prepare.", dir=out_dir) as scratch:
        splits = _write_splits(Path(scratch), documents, encoder, shortest, every, max_documents)
        meta = recipe | {
            "rule": f"{documents.unit}, stripped, of at least {shortest} characters; every {every}th is held out",
            "eot_token": encoder.eot_token,
            "vocab_size": encoder.vocab_size,
            # Only bytes give a length in tokens: a character is at least one byte, but a token may be many characters.
            "min_tokens": shortest if isinstance(encoder, ByteTokenizer) else 1,
            "splits": splits,
            "version": sublora.__version__,
        }
        # meta.json comes first and train.bin last: a folder that a crash leaves between the two cannot be opened.
        files.write_text(out_dir / META, json.dumps(meta, indent=2) + "\n")
        for name in reversed(SPLITS):
            for path in (index_path(Path(scratch) / f"{name}.bin"), Path(scratch) / f"{name}.bin"):
                if splits[name]:
                    path.replace(out_dir / path.name)
    for name, facts in splits.items():
        if facts:
            log.info("%s: %d documents, %d tokens, %d bytes", name, facts["documents"], facts["tokens"], facts["bytes"])
    return out_dir


def _holds(out_dir: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds the corpus of the recipe, undamaged.

    Raises:
        CorpusError: it holds another one, which is not overwritten.
    """
    another = CorpusError(f"{out_dir} holds another corpus: choose another folder, or delete this one")
    try:
        meta = json.loads((out_dir / META).read_bytes())
    except FileNotFoundError:
        if (out_dir / "train.bin").exists():
            raise another from None
        return False
    except (OSError, ValueError) as error:
        raise another from error
    if not isinstance(meta, dict) or {name: meta.get(name) for name in recipe} != recipe:
        raise another
    for name, facts in meta["splits"].items():
        path = out_dir / f"{name}.bin"
        if facts and not (path.exists() and index_path(path).exists() and files.sha256_file(path) == facts["sha256"]):
            return False
    return True


def _write_splits(
    folder: Path, source: Source, tokenizer: Tokenizer, min_characters: int, val_every: int, max_documents: int | None
) -> dict[str, dict[str, Any] | None]:
    """Write the token files and indices into `folder`; return the facts of each split, None for an empty one."""
    texts = islice(_long_enough(source.texts, min_characters), max_documents)
    totals = [n for n in (source.total, max_documents) if n is not None]
    position = 0
    with (
        _Writer(folder / "train.bin", tokenizer.eot_token) as train,
        _Writer(folder / "val.bin", tokenizer.eot_token) as val,
        progress("preparing", min(totals, default=None)) as advance,
    ):
        for batch in _batches(texts, DOCUMENTS_AT_ONCE):
            for text, tokens in zip(batch, tokenizer.encode(batch), strict=True):
                position += 1
                (train if position % val_every else val).add(tokens, len(text.encode()))
            advance(len(batch))
    if not position:
        raise CorpusError(f"{source.name} holds no document of at least {min_characters} characters")
    return {"train": train.finish(), "val": val.finish()}


def _long_enough(texts: Iterable[str], min_characters: int) -> Iterator[str]:
    return (stripped for text in texts if len(stripped := text.strip()) >= min_characters)


def _batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch


class _Writer:
    """One token file and its index."""

    def __init__(self, path: Path, eot_token: int) -> None:
        self.path, self.eot_token = path, eot_token
        self.digest = hashlib.sha256()
        self.position = 0
        self.rows = array("q")

    def __enter__(self) -> "_Writer":
        self.file = self.path.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def add(self, tokens: np.ndarray, n_bytes: int) -> None:
        """Append a document of so many bytes, and the end-of-text token."""
        data = np.append(tokens, self.eot_token).astype(TOKEN).tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.rows.extend((self.position, len(tokens), n_bytes))
        self.position += len(tokens) + 1

    def finish(self) -> dict[str, Any] | None:
        """Write the index, and return what meta.json says about the split; None when it has no document."""
        if not self.rows:
            return None
        documents = np.frombuffer(self.rows, np.int64).reshape(-1, 3)
        write_documents(index_path(self.path), documents)
        return {
            "documents": len(documents),
            "tokens": int(documents[:, 1].sum()),
            "bytes": int(documents[:, 2].sum()),
            "sha256": self.digest.hexdigest(),
        }
