"""An opened corpus: memory-mapped tokens, and the documents that are the sample unit."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt16

from sublora import seeds
from sublora.corpus.index import HOW_TO_GET_DATA, TOKEN, UNKNOWN, index_path, load_index, scan
from sublora.errors import CorpusError

log = logging.getLogger(__name__)

META = "meta.json"
BYTES_TOKENIZER = "bytes: fixed, fitted on nothing"

# What a token file without meta.json is taken for: the output of nanoGPT's data/openwebtext/prepare.py.
GPT2_EOT, GPT2_VOCAB = 50256, 50257


@dataclass(frozen=True)
class Split:
    """The documents of one token file. `len(split)` is their number n.

    Attributes:
        path: the token file.
        tokens: all of its tokens, end-of-text included, memory-mapped.
        starts, lengths: of each document, in tokens; lengths exclude the end-of-text token.
        byte_lengths: bytes of each document's text, or None when they are not known.
        eot_token: the token that follows every document.
        min_tokens: shorter documents are left out.
        sha256: of the token file when its index was made; `compute_sha256` reads it again.
    """

    path: Path
    tokens: UInt16[np.ndarray, " n_tokens"] = field(repr=False)
    starts: Int64[np.ndarray, " n"] = field(repr=False)
    lengths: Int64[np.ndarray, " n"] = field(repr=False)
    byte_lengths: Int64[np.ndarray, " n"] | None = field(repr=False)
    eot_token: int
    min_tokens: int
    sha256: str

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_documents(self) -> int:
        """Number of documents n."""
        return len(self.starts)

    def document(self, i: int) -> UInt16[np.ndarray, " length"]:
        """Return the tokens of document i without the end-of-text token."""
        start = int(self.starts[i])
        return self.tokens[start : start + int(self.lengths[i])]

    def compute_sha256(self) -> str:
        """Read the whole token file again, check that its documents are those of the index, and return its SHA-256.

        Raises:
            CorpusError: the file has other documents than the index says.
        """
        index = scan(self.path, self.eot_token, self.min_tokens)
        if not np.array_equal(index.documents[:, :2], np.stack([self.starts, self.lengths], axis=1)):
            raise CorpusError(f"{self.path} and its index disagree: delete {index_path(self.path)} and open it again")
        return index.sha256


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        path: its folder.
        meta: the content of meta.json; at least source, tokenizer and rule, also for files of other tools.
        eot_token: the end-of-text token.
        vocab_size: number of tokens that can occur, end-of-text included.
        min_tokens: no document is shorter, by a rule that was fixed in advance.
        train: the training documents.
        val: the held-out documents, or None when there are none.
    """

    path: Path
    meta: dict[str, Any]
    eot_token: int
    vocab_size: int
    min_tokens: int
    train: Split
    val: Split | None


def open_corpus(
    dataset_dir: str | os.PathLike[str],
    dataset: str = "",
    *,
    eot_token: int | None = None,
    vocab_size: int | None = None,
) -> Corpus:
    """Open a corpus that `sublora prepare` or nanoGPT's scripts wrote.

    Without meta.json the tokens are taken for GPT-2's, unless `eot_token` or `vocab_size` says otherwise.

    Args:
        dataset_dir: the folder that holds train.bin, or its parent.
        dataset: the subfolder, when `dataset_dir` is the parent.
        eot_token, vocab_size: checked against meta.json where that gives them.

    Raises:
        CorpusError: no train.bin, a damaged file, a token outside the vocabulary, settings that contradict meta.json.
    """
    folder = _find(Path(dataset_dir), dataset)
    recorded = _read_meta(folder)
    meta = _assumed_meta(eot_token, vocab_size) | recorded
    for name, given in (("eot_token", eot_token), ("vocab_size", vocab_size)):
        if given is not None and given != meta[name]:
            raise CorpusError(f"data.{name}={given} contradicts {folder / META}, which says {meta[name]}: leave it out")
    if not 0 <= meta["eot_token"] < meta["vocab_size"]:
        raise CorpusError(
            f"the end-of-text token {meta['eot_token']} of {folder} is outside its vocabulary of {meta['vocab_size']} "
            "tokens: set data.eot_token and data.vocab_size to those of its tokenizer"
        )
    train = _open_split(folder, "train", meta)
    has_val = bool(meta["splits"].get("val")) if "splits" in meta else (folder / "val.bin").exists()
    val = _open_split(folder, "val", meta) if has_val else None
    return Corpus(folder, meta, meta["eot_token"], meta["vocab_size"], meta["min_tokens"], train, val)


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


def _assumed_meta(eot_token: int | None, vocab_size: int | None) -> dict[str, Any]:
    """What is taken for true of a folder without meta.json."""
    gpt2 = eot_token in (None, GPT2_EOT) and vocab_size in (None, GPT2_VOCAB)
    return {
        "source": "a token file without meta.json",
        "tokenizer": "GPT-2 byte-pair encoding (assumed: no meta.json)" if gpt2 else "unknown (no meta.json)",
        "rule": "what stands between two end-of-text tokens is a document",
        "eot_token": GPT2_EOT if eot_token is None else eot_token,
        "vocab_size": GPT2_VOCAB if vocab_size is None else vocab_size,
        "min_tokens": 1,
    }


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not path.exists():
        return {}
    damaged = f"{path} is damaged: prepare the corpus again"
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorpusError(damaged) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("splits", {}), dict):
        raise CorpusError(damaged)
    if not all(isinstance(meta.get(name, 0), int) for name in ("eot_token", "vocab_size", "min_tokens")):
        raise CorpusError(damaged)
    return meta


def _open_split(folder: Path, name: str, meta: dict[str, Any]) -> Split:
    path = folder / f"{name}.bin"
    if not path.is_file():
        raise CorpusError(f"no {path}, though meta.json describes it: prepare the corpus again")
    recorded = meta["splits"][name]["sha256"] if "splits" in meta else None
    index = load_index(path, meta["eot_token"], meta["min_tokens"], recorded)
    if index.max_token >= meta["vocab_size"]:
        raise CorpusError(
            f"{path} holds token {index.max_token}, outside the vocabulary of {meta['vocab_size']} tokens: "
            "set data.vocab_size (and data.eot_token) to those of its tokenizer"
        )
    starts, lengths, byte_lengths = index.documents.T
    if not len(starts):
        raise CorpusError(f"{path} holds no document of at least {meta['min_tokens']} tokens: {HOW_TO_GET_DATA}")
    if len(starts) == 1 and lengths[0] * TOKEN.itemsize == path.stat().st_size:
        log.warning("%s is one document: token %d, the end of text, does not occur in it", path, meta["eot_token"])
    if meta["tokenizer"] == BYTES_TOKENIZER:
        byte_lengths = lengths
    known = bool((byte_lengths != UNKNOWN).all())
    tokens = np.memmap(path, TOKEN, mode="r")
    return Split(
        path=path,
        tokens=tokens,
        starts=starts,
        lengths=lengths,
        byte_lengths=byte_lengths if known else None,
        eot_token=meta["eot_token"],
        min_tokens=meta["min_tokens"],
        sha256=index.sha256,
    )
