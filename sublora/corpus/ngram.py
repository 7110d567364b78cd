"""An n-gram model of tokens, fitted to documents that are known: what a network has to beat. Torch-free.

Interpolated Witten-Bell smoothing: of a context c that was seen count(c) times and followed by T(c) different tokens,

    p(x | c) = (count(c x) + T(c) p(x | c without its first token)) / (count(c) + T(c)),

down to a code that was known beforehand. The length of a document is given, so nothing predicts the end-of-text token,
and the contexts of its first tokens are filled up with a token that stands for the beginning.

Sources: Bell, Cleary & Witten 1990, "Text Compression", method C; Chen & Goodman 1999, "An empirical study of smoothing
techniques for language modeling", section 2.4.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

from sublora.corpus.corpus import Split
from sublora.corpus.fallback import UNIT, FallbackCode
from sublora.draws import shuffled

TOKENS_AT_ONCE = 1 << 22
HELD_BACK = 10
"""`choose_order` holds one document in so many back."""


class Tokens(NamedTuple):
    """The tokens of some documents, one behind the other, without end-of-text tokens between them.

    rows: the place of every token's document in the list of documents.
    tokens: the tokens.
    begins: where documents begin.
    """

    rows: Int64[np.ndarray, " tokens"]
    tokens: Int64[np.ndarray, " tokens"]
    begins: Int64[np.ndarray, " n"]


def tokens_of(split: Split, documents: Integer[np.ndarray, " n"], at_once: int = TOKENS_AT_ONCE) -> Iterator[Tokens]:
    """Yield the tokens of documents in order, whole documents, about `at_once` tokens at a time."""
    lengths = split.lengths[documents]
    part = (np.cumsum(lengths) - lengths) // at_once
    for rows in np.split(np.arange(len(documents)), np.flatnonzero(np.diff(part)) + 1):
        begins = np.cumsum(lengths[rows]) - lengths[rows]
        where = np.arange(lengths[rows].sum()) + np.repeat(split.starts[documents[rows]] - begins, lengths[rows])
        yield Tokens(np.repeat(rows, lengths[rows]), split.tokens[where].astype(np.int64), begins)


def subset(split: Split, documents: Integer[np.ndarray, " n"]) -> Split:
    """Return a split of some documents of another."""
    sizes = None if split.byte_lengths is None else split.byte_lengths[documents]
    return dataclasses.replace(
        split, starts=split.starts[documents], lengths=split.lengths[documents], byte_lengths=sizes
    )


class Scorer:
    """A model of tokens that gives every token one probability."""

    def scored(
        self, split: Split, documents: Integer[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " tokens"], Float64[np.ndarray, " tokens"]]]:
        """Yield, for the tokens of consecutive documents, the place of the document and the bits of the token."""
        raise NotImplementedError

    def bits(self, split: Split, documents: Integer[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return -log2 of the probability of documents, given their lengths in tokens."""
        out = np.zeros(len(documents))
        for rows, bits in self.scored(split, documents):
            out += np.bincount(rows, bits, minlength=len(documents))
        return out

    def token_bits(self, split: Split) -> Float64[np.ndarray, " tokens"]:
        """Return the bits of every token of all documents, in order."""
        return np.concatenate([bits for _, bits in self.scored(split, np.arange(len(split)))])


@dataclass(frozen=True)
class Level:
    """What was counted of contexts of one length.

    A context is the number of its cell one level below, or the number of those cells where a document begins.

    cells: `context * vocab_size + token` of the pairs that occur, increasing.
    counts: how often each does.
    totals, types: of every context, how often a token followed it, and how many different ones did.
    """

    cells: Int64[np.ndarray, " cells"]
    counts: Int64[np.ndarray, " cells"]
    totals: Int64[np.ndarray, " contexts"]
    types: Int64[np.ndarray, " contexts"]


@dataclass(frozen=True)
class NGram(Scorer):
    """A fitted model; see the module.

    levels: of contexts of 0, 1, ... tokens.
    base: probabilities of the code below all levels; they add up to 1.
    """

    levels: tuple[Level, ...]
    base: Float64[np.ndarray, " vocab"]

    @property
    def order(self) -> int:
        """Tokens of the longest pair of context and token."""
        return len(self.levels)

    def truncated(self, order: int) -> "NGram":
        """Return the model of a lower order that the same documents give."""
        return NGram(self.levels[:order], self.base)

    def scored(
        self, split: Split, documents: Integer[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " tokens"], Float64[np.ndarray, " tokens"]]]:
        """Yield, for the tokens of consecutive documents, the place of the document and the bits of the token."""
        for part in tokens_of(split, documents):
            for last in self._probabilities(part):
                probabilities = last
            yield part.rows, -np.log2(probabilities)

    def bits_by_order(self, split: Split, documents: Integer[np.ndarray, " n"]) -> Float64[np.ndarray, "order n"]:
        """Return `truncated(order).bits(...)` for every order from 1, in one pass."""
        out = np.zeros((self.order, len(documents)))
        for part in tokens_of(split, documents):
            for level, probabilities in enumerate(self._probabilities(part)):
                out[level] += np.bincount(part.rows, -np.log2(probabilities), minlength=len(documents))
        return out

    def _probabilities(self, part: Tokens) -> Iterator[Float64[np.ndarray, " tokens"]]:
        """Yield the probabilities of tokens with every level added."""
        p = self.base[part.tokens]
        context = np.zeros(len(p), np.int64)
        for level in self.levels:
            if not len(level.cells):
                yield p
                continue
            # Where a context was never seen, no longer one was.
            seen = np.flatnonzero(context >= 0)
            at = context[seen]
            cell = _find(level.cells, at * len(self.base) + part.tokens[seen])
            types, totals = level.types[at], level.totals[at]
            counts = np.where(cell >= 0, level.counts[cell], 0)
            # A context of which only the end of a document is known says nothing.
            used = totals > 0
            mixed = (counts + types * p[seen])[used] / (totals + types)[used]
            p = p.copy()
            p[seen[used]] = mixed
            yield p
            found = np.full(len(p), -1, np.int64)
            found[seen] = cell
            context = next_context(found, part.begins, len(level.cells))


