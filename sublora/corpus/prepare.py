"""Text to a corpus on disk: token files as nanoGPT reads them, an index of documents, and meta.json.

A document is what the source calls one, stripped of white space at both ends and long enough by a rule that is
fixed in advance. Documents are held out by position, so the split needs no random numbers.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import sublora
from sublora import files
from sublora.corpus.corpus import META
from sublora.corpus.index import index_path
from sublora.corpus.sources import Source, open_source
from sublora.corpus.tokenizers import ByteTokenizer, Tokenizer, make_tokenizer
from sublora.corpus.writer import SplitWriter
from sublora.errors import CorpusError
from sublora.progress import progress

log = logging.getLogger(__name__)

SPLITS = ("train", "val")
DOCUMENTS_AT_ONCE = 1000
# So much work at most is done again after a process was killed.
DOCUMENTS_BETWEEN_SAVES = 50_000
SCRATCH, STATE = ".prepare", "state.json"


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
    already is left as it is. A preparation that was killed goes on where it last saved its state; the source is read
    again up to there, but not tokenized. Texts are tokenized on all processors by the tokenizers themselves.

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
    with _scratch(out_dir) as scratch:
        splits = _write_splits(scratch, documents, encoder, recipe)
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
            for path in (index_path(scratch / f"{name}.bin"), scratch / f"{name}.bin"):
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


@contextmanager
def _scratch(out_dir: Path) -> Iterator[Path]:
    """The folder of what is not complete yet. It outlives a failure exactly if there is a state to go on from."""
    scratch = out_dir / SCRATCH
    scratch.mkdir(exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CorpusError(f"another process is preparing {out_dir}: wait for it") from error
        try:
            yield scratch
        except BaseException:
            if not (scratch / STATE).exists():
                shutil.rmtree(scratch)
            raise
        shutil.rmtree(scratch)


def _saved_state(scratch: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """How far an earlier process came with this recipe; nowhere if there was none."""
    try:
        state = json.loads((scratch / STATE).read_bytes())
    except FileNotFoundError:
        state = {}
    if state.get("recipe") == recipe:
        log.info("going on after %d documents", state["read"])
        return state
    # The state of another recipe must not outlive its token files.
    (scratch / STATE).unlink(missing_ok=True)
    return {"read": 0, "kept": 0, "splits": {name: {} for name in SPLITS}}


def _write_splits(
    scratch: Path, source: Source, tokenizer: Tokenizer, recipe: dict[str, Any]
) -> dict[str, dict[str, Any] | None]:
    """Write the token files and indices into `scratch`; return the facts of each split, None for an empty one."""
    state = _saved_state(scratch, recipe)
    read, kept, limit = state["read"], state["kept"], recipe["max_documents"]
    totals = [n for n in (source.total, limit) if n is not None]
    with (
        SplitWriter(scratch / "train.bin", tokenizer.eot_token, **state["splits"]["train"]) as train,
        SplitWriter(scratch / "val.bin", tokenizer.eot_token, **state["splits"]["val"]) as val,
        progress("preparing", min(totals, default=None), done=kept) as advance,
    ):

        def save() -> None:
            splits = {"train": train.save(), "val": val.save()}
            state = {"recipe": recipe, "read": read, "kept": kept, "splits": splits}
            files.write_bytes(scratch / STATE, files.canonical_json(state))

        saved = read
        for batch in _batches(islice(source.texts, read, None), DOCUMENTS_AT_ONCE):
            read += len(batch)
            texts = [stripped for text in batch if len(stripped := text.strip()) >= recipe["min_characters"]]
            texts = texts[: None if limit is None else limit - kept]
            for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
                kept += 1
                (train if kept % recipe["val_every"] else val).add(tokens, len(text.encode()))
            advance(len(texts))
            if kept == limit:
                break
            if read - saved >= DOCUMENTS_BETWEEN_SAVES:
                save()
                saved = read
        if not kept:
            raise CorpusError(f"{source.name} holds no document of at least {recipe['min_characters']} characters")
        return {"train": train.finish(), "val": val.finish()}


def _batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
