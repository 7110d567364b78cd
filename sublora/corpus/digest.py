r"""A hash of documents, and of nothing else that a token file or its index may hold. Torch-free.

The layout, `sublora documents 1`: the ASCII line `sublora documents 1\n`, then one record a document, in order:

    length in tokens    signed 64-bit integer, little-endian
    bytes of its text   signed 64-bit integer, little-endian; -1 where they are not known
    its tokens          unsigned 16-bit integers, little-endian, without end-of-text

A record says how long it is, so two sequences of documents never give the same bytes. In `sublora documents 2`, for
files with tokens of 32 bits, the number in the first line is 2, and tokens are unsigned 32-bit integers.
"""

import hashlib
import struct
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64, Integer, UInt, UInt64

from sublora.corpus.token_type import NARROW, WIDE

_MAGIC = {NARROW.itemsize: b"sublora documents 1\n", WIDE.itemsize: b"sublora documents 2\n"}
_HEADER = struct.Struct("<qq")
UNKNOWN_BYTES = -1
DIGEST_BYTES = 16
"""bytes of a hash that tell documents apart: 2^64 documents before two are expected to agree"""


class DocumentHash:
    """SHA-256 over documents in the layout above.

    Args:
        token: of the tokens in the file.
    """

    def __init__(self, token: np.dtype = NARROW) -> None:
        self._token = token
        self._digest = hashlib.sha256(_MAGIC[token.itemsize])

    def add(self, tokens: Integer[np.ndarray, " length"], n_bytes: int) -> None:
        """Append a document.

        Args:
            tokens: that the type can hold, without end-of-text.
            n_bytes: bytes of its text, -1 where they are not known.
        """
        self._digest.update(_HEADER.pack(len(tokens), n_bytes))
        # The tokens of a file are hashed where they lie, without a copy.
        self._digest.update(np.ascontiguousarray(tokens, self._token).data)

    def hexdigest(self) -> str:
        """Return the SHA-256 of what was added, in hexadecimal."""
        return self._digest.hexdigest()


def hash_documents(tokens: UInt[np.ndarray, " n_tokens"], rows: Integer[np.ndarray, "n 3"]) -> str:
    """Return the hash of documents of a token file, without holding more than one of them.

    Args:
        tokens: of the file.
        rows: start, length and bytes of each document.
    """
    digest, data = hashlib.sha256(_MAGIC[tokens.itemsize]), _as_bytes(tokens)
    update, pack, size = digest.update, _HEADER.pack, tokens.itemsize
    for block in _blocks(rows):
        for start, length, n_bytes in block.tolist():
            update(pack(length, n_bytes))
            update(data[start * size : (start + length) * size])
    return digest.hexdigest()


def document_digests(
    tokens: UInt[np.ndarray, " n_tokens"], starts: Int64[np.ndarray, " n"], lengths: Int64[np.ndarray, " n"]
) -> UInt64[np.ndarray, "n 2"]:
    """Return BLAKE2b of each document's tokens in 16 bytes, as two integers; equal tokens of one type, equal rows."""
    data, size, out = _as_bytes(tokens), tokens.itemsize, bytearray()
    for block in _blocks(np.stack([starts, lengths], axis=1)):
        for start, length in block.tolist():
            document = data[start * size : (start + length) * size]
            out += hashlib.blake2b(document, digest_size=DIGEST_BYTES).digest()
    return np.frombuffer(bytes(out), np.uint64).reshape(-1, 2)


def count_distinct(digests: UInt64[np.ndarray, "n 2"]) -> int:
    """Return the number of different rows."""
    if not len(digests):
        return 0
    ordered = digests[np.lexsort(digests.T)]
    return 1 + int((ordered[1:] != ordered[:-1]).any(axis=1).sum())


def _as_bytes(tokens: np.ndarray) -> memoryview:
    # A slice of a memory view takes a fifth of the time of a slice of a memory-mapped array.
    return memoryview(np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).data).cast("B")


def _blocks(rows: np.ndarray, size: int = 1 << 16) -> Iterable[np.ndarray]:
    # Rows as lists of integers are quick to read and large; so few of them exist at a time.
    return (rows[i : i + size] for i in range(0, len(rows), size))
