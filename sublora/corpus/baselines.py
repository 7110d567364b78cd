"""What simple codes need for the same documents: uniform, adaptive, zlib, and counts of tokens or of pairs.

The length of a document is taken as given, so the end-of-text token cannot occur inside it: all codes here have
`vocab_size - 1` symbols, and a first token follows the end-of-text token.
"""

import math
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

from sublora.corpus.corpus import Split
from sublora.corpus.index import TOKEN

TOKENS_AT_ONCE = 1 << 22


def uniform_bits(split: Split, documents: Integer[np.ndarray, " n"], vocab_size: int) -> Float64[np.ndarray, " n"]:
    """Return the bits of documents when every token costs log2(vocab_size - 1)."""
    return split.lengths[documents] * np.log2(vocab_size - 1)


def zlib_bits(split: Split, documents: Integer[np.ndarray, " n"], vocab_size: int) -> Float64[np.ndarray, " n"]:
    """Return the bits of documents, each compressed on its own by DEFLATE at level 9 without header and checksum.

    A token is one byte of what is compressed where all tokens but end-of-text fit into a byte, and two elsewhere.
    """
    dtype = np.uint8 if vocab_size <= 256 + (split.eot_token == 256) else TOKEN
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


class CountModel(NamedTuple):
    """Counts of (context, token) pairs; the context is 0 for single tokens, else the token before.

    Attributes:
        cells: `context * vocab_size + token` of the pairs that occur, increasing.
        counts: how often each does.
        vocab_size: number of tokens, end-of-text included.
        pairs: whether the context is the token before.
    """

    cells: Int64[np.ndarray, " cells"]
    counts: Int64[np.ndarray, " cells"]
    vocab_size: int
    pairs: bool

    def bits(self, split: Split, documents: Integer[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return the bits of documents under p(token | context) = (count + 1/2) / (total + (V - 1) / 2).

        The add-1/2 rule is that of Krichevsky & Trofimov (1981), "The performance of universal encoding".
        """
        bits = np.zeros(len(documents))
        for rows, token_bits in self._scored(split, documents):
            bits += np.bincount(rows, token_bits, minlength=len(documents))
        return bits

    def token_bits(self, split: Split) -> Float64[np.ndarray, " tokens"]:
        """Return the bits of every token of all documents, in order, under the same probabilities."""
        return np.concatenate([token_bits for _, token_bits in self._scored(split, np.arange(len(split)))])

    def _scored(self, split: Split, documents: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for the tokens of consecutive documents, (row of the document, bits)."""
        contexts, of_cell = np.unique(self.cells // self.vocab_size, return_inverse=True)
        totals = np.bincount(of_cell, self.counts).astype(np.int64)
        for rows, cells in _cells(split, documents, self.vocab_size, self.pairs):
            count = _look_up(self.cells, self.counts, cells)
            total = _look_up(contexts, totals, cells // self.vocab_size)
            yield rows, np.log2(total + 0.5 * (self.vocab_size - 1)) - np.log2(count + 0.5)

    def coded_bits(self) -> int:
        """Return the exact length of a self-delimiting code of the counts.

        The code is Elias gamma (Elias 1975), 2 floor(log2 k) + 1 bits for k >= 1: of one more than the number of pairs
        that occur, then, for each of them, of the step from the previous cell and of the count.
        """
        steps = np.diff(self.cells, prepend=-1)
        numbers = np.concatenate([[len(self.cells) + 1], steps, self.counts])
        # frexp is exact: k = m 2**e with 1/2 <= m < 1, so floor(log2 k) = e - 1.
        return int((2 * (np.frexp(numbers)[1].astype(np.int64) - 1) + 1).sum())


def count_tokens(split: Split, vocab_size: int, *, pairs: bool) -> CountModel:
    """Count the tokens of all documents, or the pairs of a token and the one before it.

    Args:
        split: the training documents.
        vocab_size: number of tokens, end-of-text included.
        pairs: count pairs (a bigram model) instead of single tokens (a unigram model).
    """
    cells = counts = np.empty(0, np.int64)
    for _, part in _cells(split, np.arange(len(split)), vocab_size, pairs):
        new_cells, new_counts = np.unique(part, return_counts=True)
        union, of_cell = np.unique(np.concatenate([cells, new_cells]), return_inverse=True)
        counts = np.bincount(of_cell, np.concatenate([counts, new_counts])).astype(np.int64)
        cells = union
    return CountModel(cells, counts, vocab_size, pairs)


def _cells(
    split: Split, documents: np.ndarray, vocab_size: int, pairs: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for the tokens of consecutive documents, (row of the document, cell), some millions at once."""
    lengths = split.lengths[documents]
    chunk = (np.cumsum(lengths) - lengths) // TOKENS_AT_ONCE
    for rows in np.split(np.arange(len(documents)), np.flatnonzero(np.diff(chunk)) + 1):
        stops = np.cumsum(lengths[rows])
        begins = stops - lengths[rows]
        where = np.arange(lengths[rows].sum()) + np.repeat(split.starts[documents[rows]] - begins, lengths[rows])
        tokens = split.tokens[where].astype(np.int64)
        if pairs:
            before = np.roll(tokens, 1)
            before[begins] = split.eot_token
            tokens += before * vocab_size
        yield np.repeat(rows, lengths[rows]), tokens


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of keys (increasing), 0 for what is not a key."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
