"""N-grams: of known documents (Witten-Bell), and coded as messages (a tree of contexts)."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sublora import seeds
from sublora.coding.ngram_fit import count_grams, fit_coded_ngram
from sublora.coding.ngram_message import LARGEST_MOVE, Alphabet, CodedNGram, Context, decode, encode
from sublora.corpus.corpus import Split
from sublora.corpus.fallback import UNIT, FallbackCode
from sublora.corpus.ngram import base_probabilities, choose_order, fit_ngram, subset, unique
from sublora.errors import MessageError

EOT, VOCAB = 5, 6
BASE = FallbackCode("a test", np.array([300, 400, 500, 700, 900, 900]))
LETTERS = Alphabet(BASE, EOT)


def split_of(documents, eot=EOT):
    lengths = np.array([len(d) for d in documents], np.int64)
    starts = np.cumsum(lengths + 1) - lengths - 1
    tokens = np.array([t for d in documents for t in [*d, eot]], "<u2")
    return Split(Path("train.bin"), tokens, starts, lengths, lengths, eot, 1, "")


def random_documents(seed, n, longest, vocab=EOT):
    rng = seeds.stream(seed, "documents")
    # Tokens repeat with a period of two now and then, so that contexts matter.
    out = []
    for _ in range(n):
        document = rng.integers(0, vocab, size=int(rng.integers(1, longest))).tolist()
        out.append([document[i - 2] if i > 1 and rng.random() < 0.6 else t for i, t in enumerate(document)])
    return out


def slow_witten_bell(known, order, document):
    """-log2 of the probability of a document, with dictionaries, as the definition has it."""
    counts = defaultdict(Counter)
    for d in known:
        padded = ["begin"] * order + d
        for i in range(order, len(padded)):
            for k in range(order):
                counts[tuple(padded[i - k : i])][padded[i]] += 1
    base, padded, bits = base_probabilities(BASE, VOCAB, EOT), ["begin"] * order + document, 0.0
    for i in range(order, len(padded)):
        p = base[padded[i]]
        for k in range(order):
            followed = counts.get(tuple(padded[i - k : i]), Counter())
            if followed:
                p = (followed[padded[i]] + len(followed) * p) / (followed.total() + len(followed))
        bits -= np.log2(p)
    return bits


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_witten_bell_is_that_of_the_definition(order, monkeypatch):
    monkeypatch.setattr("sublora.corpus.ngram.tokens_of.__defaults__", (16,))  # so that documents come in parts
    known, new = random_documents(1, 30, 12), random_documents(2, 20, 12)
    model = fit_ngram(split_of(known), order, BASE, VOCAB)
    expected = [slow_witten_bell(known, order, d) for d in new]
    bits = model.bits(split_of(new), np.arange(len(new)))
    np.testing.assert_allclose(bits, expected, rtol=1e-12)
    np.testing.assert_allclose(model.bits(split_of(new), np.array([7, 3])), [expected[7], expected[3]], rtol=1e-12)
    np.testing.assert_allclose(model.bits_by_order(split_of(new), np.arange(len(new)))[-1], bits, rtol=1e-12)
    assert model.token_bits(split_of(new)).sum() == pytest.approx(bits.sum())
    # One token changed in what is known shows.
    known[0][0] = (known[0][0] + 1) % EOT
    changed = fit_ngram(split_of(known), order, BASE, VOCAB).bits(split_of(new), np.arange(len(new)))
    assert np.abs(changed - bits).max() > 1e-3


@pytest.mark.parametrize("order", [1, 3, 4])
def test_documents_of_one_length_add_up_to_one(order):
    everything = split_of([list(d) for d in itertools.product(range(EOT), repeat=4)])
    # Contexts that were seen and, with so few documents, many that were not.
    known = split_of(random_documents(3, 6, 8, vocab=4))
    bits = fit_ngram(known, order, BASE, VOCAB).bits(everything, np.arange(len(everything)))
    assert np.exp2(-bits).sum() == pytest.approx(1, abs=1e-12)


def test_blocks_may_hold_the_end_of_text():
    everything = split_of([list(d) for d in itertools.product(range(VOCAB), repeat=3)])
    known = split_of([[0, 1, 5, 0, 1, 5, 2], [5, 5, 0]])
    bits = fit_ngram(known, 3, BASE, VOCAB, eot_inside=True).bits(everything, np.arange(len(everything)))
    assert np.exp2(-bits).sum() == pytest.approx(1, abs=1e-12)


def test_the_order_is_chosen_by_documents_held_back():
    # Every document repeats its first two tokens: the next token follows from the two before it, never from one.
    rng = seeds.stream(4, "documents")
    documents = [[int(a), int(b)] * 6 for a, b in rng.integers(0, EOT, size=(60, 2))]
    assert choose_order(split_of(documents), [1, 2, 3], BASE, VOCAB) == 3
    noise = [rng.integers(0, EOT, size=8).tolist() for _ in range(60)]
    assert choose_order(split_of(noise), [1, 4], BASE, VOCAB) == 1
    with pytest.raises(ValueError, match="at least two documents"):
        choose_order(split_of(documents[:1]), [1], BASE, VOCAB)


def test_nothing_known_is_the_base():
    known = subset(split_of([[0]]), np.arange(0))
    bits = fit_ngram(known, 3, BASE, VOCAB).bits(split_of([[0, 4]]), np.arange(1))
    assert bits[0] == pytest.approx(-np.log2(base_probabilities(BASE, VOCAB, EOT)[[0, 4]]).sum())


@pytest.mark.parametrize("largest", [50, 1 << 62])
def test_unique_keys(largest):
    keys = seeds.stream(5, "keys").integers(0, largest, size=300)
    cells, counts, found = unique(keys)
    np.testing.assert_array_equal(cells[found], keys)
    np.testing.assert_array_equal((cells, counts), np.unique(keys, return_counts=True))


def moved(model, context, token, by):
    contexts = list(model.contexts)
    moves = dict(contexts[context].moves)
    moves[token] = moves.get(token, 0) + by
    contexts[context] = dataclasses.replace(contexts[context], moves={t: m for t, m in moves.items() if m})
    return dataclasses.replace(model, contexts=tuple(contexts))


TREE = CodedNGram(
    LETTERS,
    96,
    (
        Context(-1, -1, {0: -3, 4: 2}),
        Context(0, 2, {1: 40}),
        Context(0, EOT, {3: 5, 0: -1}),
        Context(1, 0, {}),
        Context(1, 2, {2: 7}),
        Context(3, EOT, {4: 9}),
    ),
)


def test_a_tree_of_contexts_predicts_by_its_longest():
    model = TREE

    def bits(document):
        total = 0.0
        for i, x in enumerate(document):
            past, context = [EOT, *document[:i]], 0
            while past:
                child = [j for j, c in enumerate(model.contexts) if (c.parent, c.token) == (context, past[-1])]
                if not child:
                    break
                context = child[0]
                past.pop()
            scores = -BASE.prices.astype(float)
            while context >= 0:
                for token, move in model.contexts[context].moves.items():
                    scores[token] += model.step * move
                context = model.contexts[context].parent
            weights = np.exp2(scores * UNIT)
            total -= np.log2(weights[x] / weights[:EOT].sum())
        return total

    everything = [list(d) for d in itertools.product(range(EOT), repeat=4)]
    found = model.bits(split_of(everything), np.arange(len(everything)))
    np.testing.assert_allclose(found, [bits(d) for d in everything], rtol=1e-12)
    assert np.exp2(-found).sum() == pytest.approx(1, abs=1e-12)
    for context, token in ((0, 1), (2, 0), (5, 3)):
        other = moved(model, context, token, 1).bits(split_of(everything), np.arange(len(everything)))
        assert np.abs(other - found).max() > 0.1


def test_sparse_tables_are_those_of_dense_ones(monkeypatch):
    new = split_of(random_documents(6, 20, 12))
    dense = TREE.bits(new, np.arange(20))
    monkeypatch.setattr("sublora.coding.ngram_message._DENSE", 0)
    np.testing.assert_array_equal(dataclasses.replace(TREE).bits(new, np.arange(20)), dense)


def bigram(step, root, children):
    """A model of two levels, its contexts in the order of the format."""
    model = CodedNGram(LETTERS, 32 * step, (Context(-1, -1, root),))
    earlier = [*LETTERS.ranked(model.scores(0)).tolist(), EOT]
    contexts = [Context(0, t, children[t]) for t in earlier if t in children]
    return dataclasses.replace(model, contexts=(*model.contexts, *contexts))


MOVES = st.dictionaries(st.integers(0, EOT - 1), st.integers(-30, 30).filter(bool), max_size=3)
MODELS = st.builds(bigram, st.integers(1, 12), MOVES, st.dictionaries(st.integers(0, EOT), MOVES, max_size=3))


@settings(max_examples=30, deadline=None)
@given(MODELS)
def test_a_message_is_decoded_to_its_model(model):
    data = encode(model)
    assert decode(data, LETTERS) == model


@settings(max_examples=20, deadline=None)
@given(MODELS, st.binary(min_size=1, max_size=3))
def test_nothing_may_stand_behind_a_message(model, more):
    with pytest.raises(MessageError):
        decode(encode(model) + more, LETTERS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=4))
def test_bytes_are_the_one_message_of_a_model_or_refused(data):
    try:
        model = decode(data, LETTERS)
    except MessageError:
        return
    assert encode(model) == data


def test_what_the_format_cannot_hold():
    with pytest.raises(ValueError, match="no multiple"):
        encode(dataclasses.replace(TREE, step=100))
    with pytest.raises(ValueError, match="order of the format"):
        encode(dataclasses.replace(TREE, contexts=(TREE.contexts[0], *TREE.contexts[2:0:-1])))
    far = moved(TREE, 0, 1, LARGEST_MOVE // 96 + 1)
    with pytest.raises(MessageError, match="a move of"):
        encode(far)


def test_runs_are_weighted_by_document():
    documents = [[0, 1, 0], [2], [0, 1]]
    grams = count_grams(split_of(documents), 3, VOCAB)
    expected = Counter()
    for d in documents:
        padded = [-1, EOT, *d]
        for i in range(2, len(padded)):
            expected[tuple(padded[i - 2 : i + 1])] += 1 / (3 * len(d))
    found = {tuple(run): w for run, w in zip(grams.tokens.T.tolist(), grams.weights, strict=True)}
    assert found == pytest.approx(expected)


def test_what_is_said_pays_for_its_bits():
    # After 0 comes 1, after 1 comes 0 or 2: two contexts and a handful of moves are worth saying.
    rng = seeds.stream(7, "documents")
    documents = []
    for _ in range(200):
        d = [0]
        while len(d) < 20:
            d.append(1 if d[-1] != 1 else int(rng.choice([0, 2])))
        documents.append(d)
    split = split_of(documents)
    rows = np.arange(len(split))

    def total(model, price):
        return (model.bits(split, rows) / split.lengths).mean() + price * 8 * len(encode(model))

    one, two, three = (count_grams(split, k, VOCAB) for k in (1, 2, 3))
    price = 1e-4
    unigram, bigram = fit_coded_ngram(one, LETTERS, price), fit_coded_ngram(two, LETTERS, price)
    assert (bigram.bits(split, rows) / split.lengths).mean() < 0.7 < (unigram.bits(split, rows) / split.lengths).mean()
    # Nothing is left to learn from two tokens, and a refit without it is no worse.
    trigram = fit_coded_ngram(three, LETTERS, price)
    assert total(trigram, price) <= total(bigram, price) + 1e-9
    assert len(encode(trigram)) <= len(encode(bigram)) + 8
    # Dear bits buy less, and what was chosen is no worse than what was chosen for another price.
    dear = fit_coded_ngram(two, LETTERS, 0.05)
    assert len(encode(dear)) < len(encode(bigram))
    assert total(dear, 0.05) < total(bigram, 0.05)
    assert total(bigram, price) < total(dear, price)
    nothing = fit_coded_ngram(two, LETTERS, 10.0)
    assert [c.moves for c in nothing.contexts] == [{}]
    # Taking a move back costs more than its bits.
    worst = min(total(moved(bigram, 1, t, -m), price) for t, m in bigram.contexts[1].moves.items())
    assert worst > total(bigram, price) - 16 * price
