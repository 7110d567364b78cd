"""The only source of randomness: one root seed, and an independent Philox stream for every name.

A stream is keyed by SHA-256 of the root seed and the name, so streams with different names are
independent, do not depend on the order in which they are asked for, and are the same on every
machine, thread count and process (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import hashlib

import numpy as np


def key(root: int, *names: str | int) -> int:
    """Return the 128-bit Philox key of the stream `names` under the root seed `root`."""
    text = "\x1f".join(["sublora", str(int(root)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def stream(root: int, *names: str | int, counter: int = 0) -> np.random.Generator:
    """Return the generator of the named stream, `counter` blocks of 2**64 draws from its start.

    Blocks let a part of a long sequence be made alone: block i is `stream(root, name, counter=i)`.
    """
    # Philox counts in four 64-bit words, least significant first; the second word numbers the blocks.
    return np.random.Generator(np.random.Philox(key=key(root, *names), counter=[0, counter, 0, 0]))