def fit_ngram(split: Split, order: int, base: FallbackCode, vocab_size: int, *, eot_inside: bool = False) -> NGram:
    """Fit a model to all documents of a split.

    Args:
        split: the documents that are known.
        order: tokens of the longest pair of context and token; 1 counts tokens alone.
        base: the code below, for all `vocab_size` tokens.
        vocab_size: number of tokens, end-of-text included.
        eot_inside: whether the end-of-text token can occur inside a unit, as it does in blocks.

    Raises:
        ValueError: an order below 1, or a code for another number of tokens.
    """
    probabilities = base_probabilities(base, vocab_size, None if eot_inside else split.eot_token)
    if order < 1:
        raise ValueError(f"an n-gram of order {order}: 1 counts tokens alone")
    if not len(split):
        return NGram(tuple(_empty_level() for _ in range(order)), probabilities)
    (part,) = tokens_of(split, np.arange(len(split)), at_once=int(split.lengths.sum()) + 1)
    context, contexts, levels = np.zeros(len(part.tokens), np.int64), 1, []
    for _ in range(order):
        cells, counts, found = unique(context * vocab_size + part.tokens)
        owners = cells // vocab_size
        levels.append(
            Level(
                cells,
                counts,
                np.bincount(owners, counts, minlength=contexts).astype(np.int64),
                np.bincount(owners, minlength=contexts),
            )
        )
        context, contexts = next_context(found, part.begins, len(cells)), len(cells) + 1
    return NGram(tuple(levels), probabilities)


def choose_order(
    split: Split, candidates: Sequence[int], base: FallbackCode, vocab_size: int, *, eot_inside: bool = False
) -> int:
    """Return the order that is best for a tenth of the documents when the others are known.

    Best is the lowest mean, over documents, of bits per token; which documents are held back is fixed.

    Args:
        split: the documents that are known, at least two.
        candidates: orders to choose from.
        base: the code that an n-gram falls back on.
        vocab_size: number of tokens.
        eot_inside: end-of-text may occur inside a document.

    Raises:
        ValueError: no candidates, or fewer than two documents.
    """
    if not candidates or len(split) < 2:
        raise ValueError("an order is chosen from at least one candidate and on at least two documents")
    order = shuffled("held back", b"", len(split))
    back, known = np.sort(order[: -(-len(split) // HELD_BACK)]), np.sort(order[-(-len(split) // HELD_BACK) :])
    model = fit_ngram(subset(split, known), max(candidates), base, vocab_size, eot_inside=eot_inside)
    means = (model.bits_by_order(split, back) / split.lengths[back]).mean(axis=1)
    return min(candidates, key=lambda k: float(means[k - 1]))


def base_probabilities(base: FallbackCode, vocab_size: int, impossible: int | None) -> Float64[np.ndarray, " vocab"]:
    """Return the probabilities 2^-price of a code, renormalised over the tokens that are possible."""
    if len(base.prices) != vocab_size:
        raise ValueError(f"a code for {len(base.prices)} tokens, and a vocabulary of {vocab_size}")
    weights = np.exp2(-base.prices * UNIT)
    if impossible is not None:
        weights[impossible] = 0
    return weights / weights.sum()


def _empty_level() -> Level:
    empty = np.empty(0, np.int64)
    return Level(empty, empty, np.zeros(1, np.int64), np.zeros(1, np.int64))


def next_context(found: np.ndarray, begins: np.ndarray, beginning: int) -> Int64[np.ndarray, " tokens"]:
    """Return the context one token longer: the cell of the token before, or `beginning` where a document begins."""
    context = np.empty(len(found), np.int64)
    context[1:] = found[:-1]
    context[begins] = beginning
    return context


def _argsort(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys and where they stood. Sorting keys with their places in the lowest bits is several times as fast."""
    width = len(keys).bit_length()
    if len(keys) and int(keys.max()) < 1 << (63 - width):
        packed = keys << width
        packed |= np.arange(len(keys))
        packed.sort()
        places = packed & ((1 << width) - 1)
        packed >>= width
        return packed, places
    places = np.argsort(keys, kind="stable")
    return keys[places], places


def unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct keys in order, how often each occurs, and which of them every key is."""
    ordered, places = _argsort(keys)
    first = np.empty(len(ordered), bool)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    cells = ordered[first]
    counts = np.diff(np.flatnonzero(first), append=len(ordered))
    found = np.empty(len(keys), np.int64)
    found[places] = np.cumsum(first) - 1
    return cells, counts, found


def _find(cells: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which of the cells every key is, -1 where it is none. Sorted keys are looked up in the order of memory."""
    if not len(cells) or not len(keys):
        return np.full(len(keys), -1, np.int64)
    ordered, places = _argsort(keys)
    at = np.minimum(np.searchsorted(cells, ordered), len(cells) - 1)
    found = np.empty(len(keys), np.int64)
    found[places] = np.where(cells[at] == ordered, at, -1)
    return found
