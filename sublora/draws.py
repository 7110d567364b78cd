"""Random draws defined bit for bit: whoever implements SHA-256 can draw the same documents. Torch-free.

Words of a stream are the digests SHA-256(label || 0x1f || seed || counter), counter = 0, 1, 2, ... as 8 bytes,
little-endian; each digest is four unsigned 64-bit integers, little-endian, in order. No generator of a library is
used, because its stream may change with its version.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

WORDS = 4
"""64-bit words of a digest"""


def _words(label: str, seed: bytes) -> Iterator[int]:
    prefix = hashlib.sha256(label.encode() + b"\x1f" + seed)
    counter = 0
    while True:
        digest = prefix.copy()
        digest.update(counter.to_bytes(8, "little"))
        block = digest.digest()
        for i in range(WORDS):
            yield int.from_bytes(block[8 * i : 8 * i + 8], "little")
        counter += 1


def uniform_draw(label: str, seed: bytes, n: int, m: int) -> Int64[np.ndarray, " m"]:
    """Return m independent uniform draws, with replacement, from 0..n-1.

    A word w is rejected if it is at least the largest multiple of n that 2^64 holds; otherwise w mod n is drawn.

    Args:
        label: what is drawn; draws with other labels are independent.
        seed: what the draw follows from.
        n: things to draw from, at least 1.
        m: draws.
    """
    if n < 1:
        raise ValueError(f"nothing to draw from: n is {n}")
    limit = (1 << 64) // n * n
    out, words = np.empty(m, np.int64), _words(label, seed)
    for i in range(m):
        word = next(words)
        while word >= limit:
            word = next(words)
        out[i] = word % n
    return out


def shuffled(label: str, seed: bytes, n: int) -> Int64[np.ndarray, " n"]:
    """Return 0..n-1 in a random order: sorted by one 64-bit word each, ties (of probability n^2 2^-65) by number."""
    words = _words(label, seed)
    keys = np.fromiter((next(words) for _ in range(n)), np.uint64, n)
    return np.argsort(keys, kind="stable")
