"""The simple codes that a certificate compares the model with."""

from collections import Counter

import numpy as np
import pytest
from corpora import make_split, write_tokens
from hypothesis import given
from hypothesis import strategies as st

from sublora import seeds
from sublora.corpus.baselines import adaptive_bits, count_tokens, uniform_bits, zlib_bits
from sublora.corpus.corpus import open_corpus


def test_sotu_baselines(sotu):
    held_out = np.arange(len(sotu.val))
    unigram = count_tokens(sotu.train, 257, pairs=False).bits(sotu.val, held_out) / sotu.val.lengths
    bigram = count_tokens(sotu.train, 257, pairs=True).bits(sotu.val, held_out) / sotu.val.lengths
    assert unigram.mean() == pytest.approx(4.405, abs=0.01)
    assert bigram.mean() == pytest.approx(3.452, abs=0.01)
    assert (uniform_bits(sotu.val, held_out, 257) == 8 * sotu.val.lengths).all()
    assert 4 < (zlib_bits(sotu.val, held_out, 257) / sotu.val.lengths).mean() < 6
    adaptive = adaptive_bits(sotu.val, held_out[:3], 257)
    for i, bits in enumerate(adaptive):
        counts, expected = np.full(256, 0.5), 0.0
        for token in sotu.val.document(i):
            expected -= np.log2(counts[token] / counts.sum())
            counts[token] += 1
        assert bits == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [False, True])
def test_counts_against_a_plain_loop(tmp_path, monkeypatch, pairs):
    monkeypatch.setattr("sublora.corpus.baselines.TOKENS_AT_ONCE", 16)  # so that counts of several parts are merged
    rng = seeds.stream(5, "documents")
    documents = [rng.integers(0, 9, size=n).tolist() for n in rng.integers(1, 12, size=40)]
    split = open_corpus(write_tokens(tmp_path, documents), eot_token=9, vocab_size=10).train
    model = count_tokens(split, 10, pairs=pairs)
    counts, totals = Counter(), Counter()
    for document in documents:
        for before, token in zip([9, *document], document, strict=False):
            counts[before if pairs else 0, token] += 1
            totals[before if pairs else 0] += 1
    wanted = np.array([3, 0, 3, 39])
    expected = [
        -sum(
            np.log2((counts[b if pairs else 0, t] + 0.5) / (totals[b if pairs else 0] + 4.5))
            for b, t in zip([9, *documents[i]], documents[i], strict=False)
        )
        for i in wanted
    ]
    np.testing.assert_allclose(model.bits(split, wanted), expected, rtol=1e-12)


@pytest.mark.parametrize("pairs", [False, True])
def test_probabilities_of_documents_of_one_length_add_up_to_one(tmp_path, pairs):
    everything = [[a, b] for a in range(5) for b in range(5)]
    split = open_corpus(write_tokens(tmp_path, everything, eot=5), eot_token=5, vocab_size=6).train
    (tmp_path / "fit").mkdir()
    fit = open_corpus(write_tokens(tmp_path / "fit", [[1, 1, 2], [4, 1]], eot=5), eot_token=5, vocab_size=6).train
    bits = count_tokens(fit, 6, pairs=pairs).bits(split, np.arange(25))
    assert (2.0**-bits).sum() == pytest.approx(1, abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=30), min_size=1, max_size=5), st.booleans())
def test_coded_counts_are_a_code(documents, pairs):
    lengths = [len(d) for d in documents]
    split = make_split(lengths)
    for start, document in zip(split.starts, documents, strict=True):
        split.tokens[start : start + len(document)] = document
    model = count_tokens(split, 10, pairs=pairs)

    bits, previous = f"{len(model.cells) + 1:b}", -1
    bits = "0" * (len(bits) - 1) + bits
    steps = []
    for cell in model.cells:
        steps.append(int(cell) - previous)
        previous = int(cell)
    for number in [*steps, *model.counts.tolist()]:
        bits += "0" * (number.bit_length() - 1) + f"{number:b}"
    assert model.coded_bits() == len(bits)

    position = 0

    def read():
        nonlocal position
        zeros = bits.index("1", position) - position
        position += 2 * zeros + 1
        return int(bits[position - zeros - 1 : position], 2)

    n_cells = read() - 1
    cells = np.cumsum([read() for _ in range(n_cells)]) - 1
    counts = [read() for _ in range(n_cells)]
    assert (cells.tolist(), counts, position) == (model.cells.tolist(), model.counts.tolist(), len(bits))
