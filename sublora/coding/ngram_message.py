"""An n-gram model of tokens as a message: what can be said with a few hundred bytes and no network.

A tree of contexts. The root is the empty context; the child y of a context c is the context "y, then c". A context
moves the logarithms of the weights of some tokens, in whole steps, away from those of its parent; the root's parent is
a code that was known beforehand. A token is predicted by the longest context of the tree that its past ends with:

    log2 weight(x | c) = -price(x) + step (moves of x on the path from the root to c),     p = weight / sum of weights.

The first token of a document follows the end-of-text token.

The message: gamma(step / 32), step in 1/256 bits; then adaptive decisions (`sublora.coding.decisions`), context by
context, breadth first. Of every context: its moves, by increasing rank of the token among the parent's weights, each as
"one more", the number of ranks that are passed over, sign and size; then its children, in the same manner, by
increasing rank among the root's weights, with the token that cannot occur last. Zeros fill the last byte.

Context trees are those of Rissanen 1983, "A universal data compression system"; weights that add up along a path are
those of a maximum-entropy model (Rosenfeld 1996, "A maximum entropy approach to adaptive statistical language
modelling").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import constriction
import numpy as np
from jaxtyping import Float64, Int, Int64, Integer

from sublora.coding.bits import BitReader, BitWriter, read_gamma, write_gamma
from sublora.coding.decisions import DecisionReader, Decisions, DecisionWriter, code_integer
from sublora.coding.range_coder import read_payload, write_payload
from sublora.corpus.corpus import Split
from sublora.corpus.fallback import UNIT, FallbackCode
from sublora.corpus.ngram import Scorer, tokens_of
from sublora.errors import MessageError

STEP_UNIT = 32
"""Steps are whole multiples of this many 1/256 bits."""
LARGEST_MOVE = 1 << 14
"""No move is larger, in 1/256 bits, so that weights stay far from the ends of float64."""
DEEPEST = 16
"""Tokens of the longest context."""
_LIKE_DEPTH, _LIKE_COUNT = 2, 6
_DENSE = 1 << 20


@dataclass(frozen=True)
class Context:
    """A context of the tree.

    parent: number of the context without its first token; -1 for the root.
    token: its first token; -1 for the root.
    moves: steps, not 0, by token.
    """

    parent: int
    token: int
    moves: dict[int, int]


@dataclass(frozen=True)
class Alphabet:
    """What encoder and decoder know beforehand.

    base: the code that the root moves away from, of all tokens.
    eot_token: the token that a first token follows.
    eot_inside: whether it can also occur inside a unit.
    """

    base: FallbackCode
    eot_token: int
    eot_inside: bool = False

    @property
    def size(self) -> int:
        """Number of tokens, end-of-text included."""
        return len(self.base.prices)

    def ranked(self, scores: Int64[np.ndarray, " vocab"]) -> Int64[np.ndarray, " possible"]:
        """Return the tokens that are possible by decreasing score; the lower number is first among equals."""
        order = np.argsort(-scores, kind="stable")
        return order if self.eot_inside else order[order != self.eot_token]

    def log2_sum(self, scores: Int64[np.ndarray, " vocab"]) -> float:
        """Return log2 of the sum of the weights of the tokens that are possible."""
        weights = np.exp2(scores * UNIT)
        return float(np.log2(weights.sum() - (0 if self.eot_inside else weights[self.eot_token])))


@dataclass(frozen=True)
class CodedNGram(Scorer):
    """A model that `encode` can write; see the module.

    alphabet: what is known beforehand.
    step: of moves, in 1/256 bits; a multiple of `STEP_UNIT`.
    contexts: of the tree, breadth first, the children of one context by increasing rank; the root is the first.
    """

    alphabet: Alphabet
    step: int
    contexts: tuple[Context, ...]

    @cached_property
    def depths(self) -> Int64[np.ndarray, " contexts"]:
        """Tokens of every context."""
        depths = np.zeros(len(self.contexts), np.int64)
        for i, context in enumerate(self.contexts[1:], 1):
            depths[i] = depths[context.parent] + 1
        return depths

    def scores(self, context: int) -> Int64[np.ndarray, " vocab"]:
        """Return the logarithms of all weights in a context, in 1/256 bits; -1 is the root's parent."""
        return _scores(self.alphabet, self.step, self._heads, [c.moves for c in self.contexts], context)

    @cached_property
    def _heads(self) -> list[tuple[int, int]]:
        return [(context.parent, context.token) for context in self.contexts]

    @cached_property
    def _log2_sums(self) -> Float64[np.ndarray, " contexts"]:
        return np.array([self.alphabet.log2_sum(self.scores(i)) for i in range(len(self.contexts))])

    @cached_property
    def _children(self) -> "_Table":
        """Numbers of contexts by `parent * vocab + token`."""
        size = self.alphabet.size
        children = {c.parent * size + c.token: i for i, c in enumerate(self.contexts) if i}
        return _Table(children, len(self.contexts) * size, -1)

    @cached_property
    def _moves(self) -> "_Table":
        """Moves by `context * vocab + token`."""
        size = self.alphabet.size
        moves = {i * size + token: m for i, c in enumerate(self.contexts) for token, m in c.moves.items()}
        return _Table(moves, len(self.contexts) * size, 0)

    def run_bits(
        self, contexts: Int64[np.ndarray, " runs"], tokens: Int64[np.ndarray, " runs"]
    ) -> Float64[np.ndarray, " runs"]:
        """Return the bits of tokens in contexts of the tree."""
        scores, at = -self.alphabet.base.prices[tokens], contexts
        parents = np.array([context.parent for context in self.contexts])
        for _ in range(int(self.depths.max()) + 1):
            here = np.flatnonzero(at >= 0)
            scores[here] += self.step * self._moves(at[here] * self.alphabet.size + tokens[here])
            at = np.where(at >= 0, parents[at], -1)
        return self._log2_sums[contexts] - scores * UNIT

    def scored(
        self, split: Split, documents: Integer[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " tokens"], Float64[np.ndarray, " tokens"]]]:
        """Yield, for the tokens of consecutive documents, the place of the document and the bits of the token."""
        size = self.alphabet.size
        for part in tokens_of(split, documents):
            places = np.arange(len(part.tokens))
            begins = np.repeat(part.begins, np.diff(part.begins, append=len(places)))
            scores = -self.alphabet.base.prices[part.tokens]
            context, deepest = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
            active = places
            for depth in range(1, int(self.depths[-1]) + 2):
                scores[active] += self.step * self._moves(context * size + part.tokens[active])
                deepest[active] = context
                before = active - depth
                # A document begins where nothing but the beginning stands before it, and only once.
                inside, at_begin = before >= begins[active], before == begins[active] - 1
                token = np.where(inside, part.tokens[np.maximum(before, 0)], self.alphabet.eot_token)
                child = self._children(context * size + token)
                found = (child >= 0) & (inside | at_begin)
                active, context = active[found], child[found]
            yield part.rows, self._log2_sums[deepest] - scores * UNIT


