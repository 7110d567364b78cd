"""A code for tokens that was known before any corpus: what a model falls back on, and what it has to beat. Torch-free.

It is fitted to nothing, so it costs no bits of a message. The better it is, the smaller the range of what a model can
lose against it, and the tighter a bound on that excess (see `sublora.certificate.claims`).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64

from sublora.corpus.corpus import BYTES_TOKENIZER, Split

# Prices are whole multiples of this many bits, so that their sums are the same on every machine.
UNIT = 1 / 256
# Letters of English text, per hundred thousand (Lewand 2000, "Cryptological Mathematics", p. 36).
_LETTERS = {
    "a": 8167, "b": 1492, "c": 2782, "d": 4253, "e": 12702, "f": 2228, "g": 2015, "h": 6094, "i": 6966,
    "j": 153, "k": 772, "l": 4025, "m": 2406, "n": 6749, "o": 7507, "p": 1929, "q": 95, "r": 5987,
    "s": 6327, "t": 9056, "u": 2758, "v": 978, "w": 2360, "x": 150, "y": 1974, "z": 74,
}  # fmt: skip
# Shares of classes of bytes, in round numbers that were guessed: words of about five letters, a capital now and then.
_LOWER, _UPPER, _SPACE, _COMMA, _STOP, _ANYTHING = 0.78, 0.02, 0.16, 0.01, 0.01, 0.02
# Shift of Zipf's law (Mandelbrot 1953) over the ids of a tokenizer that numbers its tokens in the order of merging.
_ZIPF_SHIFT = 2.7


@dataclass(frozen=True)
class FallbackCode:
    """Code lengths of tokens.

    name: in words, for certificates.
    prices: of every token, in units of `UNIT` bits; their powers 2^-price add up to at most 1.
    """

    name: str
    prices: Int64[np.ndarray, " vocab"]

    @property
    def limit(self) -> float:
        """The longest price, in bits."""
        return float(self.prices.max()) * UNIT

    def lengths(self, split: Split, rows: Int[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Return the code lengths of documents without their end-of-text tokens, in units of `UNIT` bits."""
        return np.fromiter((self.prices[split.document(int(row))].sum() for row in rows), np.int64, len(rows))


def fallback_code(tokenizer: str, vocab_size: int) -> FallbackCode:
    """Return the code for the tokens of a corpus: letters of English for bytes, Zipf's law over ids for others.

    Args:
        tokenizer: as meta.json describes it.
        vocab_size: number of tokens, end-of-text included.
    """
    if tokenizer == BYTES_TOKENIZER:
        return FallbackCode("letters of English", _prices(_bytes(vocab_size)))
    return FallbackCode("Zipf's law over token ids", _prices(1 / (np.arange(vocab_size) + _ZIPF_SHIFT)))


def _bytes(vocab_size: int) -> np.ndarray:
    weights = np.full(vocab_size, _ANYTHING / vocab_size)
    total = sum(_LETTERS.values())
    for letter, count in _LETTERS.items():
        weights[ord(letter)] += _LOWER * count / total
        weights[ord(letter.upper())] += _UPPER * count / total
    for character, share in ((" ", _SPACE), (",", _COMMA), (".", _STOP)):
        weights[ord(character)] += share
    return weights


def _prices(weights: np.ndarray) -> Int64[np.ndarray, " vocab"]:
    # Rounded up: lengths that add up to a code.
    return np.array([math.ceil(-math.log2(p) / UNIT) for p in weights / weights.sum()], dtype=np.int64)
