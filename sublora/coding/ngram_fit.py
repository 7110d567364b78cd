"""Fitting the n-gram model of a message: what is said is what pays for its bits. Torch-free.

The training loss is the mean over documents of bits per token, and a bit of the message has a price in it, the slope of
the bound in K. Context by context, from the root on, a token is moved where that lowers loss + price * cost, and a
context is kept where its moves pay for it. What moves and contexts cost is learned from the model of the round before.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from sublora.coding.ngram_message import Alphabet, CodedNGram, Context, bucket, encode
from sublora.corpus.corpus import Split
from sublora.corpus.fallback import UNIT
from sublora.corpus.ngram import next_context, tokens_of, unique

STEP = 192
"""Three quarters of a bit."""
ROUNDS = 3
_SWEEPS = 12
_FARTHEST = 32
"""Largest move that is tried, in steps."""
_DEPTHS, _BUCKETS = 3, 40
# Bits of a rank, of an unmoved rank and of a context, before anything was learned.
_FIRST_RANK, _FIRST_UNMOVED, _CONTEXT = 6.0, 0.1, 9.0


@dataclass(frozen=True)
class Grams:
    """The different runs of `order` tokens of some documents, and their weights.

    tokens: of every run, the predicted one last; -1 before the beginning of a document, whose first token follows the
        end-of-text token.
    weights: every document's tokens share 1/n; they add up to 1.
    """

    tokens: Int64[np.ndarray, "order runs"]
    weights: Float64[np.ndarray, " runs"]

    def shortened(self, order: int) -> "Grams":
        """Return shorter runs; runs that are the same now stay apart."""
        return Grams(self.tokens[-order:], self.weights)


def count_grams(split: Split, order: int, vocab_size: int) -> Grams:
    """Return the runs of `order` tokens of all documents."""
    (part,) = tokens_of(split, np.arange(len(split)), at_once=int(split.lengths.sum()) + 1)
    context, levels = np.zeros(len(part.tokens), np.int64), []
    for _ in range(order):
        cells, _, found = unique(context * vocab_size + part.tokens)
        levels.append(cells)
        context = next_context(found, part.begins, len(cells))
    weights = np.bincount(found, (1 / (len(split) * split.lengths))[part.rows])
    tokens = np.full((order, len(weights)), -1, np.int64)
    alive = cell = np.arange(len(weights))
    for level in range(order - 1, -1, -1):
        # A cell is its last token and the cell, one level below, of the tokens before it.
        tokens[level, alive] = levels[level][cell] % vocab_size
        cell = levels[level][cell] // vocab_size
        if level:
            beginning = cell == len(levels[level - 1])
            tokens[level - 1, alive[beginning]] = split.eot_token
            alive, cell = alive[~beginning], cell[~beginning]
    return Grams(tokens, weights)


class Costs:
    """What moves and contexts cost in a message, in bits."""

    def __init__(self, model: CodedNGram | None = None) -> None:
        self.context = np.full(_DEPTHS, _CONTEXT)
        sizes = np.abs(np.arange(-_FARTHEST, _FARTHEST + 1))
        self.moves = np.empty((_DEPTHS, _BUCKETS, 2 * _FARTHEST + 1))
        self.moves[:] = _FIRST_RANK + 2 * np.log2(1 + sizes)
        self.moves[:, :, _FARTHEST] = _FIRST_UNMOVED
        if model is not None:
            self._learn(model)

    def _learn(self, model: CodedNGram) -> None:
        """Count ranks that are passed over, ranks that are moved, and moves, with a little of a broad law added."""
        broad = 1 / (1.0 + np.abs(np.arange(-_FARTHEST, _FARTHEST + 1))) ** 1.5
        broad[_FARTHEST] = 0
        moved, passed = np.full((_DEPTHS, _BUCKETS), 0.5), np.full((_DEPTHS, _BUCKETS), 0.5)
        sizes = np.zeros((_DEPTHS, 2, 2 * _FARTHEST + 1)) + broad / broad.sum()
        signs = np.full((_DEPTHS, _BUCKETS, 2), 0.5)
        rank_of: dict[int, np.ndarray] = {}
        widths = np.array([bucket(rank) for rank in range(model.alphabet.size)])
        for context, depth in zip(model.contexts, np.minimum(model.depths, _DEPTHS - 1), strict=True):
            if context.parent not in rank_of:
                ranked = model.alphabet.ranked(model.scores(context.parent))
                rank_of = {context.parent: np.zeros(model.alphabet.size, np.int64)}
                rank_of[context.parent][ranked] = np.arange(len(ranked))
            ranks = {token: int(rank_of[context.parent][token]) for token in context.moves}
            if ranks:
                passed[depth] += np.bincount(widths[: max(ranks.values()) + 1], minlength=_BUCKETS)
            for token, move in context.moves.items():
                at = bucket(ranks[token])
                passed[depth, at] -= 1
                moved[depth, at] += 1
                signs[depth, at, int(move < 0)] += 1
                sizes[depth, int(move < 0), _FARTHEST + move] += 1
        share = moved / (moved + passed)
        for negative, columns in ((0, slice(_FARTHEST + 1, None)), (1, slice(0, _FARTHEST))):
            law = sizes[:, negative, columns] / sizes[:, negative, columns].sum(axis=1, keepdims=True)
            sign = signs[:, :, negative] / signs.sum(axis=2)
            self.moves[:, :, columns] = -np.log2(share * sign)[:, :, None] - np.log2(law)[:, None, :]
        self.moves[:, :, _FARTHEST] = -np.log2(1 - share)


def fit_coded_ngram(
    grams: Grams, alphabet: Alphabet, price: float, *, step: int = STEP, rounds: int = ROUNDS
) -> CodedNGram:
    """Return the model whose loss plus price times message length is low.

    Args:
        grams: of the training documents; their order is that of the model.
        alphabet: of the message.
        price: what a bit of the message costs, in bits per token of the mean training loss.
        step: of moves, in 1/256 bits.
        rounds: how often contexts are chosen again with costs learned from the model before.
    """
    best, least, costs = CodedNGram(alphabet, step, (Context(-1, -1, {}),)), math.inf, Costs()
    for _ in range(rounds):
        model, loss = _fit(grams, alphabet, price, step, costs)
        total = loss + price * 8 * len(encode(model))
        if total < least:
            best, least = model, total
        if len(model.contexts) == 1 and not model.contexts[0].moves:
            break
        costs = Costs(model)
    return best


def _fit(grams: Grams, alphabet: Alphabet, price: float, step: int, costs: Costs) -> tuple[CodedNGram, float]:
    order, size = len(grams.tokens), alphabet.size
    target = grams.tokens[-1]
    contexts: list[Context] = []
    # The context that predicts every run so far, its depth, and the runs whose context can still grow.
    bits = np.zeros(len(target))
    earlier = np.empty(0, np.int64)
    node, alive = np.full(len(target), -1), np.arange(len(target))
    for depth in range(order):
        if depth:
            alive = alive[grams.tokens[order - 1 - depth, alive] >= 0]
        added = grams.tokens[order - 1 - depth, alive] if depth else np.zeros(len(alive), np.int64)
        cells, inverse = np.unique(((node[alive] + 1) * size + added) * size + target[alive], return_inverse=True)
        mass = np.bincount(inverse, grams.weights[alive])
        before = np.zeros(len(cells))
        before[inverse] = bits[alive]
        groups, starts = np.unique(cells // size, return_index=True)
        number = np.full(len(groups), -1)
        stops = np.append(starts[1:], len(cells))
        totals = np.add.reduceat(mass, starts)
        # No context wins more than the difference to its own entropy.
        most = np.add.reduceat(mass * (before + np.log2(mass)), starts) - totals * np.log2(totals)
        worth = np.flatnonzero(most > price * (costs.context[min(depth, _DEPTHS - 1)] + 3)) if depth else [0]
        owners = groups // size - 1
        # Contexts stand in the order of the message: by parent, then by rank of their first token at the root.
        if depth:
            place = np.zeros(size, np.int64)
            place[earlier] = np.arange(len(earlier))
            worth = worth[np.lexsort((place[groups[worth] % size], owners[worth]))]
        parent, prediction = -2, None
        for g in worth:
            if owners[g] != parent:
                parent = int(owners[g])
                scores = _path_scores(alphabet, step, contexts, parent)
                prediction = _Prediction(alphabet, scores)
            part = slice(starts[g], stops[g])
            moves, gain = prediction.improve(
                cells[part] % size, mass[part], price, step, costs.moves[min(depth, _DEPTHS - 1)]
            )
            if depth and gain <= price * costs.context[min(depth, _DEPTHS - 1)]:
                continue
            number[g] = len(contexts)
            contexts.append(Context(parent, int(groups[g] % size) if depth else -1, moves))
        if not depth:
            possible = alphabet.ranked(_path_scores(alphabet, step, contexts, 0))
            earlier = possible if alphabet.eot_inside else np.append(possible, alphabet.eot_token)
        new = number[np.searchsorted(groups, cells // size)][inverse]
        alive, new = alive[new >= 0], new[new >= 0]
        node[alive] = new
        model = CodedNGram(alphabet, step, tuple(contexts))
        bits[alive] = model.run_bits(new, target[alive])
    return model, float(bits @ grams.weights)


def _path_scores(alphabet: Alphabet, step: int, contexts: list[Context], context: int) -> np.ndarray:
    return CodedNGram(alphabet, step, tuple(contexts)).scores(context)


class _Prediction:
    """The prediction of a parent, and how its children improve it."""

    def __init__(self, alphabet: Alphabet, scores: Int64[np.ndarray, " vocab"]) -> None:
        ranked = alphabet.ranked(scores)
        self.bucket = np.zeros(len(scores), np.int64)
        self.bucket[ranked] = np.frexp(np.arange(len(ranked)).astype(float))[1]
        self.p = np.zeros(len(scores))
        self.p[ranked] = np.exp2(scores[ranked] * UNIT - alphabet.log2_sum(scores))

    def improve(
        self, tokens: np.ndarray, mass: np.ndarray, price: float, step: int, costs: np.ndarray
    ) -> tuple[dict[int, int], float]:
        """Return moves for a context, and the loss they save less their price.

        The sum of weights Z is replaced by log2 Z <= log2 Z0 + (Z/Z0 - 1) / ln 2, which divides the problem into one
        for every token; repeated, it converges from above (Lange, Hunter & Yang 2000).
        """
        total = float(mass.sum())
        seen = np.zeros(len(self.p))
        seen[tokens] = mass
        # A token that is rare under both can save nothing that pays.
        can = np.flatnonzero((np.maximum(seen, total * self.p) > price) & (self.p > 0))
        if not len(can):
            return {}, 0.0
        grid = np.arange(-_FARTHEST, _FARTHEST + 1)
        growth = np.exp2(grid * step * UNIT)
        p, n = self.p[can], seen[can]
        charge = price * costs[self.bucket[can]] - n[:, None] * (grid * step * UNIT)
        with np.errstate(divide="ignore"):
            wanted = np.log2(n / total / p) / (step * UNIT)
        move = np.where(n > 0, np.rint(np.clip(wanted, -_FARTHEST, _FARTHEST)), 0).astype(np.int64)
        rest = 1 - p.sum()
        for _ in range(_SWEEPS):
            z = rest + p @ growth[move + _FARTHEST]
            objective = total / math.log(2) / z * p[:, None] * growth + charge
            chosen = objective.argmin(axis=1) - _FARTHEST
            if (chosen == move).all():
                break
            move = chosen
        z = rest + p @ growth[move + _FARTHEST]
        everything = np.arange(len(can))
        saved = charge[:, _FARTHEST].sum() - charge[everything, move + _FARTHEST].sum() - total * math.log2(z)
        moves = {int(t): int(m) for t, m in zip(can, move, strict=True) if m}
        return (moves, float(saved)) if saved > 0 else ({}, 0.0)
