"""Which units are measured: all of them, or a draw that nobody can repeat until lucky. Torch-free."""

import hashlib

import numpy as np
from jaxtyping import Int

from sublora.corpus.corpus import uniform_draw


def draw_units(data: bytes, corpus_sha256: str, n: int, samples: int) -> Int[np.ndarray, " m"]:
    """Return the units to measure: all n, or uniform draws with replacement.

    The draw follows from the message and the corpus.

    Args:
        data: the message.
        corpus_sha256: hash of the token file, hexadecimal.
        n: units to draw from.
        samples: number of draws; 0 measures every unit once.
    """
    if not samples:
        return np.arange(n)
    return uniform_draw(n, samples, hashlib.sha256(data + bytes.fromhex(corpus_sha256)).digest())
