"""An opened corpus: memory-mapped tokens, and the documents that are the sample unit."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt, UInt64

from sublora import seeds
from sublora.config import Data
from sublora.corpus.assumed import assumed_meta
from sublora.corpus.digest import count_distinct, document_digests, hash_documents
from sublora.corpus.index import HOW_TO_GET_DATA, UNKNOWN, index_path, load_index, scan
from sublora.corpus.token_type import MAX_VOCABULARY, token_type
from sublora.errors import CorpusError
from sublora.files import read_bytes, sha256

log = logging.getLogger(__name__)

META = "meta.json"
BYTES_TOKENIZER = "bytes: fixed, fitted on nothing"
BYTES_EOT_VOCAB = (256, 257)
MOST_META_BYTES = 1 << 20


@dataclass(frozen=True)
class Split:
    """The documents of one token file. `len(split)` is their number n.

    Attributes:
        path: the token file.
        tokens: all of its tokens, end-of-text included, memory-mapped; of 16 or 32 bits, see `token_type`.
        starts, lengths: of each document, in tokens; lengths exclude the end-of-text token.
        byte_lengths: bytes of each document's text, or None when they are not known.
        eot_token: the token that follows every document.
        min_tokens: shorter documents are left out.
        sha256: of the token file when its index was made; `compute_sha256` reads it again.
        tokens_are_bytes: every token is one byte of the text, so that byte lengths cannot be anything else.
    """

    path: Path
    tokens: UInt[np.ndarray, " n_tokens"] = field(repr=False)
    starts: Int64[np.ndarray, " n"] = field(repr=False)
    lengths: Int64[np.ndarray, " n"] = field(repr=False)
    byte_lengths: Int64[np.ndarray, " n"] | None = field(repr=False)
    eot_token: int
    min_tokens: int
    sha256: str
    tokens_are_bytes: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_documents(self) -> int:
        """Number of documents n."""
        return len(self.starts)

    def document(self, i: int) -> UInt[np.ndarray, " length"]:
        """Return the tokens of document i without the end-of-text token."""
        start = int(self.starts[i])
        return self.tokens[start : start + int(self.lengths[i])]

    def compute_sha256(self) -> str:
        """Read the whole token file again, check that its documents are those of the index, and return its SHA-256.

        It changes with everything in the file, also with what is no document; `content_sha256` does not.

        Raises:
            CorpusError: the file has other documents than the index says.
        """
        index = scan(self.path, self.eot_token, self.min_tokens, self.tokens.dtype)
        if not np.array_equal(index.documents[:, :2], np.stack([self.starts, self.lengths], axis=1)):
            raise CorpusError(f"{self.path} and its index disagree: delete {index_path(self.path)} and open it again")
        return index.sha256

    def content_sha256(self) -> str:
        """Read the token file again, and return the SHA-256 of its documents in the layout of `sublora.corpus.digest`.

        It covers each document's tokens and bytes, in order. Documents that the rule leaves out, end-of-text tokens
        and the index on disk have no part in it. Two passes, at a few seconds for a GB.

        Raises:
            CorpusError: the file has other documents than the index says, or tokens are bytes and byte lengths differ.
        """
        self.compute_sha256()
        if self.tokens_are_bytes and not np.array_equal(self.known_bytes(), self.lengths):
            raise CorpusError(f"the tokens of {self.path} are bytes, but its documents are said to have other lengths")
        return hash_documents(self.tokens, np.stack([self.starts, self.lengths, self.known_bytes()], axis=1))

    def known_bytes(self) -> Int64[np.ndarray, " n"]:
        """Return the bytes of each document's text, -1 where they are not known."""
        return np.full(len(self), UNKNOWN, np.int64) if self.byte_lengths is None else self.byte_lengths

    def digests(self) -> UInt64[np.ndarray, "n 2"]:
        """Return a hash of each document's tokens in 16 bytes: equal rows mean equal documents."""
        return document_digests(self.tokens, self.starts, self.lengths)

    def n_distinct(self) -> int:
        """Return the number of documents that differ in their tokens; 24 bytes of memory a document."""
        return count_distinct(self.digests())


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        path: its folder.
        meta: the content of meta.json; at least source, tokenizer and rule, also for files of other tools.
        eot_token: the end-of-text token.
        vocab_size: number of tokens that can occur, end-of-text included.
        min_tokens: no document is shorter, by a rule that was fixed in advance.
        train: the training documents, n of them.
        val: held-out documents that choose checkpoints; None when there are none. Of other tools' files, val.bin.
        test: held-out documents that choose nothing; None when there are none, and of other tools' files.
        prior: documents that are known beforehand, so that n does not count them; None when there are none.
        population: documents of train, val and test together, from which the seed drew; None when nothing is known
            about the split, as of other tools' files.
        split_seed: the seed that drew, see `sublora.corpus.split`; None where `population` is.
    """

    path: Path
    meta: dict[str, Any]
    eot_token: int
    vocab_size: int
    min_tokens: int
    train: Split
    val: Split | None = None
    test: Split | None = None
    prior: Split | None = None
    population: int | None = None
    split_seed: int | None = None

    @property
    def parts(self) -> tuple[Split, ...]:
        """All documents that are not known beforehand: training, validation and test, as far as they are there."""
        return tuple(part for part in (self.train, self.val, self.test) if part is not None)

    def population_sha256(self) -> str:
        """Return a hash of all parts, in their order; the token files are read again."""
        return sha256("".join(part.content_sha256() for part in self.parts).encode())


def configured_corpus(data: Data) -> Corpus:
    """Open the corpus that a configuration names; see `open_corpus`."""
    return open_corpus(data.dataset_dir, data.dataset, eot_token=data.eot_token, vocab_size=data.vocab_size)


def open_corpus(
    dataset_dir: str | os.PathLike[str],
    dataset: str = "",
    *,
    eot_token: int | None = None,
    vocab_size: int | None = None,
) -> Corpus:
    """Open a corpus that `sublora prepare` or nanoGPT's scripts wrote.

    Without meta.json the tokens are taken for GPT-2's, or for characters where nanoGPT's meta.pkl stands beside them,
    unless `eot_token` or `vocab_size` says otherwise; see `sublora.corpus.assumed`.

    Args:
        dataset_dir: the folder that holds train.bin, or its parent.
        dataset: the subfolder, when `dataset_dir` is the parent.
        eot_token: id of end-of-text; checked against meta.json where that gives it.
        vocab_size: number of tokens; checked likewise.

    Raises:
        CorpusError: no train.bin, a damaged file, a token outside the vocabulary, settings that contradict meta.json.
    """
    folder = _find(Path(dataset_dir), dataset)
    recorded = _read_meta(folder)
    given_meta = recorded.get("eot_token", eot_token), recorded.get("vocab_size", vocab_size)
    meta = assumed_meta(folder, *given_meta) | recorded
    for name, given in (("eot_token", eot_token), ("vocab_size", vocab_size)):
        if given is not None and given != meta[name]:
            raise CorpusError(f"data.{name}={given} contradicts {folder / META}, which says {meta[name]}: leave it out")
    if not 0 <= meta["eot_token"] < meta["vocab_size"]:
        raise CorpusError(
            f"the end-of-text token {meta['eot_token']} of {folder} is outside its vocabulary of {meta['vocab_size']} "
            "tokens: set data.eot_token and data.vocab_size to those of its tokenizer"
        )
    if meta["vocab_size"] > MAX_VOCABULARY:
        raise CorpusError(
            f"{folder} is said to have {meta['vocab_size']:,} tokens, and {MAX_VOCABULARY:,} are the most: set "
            "data.vocab_size to that of its tokenizer"
        )
    if meta["tokenizer"] == BYTES_TOKENIZER and (meta["eot_token"], meta["vocab_size"]) != BYTES_EOT_VOCAB:
        raise CorpusError(f"{folder / META} is damaged, since bytes have 257 tokens: prepare the corpus again")
    # Nothing but val.bin is known of the names that other tools give their files.
    names = [name for name in ("val", "test", "prior") if meta["splits"].get(name)] if "splits" in meta else ["val"]
    splits = {
        name: _open_split(folder, name, meta)
        for name in ("train", *names)
        if name == "train" or "splits" in meta or (folder / f"{name}.bin").exists()
    }
    seed = meta.get("split_seed")
    return Corpus(
        path=folder,
        meta=meta,
        eot_token=meta["eot_token"],
        vocab_size=meta["vocab_size"],
        min_tokens=meta["min_tokens"],
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        prior=splits.get("prior"),
        population=None if seed is None else meta["population"],
        split_seed=seed,
    )


def uniform_draw(n: int, m: int, digest: bytes) -> Int64[np.ndarray, " m"]:
    """Return m independent uniform draws, with replacement, from 0..n-1.

    Args:
        n: documents to draw from.
        m: draws.
        digest: hash of everything that must be fixed before the draw; it alone seeds the stream, so nobody draws
            again until lucky.
    """
    return seeds.stream(int.from_bytes(digest, "big"), "documents").integers(0, n, size=m)


def _find(parent: Path, dataset: str) -> Path:
    for folder in (parent / dataset, parent):
        if (folder / "train.bin").is_file():
            return folder
    folder = parent / dataset
    what = f"no train.bin in {folder}" if folder.is_dir() else f"no folder {folder}"
    raise CorpusError(f"{what}: {HOW_TO_GET_DATA}, then give DIR as data.dataset_dir")


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not path.exists():
        return {}
    damaged = f"{path} is damaged: prepare the corpus again"
    text = read_bytes(path, "the description", CorpusError, MOST_META_BYTES)
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(damaged) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("splits", {}), dict):
        raise CorpusError(damaged)
    numbers = ("eot_token", "vocab_size", "min_tokens", "min_characters", "split_seed", "population")
    if not all(type(meta.get(name, 0)) is int for name in numbers) or (
        ("split_seed" in meta) != ("population" in meta)
    ):
        raise CorpusError(damaged)
    parts = meta.get("splits", {"train": {"sha256": ""}})
    described = [facts for name, facts in parts.items() if facts or name == "train"]
    if "train" not in parts or not all(
        isinstance(facts, dict) and isinstance(facts.get("sha256"), str) for facts in described
    ):
        raise CorpusError(damaged)
    return meta


def _open_split(folder: Path, name: str, meta: dict[str, Any]) -> Split:
    path = folder / f"{name}.bin"
    if not path.is_file():
        raise CorpusError(f"no {path}, though meta.json describes it: prepare the corpus again")
    recorded = meta["splits"][name]["sha256"] if "splits" in meta else None
    token = token_type(meta["vocab_size"])
    index = load_index(path, meta["eot_token"], meta["min_tokens"], recorded, token)
    if index.max_token >= meta["vocab_size"]:
        raise CorpusError(
            f"{path} holds token {index.max_token}, outside the vocabulary of {meta['vocab_size']} tokens: "
            "set data.vocab_size (and data.eot_token) to those of its tokenizer"
        )
    starts, lengths, byte_lengths = index.documents.T
    if not len(starts):
        raise CorpusError(f"{path} holds no document of at least {meta['min_tokens']} tokens: {HOW_TO_GET_DATA}")
    if len(starts) == 1 and lengths[0] * token.itemsize == path.stat().st_size:
        log.warning("%s is one document: token %d, the end of text, does not occur in it", path, meta["eot_token"])
    if meta["tokenizer"] == BYTES_TOKENIZER:
        byte_lengths = lengths
    known = bool((byte_lengths != UNKNOWN).all())
    if known and byte_lengths.min() < 1:
        raise CorpusError(f"{index_path(path)} is damaged, since a document has at least one byte: prepare it again")
    tokens = np.memmap(path, token, mode="r")
    return Split(
        path=path,
        tokens=tokens,
        starts=starts,
        lengths=lengths,
        byte_lengths=byte_lengths if known else None,
        eot_token=meta["eot_token"],
        min_tokens=meta["min_tokens"],
        sha256=index.sha256,
        tokens_are_bytes=meta["tokenizer"] == BYTES_TOKENIZER,
    )
