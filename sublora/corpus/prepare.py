"""Text to a corpus on disk: token files as nanoGPT reads them, an index of documents, and meta.json.

A document is what the source calls one, stripped of white space at both ends, long enough by a rule that is fixed in
advance, and equal to no document before it. Documents that are known beforehand are set aside, and a seed divides the
others (`sublora.corpus.split`). docs/corpus.md describes the folder.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import sublora
from sublora import files
from sublora.corpus.corpus import META
from sublora.corpus.digest import hash_documents
from sublora.corpus.index import index_path, read_documents
from sublora.corpus.labelled import LabelTokenizer
from sublora.corpus.reading import Rule, tokenize
from sublora.corpus.sources import UNITS, Source, open_older, open_source
from sublora.corpus.split import PRIOR, SPLIT_SEEDS, SPLITS, assign, split_sizes
from sublora.corpus.token_type import token_type
from sublora.corpus.tokenizers import ByteTokenizer, Tokenizer, make_tokenizer
from sublora.corpus.writer import SplitWriter
from sublora.errors import CorpusError

log = logging.getLogger(__name__)

SCRATCH, STATE = ".prepare", "state.json"


def prepare(
    source: str,
    out_dir: Path,
    *,
    paths: Sequence[Path | str] = (),
    absent_from: Sequence[Path | str] = (),
    column: str | None = None,
    unit: str | None = None,
    tokenizer: str | None = None,
    min_characters: int | None = None,
    max_characters: int | None = None,
    val_every: int | None = None,
    max_documents: int | None = None,
    split_seed: int = 0,
    prior_share: float | None = None,
    prior_before: int | None = None,
    prior_before_year: int | None = None,
) -> Path:
    """Write train.bin, val.bin, test.bin, prior.bin, their indices and meta.json, and return the folder.

    Nothing is written under its final name before all of it is complete. A folder that holds the same corpus
    already is left as it is. A preparation that was killed goes on where it last saved its state; the source is read
    again up to there, but not tokenized. Texts are tokenized on all processors by the tokenizers themselves.

    Args:
        source: sotu, text, jsonl, labelled, docstrings, openwebtext or hf:NAME, see `sources.open_source`.
        out_dir: folder to write.
        paths: files of the sources text, jsonl, labelled and docstrings (here also pypi:NAME==VERSION).
        absent_from: an older copy of the source, given as `paths` are. What it holds is no document, but is written
            to prior.bin: it was known beforehand.
        column: field of jsonl or labelled, or column of a data set, that holds the text; `text` unless given.
        unit: what a document of text files is: line, paragraph (the usual one) or file.
        tokenizer: bytes, gpt2, a GGUF file, a folder or the name of a tokenizer on the hub, see
            `tokenizers.make_tokenizer`; the source's usual one unless given.
        min_characters: documents with fewer characters are left out; 40 for sotu and docstrings and 1 elsewhere unless
            given.
        max_characters: of a text that are read before its label (labelled); 1,000 unless given.
        val_every: one of so many documents is for validation, another for the test; 2000 for openwebtext and 25
            elsewhere unless given.
        max_documents: stop after this many documents.
        split_seed: divides the documents, below 2^40.
        prior_share: share of the documents, drawn by the same seed, that goes to prior.bin, between 0 and 1.
        prior_before: the first so many documents go to prior.bin, and the rest is divided.
        prior_before_year: the same of documents older than this year, of a source that has dates (sotu).

    Raises:
        CorpusError: the source cannot be read, holds no document or only one, or the folder holds another corpus.
    """
    for name, value, least in (
        ("min_characters", min_characters, 1),
        ("max_characters", max_characters, 1),
        ("max_documents", max_documents, 2),
        ("prior_before", prior_before, 1),
    ):
        if value is not None and value < least:
            raise CorpusError(f"{name} is {value}, but must be at least {least}")
    if val_every is not None and val_every < 3:
        raise CorpusError(f"val_every is {val_every}, but must be at least 3: it leaves no training document")
    if not 0 <= split_seed < SPLIT_SEEDS:
        raise CorpusError(f"the split seed is {split_seed}, but must be at least 0 and below 2^40")
    if prior_share is not None and not 0 < prior_share < 1:
        raise CorpusError(f"the prior share is {prior_share}, but must lie between 0 and 1: leave it out for no prior")
    if prior_before is not None and prior_before_year is not None:
        raise CorpusError("give a prior before a position or before a year, not both")
    documents = open_source(source, paths, column=column, unit=unit, max_characters=max_characters)
    older = None
    if absent_from:
        older = open_older(source, absent_from, column=column, unit=unit, max_characters=max_characters)
    if prior_before_year is not None and documents.texts_before is None:
        raise CorpusError(f"the source {source} has no dates, so nothing is before a year: give a position instead")
    encoder: Tokenizer = make_tokenizer(tokenizer or documents.tokenizer)
    if documents.labels:
        if unknown := sorted(set(older.labels if older else ()) - set(documents.labels)):
            raise CorpusError(f"the older copy has the label {unknown[0]!r}, which no document of the source has")
        encoder = LabelTokenizer(encoder, documents.labels, documents.most_characters)
    recipe: dict[str, Any] = {
        "source": documents.name,
        "older_copy": older and older.name,
        "unit": documents.unit,
        "tokenizer": encoder.description,
        "min_characters": min_characters or documents.min_characters,
        "max_documents": max_documents,
        "prior_before": prior_before,
        "prior_before_year": prior_before_year,
        "split_seed": split_seed,
        "val_every": val_every or documents.val_every,
        "prior_share": prior_share,
    }
    if _holds(out_dir, recipe, token_type(encoder.vocab_size)):
        log.info("%s holds this corpus already: nothing to do", out_dir)
        return out_dir
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"cannot make the folder {out_dir}: {error.strerror}") from error
    with _scratch(out_dir) as scratch:
        meta = recipe | {
            "rule": rule_in_words(recipe),
            "eot_token": encoder.eot_token,
            "vocab_size": encoder.vocab_size,
            # Only bytes give a length in tokens: a character is at least one byte, but a token may be many characters.
            "min_tokens": recipe["min_characters"] if isinstance(encoder, ByteTokenizer) else 1,
            **_write_splits(scratch, documents, older, encoder, recipe),
            **({"labels": encoder.labels.to_meta()} if isinstance(encoder, LabelTokenizer) else {}),
            "version": sublora.__version__,
        }
        # meta.json comes first and train.bin last: a folder that a crash leaves between the two cannot be opened.
        files.write_text(out_dir / META, json.dumps(meta, indent=2) + "\n")
        for name in reversed(SPLITS):
            for path in (index_path(scratch / f"{name}.bin"), scratch / f"{name}.bin"):
                if meta["splits"][name]:
                    path.replace(out_dir / path.name)
    for name, facts in meta["splits"].items():
        if facts:
            log.info("%s: %d documents, %d tokens, %d bytes", name, facts["documents"], facts["tokens"], facts["bytes"])
    return out_dir


def rule_in_words(recipe: dict[str, Any]) -> str:
    """Return the rule for documents and their division, in one sentence that follows from a recipe alone."""
    words = [
        f"{recipe['unit']}, stripped, of at least {recipe['min_characters']} characters",
        "of equal ones the first",
    ]
    if recipe["older_copy"]:
        words.append(f"none that is in {recipe['older_copy']}")
    if recipe["max_documents"]:
        words.append(f"the first {recipe['max_documents']} of them")
    if recipe["prior_before"]:
        words.append(f"the first {recipe['prior_before']} are known beforehand")
    if recipe["prior_before_year"]:
        words.append(f"those before {recipe['prior_before_year']} are known beforehand")
    every = recipe["val_every"]
    words.append(f"seed {recipe['split_seed']} draws 1 in {every} for the test and 1 in {every} for validation")
    if recipe["prior_share"]:
        words.append(f"and a share of {recipe['prior_share']} that is known beforehand")
    return "; ".join(words)


def _holds(out_dir: Path, recipe: dict[str, Any], token: np.dtype) -> bool:
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
    if not isinstance(meta, dict) or not recipe.items() <= meta.items() or "splits" not in meta:
        raise another
    return all(
        facts is None or _intact(out_dir / f"{name}.bin", facts, token) for name, facts in meta["splits"].items()
    )


def _intact(path: Path, facts: dict[str, Any], token: np.dtype) -> bool:
    rows = read_documents(index_path(path))
    if rows is None or not path.exists() or files.sha256_file(path) != facts["sha256"]:
        return False
    return hash_documents(np.memmap(path, token, mode="r"), rows) == facts["content_sha256"]


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
        return state
    # The state of another recipe must not outlive its token files.
    (scratch / STATE).unlink(missing_ok=True)
    return {"recipe": recipe}


def _write_splits(
    scratch: Path, source: Source, older: Source | None, tokenizer: Tokenizer, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Write the token files and indices into `scratch`; return what meta.json says about them.

    The number of documents is known only when the source has been read, so all are tokenized into one file each for
    the source and its older copy, and copied from there. Only rows of the index and digests are held in memory.
    """
    state = _saved_state(scratch, recipe)

    def read(part: str, of: Source, rule: Rule, limit: int | None) -> np.ndarray:
        def save(progress: dict[str, Any]) -> None:
            state[part] = progress
            files.write_bytes(scratch / STATE, files.canonical_json(state))

        path, earlier = scratch / f"{part}.tokens", state.get(part, {})
        return tokenize(of, rule, tokenizer, path, limit=limit, state=earlier, save=save)

    shortest, year = recipe["min_characters"], recipe["prior_before_year"]
    old_rows, known = np.empty((0, 3), np.int64), Rule("", shortest)
    if older is not None:
        known = Rule(older.name, shortest)
        old_rows = read("older", older, known, None)
    boundary = source.texts_before(year) if year is not None and source.texts_before else 0
    rule = Rule(source.name, shortest, older=known.seen, boundary=boundary)
    rows = read("newer", source, rule, recipe["max_documents"])
    if len(rows) == 1:
        raise CorpusError(
            f"{source.name} is one document of at least {shortest} characters, and a claim is about many: divide it "
            f"(--unit {' or '.join(UNITS)} of text files, a line of jsonl), or lower --min-characters"
        )
    if older is not None and not rule.in_older:
        log.warning("no document is in both %s and %s: is the older copy one of this source?", older.name, source.name)
    before = _documents_before(recipe, rule, len(rows))
    sizes = split_sizes(len(rows) - before, recipe["val_every"], recipe["prior_share"])
    parts = np.concatenate([np.full(before, PRIOR, np.int8), assign(len(rows) - before, recipe["split_seed"], sizes)])
    token = token_type(tokenizer.vocab_size)
    with ExitStack() as stack:
        writers = [stack.enter_context(SplitWriter(scratch / f"{n}.bin", tokenizer.eot_token, token)) for n in SPLITS]
        _copy(scratch / "older.tokens", old_rows, np.full(len(old_rows), PRIOR, np.int8), writers)
        _copy(scratch / "newer.tokens", rows, parts, writers)
        splits = {name: writer.finish() for name, writer in zip(SPLITS, writers, strict=True)}
    return {
        "population": sizes.population,
        "shuffled": len(rows) - before,
        "shuffled_sha256": hash_documents(np.memmap(scratch / "newer.tokens", token, mode="r"), rows[before:]),
        "prior": {"older": len(old_rows), "before": before, "share": sizes.prior},
        "dropped": rule.dropped,
        "splits": splits,
    }


def _documents_before(recipe: dict[str, Any], rule: Rule, n: int) -> int:
    """How many documents are known beforehand because of their position.

    Raises:
        CorpusError: none are, or all are.
    """
    year = recipe["prior_before_year"]
    before = rule.before if year is not None else recipe["prior_before"] or 0
    if year is not None and not before:
        raise CorpusError(f"{rule.source} has no document before {year}")
    if before >= n:
        where = f"before {year}" if year is not None else f"among the first {before}"
        raise CorpusError(f"all {n} documents of {rule.source} are {where}: none is left to train on")
    return before


def _copy(path: Path, rows: np.ndarray, parts: np.ndarray, writers: Sequence[SplitWriter]) -> None:
    if not len(rows):
        return
    tokens = np.asarray(np.memmap(path, writers[0].token, mode="r"))
    for (start, length, n_bytes), part in zip(rows, parts, strict=True):
        writers[part].add(tokens[start : start + length], int(n_bytes))
