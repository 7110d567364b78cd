"""What codes that know nothing of a corpus need for its documents: uniform, adaptive, zlib.

The length of a document is taken as given, so the end-of-text token cannot occur inside it: all codes here have
`vocab_size - 1` symbols.
"""

import math
import zlib

import numpy as np
from jaxtyping import Float64, Integer

from sublora.corpus.corpus import Split


def uniform_bits(split: Split, documents: Integer[np.ndarray, " n"], vocab_size: int) -> Float64[np.ndarray, " n"]:
    """Return the bits of documents when every token costs log2(vocab_size - 1)."""
    return split.lengths[documents] * np.log2(vocab_size - 1)


def zlib_bits(split: Split, documents: Integer[np.ndarray, " n"], vocab_size: int) -> Float64[np.ndarray, " n"]:
    """Return the bits of documents, each compressed on its own by DEFLATE at level 9 without header and checksum.

    A token is one byte of what is compressed where all tokens but end-of-text fit into a byte, and as in the file
    elsewhere.
    """
    dtype = np.uint8 if vocab_size <= 256 + (split.eot_token == 256) else split.tokens.dtype
    texts = (split.document(int(i)).astype(dtype).tobytes() for i in documents)
    return np.array([8.0 * len(zlib.compress(text, 9, wbits=-zlib.MAX_WBITS)) for text in texts])


def adaptive_bits(split: Split, documents: Integer[np.ndarray, " n"], vocab_size: int) -> Float64[np.ndarray, " n"]:
    """Return the bits of documents under order-0 adaptive coding, each document on its own.

    A token that occurred k times among the t tokens before it has probability (k + 1/2) / (t + (V - 1)/2), the rule of
    Krichevsky & Trofimov (1981). The order of tokens does not matter, so a document's counts are enough.
    """
    symbols, out = vocab_size - 1, np.empty(len(documents))
    for row, i in enumerate(documents):
        counts = np.unique(split.document(int(i)), return_counts=True)[1]
        nats = math.lgamma(counts.sum() + symbols / 2) - math.lgamma(symbols / 2)
        out[row] = (nats - sum(math.lgamma(k + 0.5) - math.lgamma(0.5) for k in counts)) / math.log(2)
    return out