def encode(model: CodedNGram) -> bytes:
    """Return the message of a model.

    Raises:
        ValueError: a step that the format cannot hold, or contexts in another order.
        MessageError: a move that the format cannot hold.
    """
    writer = BitWriter()
    if model.step < STEP_UNIT or model.step % STEP_UNIT:
        raise ValueError(f"a step of {model.step}/256 bits is no multiple of {STEP_UNIT}/256")
    write_gamma(writer, model.step // STEP_UNIT)
    write_payload(writer, _encoder(model))
    return writer.to_bytes()


def decode(data: bytes, alphabet: Alphabet) -> CodedNGram:
    """Return the model of a message.

    Args:
        data: the message and nothing behind it.
        alphabet: the one it was written for.

    Raises:
        MessageError: bytes that `encode` would not have written.
    """
    reader = BitReader(data)
    step = read_gamma(reader) * STEP_UNIT
    if step > LARGEST_MOVE:
        raise MessageError(f"a step of {step}/256 bits")
    models: list[CodedNGram] = []
    limit = 64 * (reader.length + 64)

    def read(decoder: constriction.stream.queue.RangeDecoder) -> Int[np.ndarray, " n"]:
        contexts = _code_contexts(DecisionReader(decoder, limit), alphabet, step, None)
        models.append(CodedNGram(alphabet, step, contexts))
        return np.zeros(0, np.int64)

    read_payload(reader, reader.length, read, lambda _: _encoder(models[-1]))
    if reader.length - reader.position >= 8 or reader.read(reader.length - reader.position):
        raise MessageError("something stands behind the message")
    return models[-1]


def _encoder(model: CodedNGram) -> constriction.stream.queue.RangeEncoder:
    writer = DecisionWriter()
    _code_contexts(writer, model.alphabet, model.step, model.contexts)
    return writer.encoder


def _code_contexts(
    coder: Decisions, alphabet: Alphabet, step: int, given: tuple[Context, ...] | None
) -> tuple[Context, ...]:
    """Write the given contexts, or read them where None is given."""
    children: dict[int, list[int]] = {}
    for context in given[1:] if given else ():
        children.setdefault(context.parent, []).append(context.token)
    heads, moves, depths = [(-1, -1)], [], [0]
    most = LARGEST_MOVE // step
    i = 0
    while i < len(heads):
        parent, depth = heads[i][0], depths[i]
        if given and (given[i].parent, given[i].token) != heads[i]:
            raise ValueError(f"context {i} of the tree is not in the order of the format")
        # A parent's children follow each other.
        if i == 0 or parent != heads[i - 1][0]:
            ranked = alphabet.ranked(_scores(alphabet, step, heads, moves, parent))
        moves.append(_code_moves(coder, min(depth, _LIKE_DEPTH), ranked, given[i].moves if given else None, most))
        if i == 0:
            possible = alphabet.ranked(_scores(alphabet, step, heads, moves, 0))
            earlier = possible if alphabet.eot_inside else np.append(possible, alphabet.eot_token)
        if depth < DEEPEST:
            wanted = children.get(i, []) if given else None
            found = _code_children(coder, min(depth, _LIKE_DEPTH), earlier, wanted)
            heads += [(i, y) for y in found]
            depths += [depth + 1] * len(found)
        i += 1
    if given and len(given) > len(heads):
        raise ValueError("a context of the tree has no parent before it, or is too long")
    return tuple(Context(*head, move) for head, move in zip(heads, moves, strict=True))


def _scores(
    alphabet: Alphabet, step: int, heads: list[tuple[int, int]], moves: list[dict[int, int]], context: int
) -> Int64[np.ndarray, " vocab"]:
    scores = -alphabet.base.prices
    while context >= 0:
        for token, move in moves[context].items():
            scores[token] += step * move
        context = heads[context][0]
    return scores


def bucket(rank: int) -> int:
    """Return which ranks learn together: 0, 1, 2-3, 4-7, 8-15, ..."""
    return rank.bit_length()


def _code_moves(
    coder: Decisions, depth: int, ranked: np.ndarray, given: dict[int, int] | None, most: int
) -> dict[int, int]:
    out: dict[int, int] = {}
    for rank in _code_ranks(coder, ("moves", depth), len(ranked), _ranks(ranked, given)):
        token = int(ranked[rank])
        move = None if given is None else given[token]
        negative = coder.decide(("sign", depth, bucket(rank)), None if move is None else int(move < 0))
        size = 1 + code_integer(coder, ("size", depth, negative), None if move is None else abs(move) - 1)
        if size > most:
            raise MessageError(f"a move of {size} steps")
        out[token] = -size if negative else size
    return out


def _code_children(coder: Decisions, depth: int, ranked: np.ndarray, given: list[int] | None) -> list[int]:
    ranks = _code_ranks(coder, ("children", depth), len(ranked), _ranks(ranked, given))
    return [int(ranked[rank]) for rank in ranks]


def _ranks(ranked: np.ndarray, given: dict[int, int] | list[int] | None) -> list[int] | None:
    return None if given is None else np.flatnonzero(np.isin(ranked, list(given))).tolist()


def _code_ranks(coder: Decisions, what: tuple[str, int], count: int, given: list[int] | None) -> Iterator[int]:
    """Code increasing ranks below `count`, and yield each when it is known."""
    rank, i = -1, 0
    while True:
        more = coder.decide((what, "more", min(i, _LIKE_COUNT)), None if given is None else int(i < len(given)))
        if not more:
            return
        context = (what, "gap", bucket(rank + 1))
        rank += 1 + code_integer(coder, context, None if given is None else given[i] - rank - 1)
        if rank >= count:
            raise MessageError(f"rank {rank} of {count}")
        yield rank
        i += 1


class _Table:
    """Values of integer keys below a limit, `otherwise` for the keys that have none."""

    def __init__(self, values: dict[int, int], limit: int, otherwise: int) -> None:
        self._otherwise = otherwise
        self._known = np.array(sorted(values), np.int64)
        self._values = np.array([values[key] for key in sorted(values)], np.int64)
        self._dense: np.ndarray | None = None
        if limit <= _DENSE:
            self._dense = np.full(limit, otherwise, np.int64)
            self._dense[self._known] = self._values

    def __call__(self, keys: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        if self._dense is not None:
            return self._dense[keys]
        if not len(self._known):
            return np.full(len(keys), self._otherwise, np.int64)
        at = np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)
        return np.where(self._known[at] == keys, self._values[at], self._otherwise)
