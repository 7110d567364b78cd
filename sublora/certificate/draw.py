"""Which units are measured: all of them, or a draw whose repetitions are paid for. Torch-free."""

import hashlib
import math

import numpy as np
from jaxtyping import Int

from sublora.draws import uniform_draw

DRAW_BITS = 40
"""An issuer can make another draw by changing anything that enters the hash: an unused level of a codebook, the mixture
weight, a document that is left out. So the second stage of the bound holds for 2^40 draws at once (a union bound)."""
DRAW_NATS = DRAW_BITS * math.log(2)


def draw_units(data: bytes, content_sha256: str, n: int, samples: int) -> Int[np.ndarray, " m"]:
    """Return the units to measure: all n, or uniform draws with replacement.

    The draw follows from the message and the kept documents, bit for bit (`sublora.draws`).

    Args:
        data: the message.
        content_sha256: hash of the kept documents, hexadecimal.
        n: units to draw from.
        samples: number of draws; 0 measures every unit once.
    """
    if not samples:
        return np.arange(n)
    seed = hashlib.sha256(data + bytes.fromhex(content_sha256)).digest()
    return uniform_draw("units", seed, n, samples)
