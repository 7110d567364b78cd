"""Where the documents of a token file are: one pass over the file, and a cached copy of what the pass found.

A token file holds little-endian tokens of 16 or 32 bits; every document is followed by the end-of-text token.
"""

import hashlib
import io
import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from sublora import files
from sublora.corpus.digest import UNKNOWN_BYTES
from sublora.corpus.token_type import NARROW
from sublora.errors import CorpusError
from sublora.progress import progress

log = logging.getLogger(__name__)

UNKNOWN = UNKNOWN_BYTES
HOW_TO_GET_DATA = "run: sublora prepare --source sotu --out DIR"

FORMAT = 1
CHUNK_BYTES = 1 << 25
# A file written this recently may change again without its modification time moving (the clock of file
# systems ticks in steps), so its time stamp is not yet evidence that its content is the same.
SETTLED_NS = 2_000_000_000


class Index(NamedTuple):
    """What one pass over a token file finds.

    Attributes:
        documents: one row a document: start, length, bytes of its text (-1: not known); lengths exclude the
            end-of-text token.
        sha256: of the token file, hexadecimal.
        max_token: the largest token in the file.
    """

    documents: Int64[np.ndarray, "n 3"]
    sha256: str
    max_token: int


def index_path(token_file: Path) -> Path:
    """Return the path of the index of a token file: `train.bin` -> `train.index.npy`."""
    return token_file.with_suffix(".index.npy")


def scan(token_file: Path, eot_token: int, min_tokens: int, token: np.dtype = NARROW) -> Index:
    """Read a token file once, in chunks, and find its documents, its hash and its largest token.

    Documents shorter than `min_tokens` are left out, empty ones always; a last document that is not closed counts.
    `token` is the type of the tokens.

    Raises:
        CorpusError: the file is empty, or is not a whole number of tokens.
    """
    n_bytes = token_file.stat().st_size
    if n_bytes == 0:
        raise CorpusError(f"{token_file} is empty: {HOW_TO_GET_DATA}")
    if n_bytes % token.itemsize:
        raise CorpusError(
            f"{token_file} has {n_bytes} bytes, which is no whole number of {8 * token.itemsize}-bit tokens: "
            f"{HOW_TO_GET_DATA}"
        )
    digest = hashlib.sha256()
    ends, position, max_token = [], 0, 0
    with token_file.open("rb") as file, progress(f"reading {token_file.name}", n_bytes) as advance:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
            tokens = np.frombuffer(data, token)
            ends.append(np.flatnonzero(tokens == eot_token) + position)
            max_token = max(max_token, int(tokens.max()))
            position += len(tokens)
            advance(len(data))
    # A file that does not end in the end-of-text token ends its last document at the end of the file.
    stops = np.concatenate([*ends, [position]]).astype(np.int64)
    starts = np.concatenate([[0], stops[:-1] + 1])
    documents = np.stack([starts, stops - starts, np.full_like(stops, UNKNOWN)], axis=1)
    return Index(documents[documents[:, 1] >= max(min_tokens, 1)], digest.hexdigest(), max_token)


def load_index(
    token_file: Path, eot_token: int, min_tokens: int, sha256: str | None, token: np.dtype = NARROW
) -> Index:
    """Return the index of a token file, from its cache when the cache is of this very file.

    The cache is believed when size and modification time are those of the pass that made it; otherwise the file is
    read again. The cache of a folder that cannot be written is kept in memory.

    Args:
        token_file: the tokens of a split.
        eot_token: id that ends a document.
        min_tokens: shorter documents are left out.
        token: the type of the tokens.
        sha256: the hash that the file must have, when it is recorded in meta.json. Byte lengths, which cannot be
            seen in the tokens, are taken over from an existing index only then.

    Raises:
        CorpusError: the file is empty, no whole number of tokens, or not the recorded one.
    """
    stat = token_file.stat()
    stamp: dict[str, Any] = {
        "format": FORMAT,
        "eot_token": eot_token,
        "min_tokens": min_tokens,
        "token_bytes": token.itemsize,
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }
    stored, cached = _read_stamp(_stamp_path(token_file)), read_documents(index_path(token_file))
    damaged = CorpusError(f"{token_file} is not the file that meta.json describes (SHA-256): prepare the corpus again")
    if cached is not None and stamp.items() <= stored.items() and len(cached) == stored["documents"]:
        if sha256 not in (None, stored["sha256"]):
            raise damaged
        return Index(cached, stored["sha256"], stored["max_token"])
    index = scan(token_file, eot_token, min_tokens, token)
    if sha256 not in (None, index.sha256):
        raise damaged
    if sha256 is not None and cached is not None and np.array_equal(cached[:, :2], index.documents[:, :2]):
        index = index._replace(documents=cached)
    if time.time_ns() - stat.st_mtime_ns < SETTLED_NS:
        stamp["mtime_ns"] = -1
    stamp |= {"documents": len(index.documents), "sha256": index.sha256, "max_token": index.max_token}
    try:
        if index.documents is not cached:
            write_documents(index_path(token_file), index.documents)
        files.write_bytes(_stamp_path(token_file), files.canonical_json(stamp))
    except OSError as error:
        log.info("the index of %s is kept in memory: %s", token_file, error.strerror)
    return index


def write_documents(path: Path, documents: Int64[np.ndarray, "n 3"]) -> None:
    """Write the rows (start, length, bytes) of an index."""
    buffer = io.BytesIO()
    np.save(buffer, documents.astype("<i8", copy=False), allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _stamp_path(token_file: Path) -> Path:
    return token_file.with_suffix(".index.json")


def _read_stamp(path: Path) -> dict[str, Any]:
    """The stamp of a cached index; empty when there is none or it is damaged, which only costs another pass."""
    try:
        # A folder from elsewhere may hold a pipe of this name.
        stamp = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(stamp, dict):
        return {}
    found = (type(stamp.get(name)) for name in ("documents", "sha256", "max_token"))
    return stamp if list(found) == [int, str, int] else {}


def read_documents(path: Path) -> Int64[np.ndarray, "n 3"] | None:
    """Return the rows of an index; None when there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        documents = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):
        # The head of a damaged file may name any size.
        return None
    return documents if documents.dtype == np.int64 and documents.shape[1:] == (3,) else None
