"""Batches, windows, and tokens in another order."""

import numpy as np
import pytest
from corpora import make_split
from hypothesis import given
from hypothesis import strategies as st

from sublora import seeds
from sublora.corpus.batches import pack_windows, perturb_word_order, sample_batch, windows
from sublora.errors import ConfigError, CorpusError


def test_sample_batch():
    split = make_split([30, 50])
    x, y = sample_batch(split, seeds.stream(1, "train"), 500, 8)
    assert x.shape == y.shape == (500, 8)
    assert x.dtype == y.dtype == np.int64
    assert (x[:, 1:] == y[:, :-1]).all()
    stream = split.tokens.astype(np.int64)
    crops = {tuple(stream[i : i + 9]) for i in range(len(stream) - 8)}
    assert {(*a, b[-1]) for a, b in zip(x, y, strict=True)} == crops  # every crop, the first and the last too
    x, y = sample_batch(split, seeds.stream(1, "train"), 2, 8, 100)
    assert (x[:, 1:] == y[:, :-1]).all()
    with pytest.raises(CorpusError, match="too few"):
        sample_batch(split, seeds.stream(1, "train"), 2, 82)


@given(st.integers(1, 40), st.integers(0, 45), st.integers(0, 99))
def test_perturb_word_order(length, window, seed):
    tokens = np.arange(3 * length).reshape(3, length)
    perturbed = perturb_word_order(tokens, window, seeds.stream(seed, "perturb"))
    assert (perturbed.shape, perturbed.dtype) == (tokens.shape, tokens.dtype)
    for start in range(0, length, max(window, 1)):
        cut = slice(start, start + max(window, 1))
        assert (np.sort(perturbed[:, cut]) == tokens[:, cut]).all()


def test_perturb_word_order_moves_each_row_on_its_own():
    tokens = np.tile(np.arange(64), (4, 1))
    perturbed = perturb_word_order(tokens, 16, seeds.stream(1, "perturb"))
    assert len({tuple(row) for row in perturbed}) == 4
    assert (perturbed[:, :16] != tokens[:, :16]).any()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 20), st.data())
def test_windows_predict_every_token_once(lengths, block_size, data):
    stride = data.draw(st.integers(1, block_size))
    split = make_split(lengths)
    documents = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    packed = pack_windows(split, documents, block_size, stride)
    shape = len(packed.document), packed.lengths.max()
    assert packed.inputs.shape == packed.targets.shape == packed.mask.shape == shape
    row = 0
    for place, i in enumerate(documents):
        document = split.document(int(i))
        predicted = []
        for inputs, targets, n_context in windows(document, split.eot_token, block_size, stride):
            seen = [split.eot_token, *document][: len(predicted) + 1]
            assert 1 <= len(inputs) == len(targets) <= block_size
            # What is read before the first new target is the text just before it, and enough of it.
            assert inputs[: n_context + 1].tolist() == seen[-(n_context + 1) :]
            assert n_context == (block_size - stride if predicted else 0)
            assert (inputs[1:] == targets[:-1]).all()
            predicted += targets[n_context:].tolist()
            width = len(inputs)
            assert (packed.document[row], packed.lengths[row]) == (place, width)
            assert (packed.inputs[row, :width] == inputs).all()
            assert (packed.targets[row, :width] == targets).all()
            assert (packed.inputs[row, width:] == split.eot_token).all()
            assert (packed.targets[row, width:] == split.eot_token).all()
            assert packed.mask[row].tolist() == [n_context <= c < width for c in range(packed.mask.shape[1])]
            row += 1
        assert predicted == document.tolist()
    assert row == len(packed.document)


@pytest.mark.parametrize("stride", [0, 9])
def test_illegal_stride(stride):
    split = make_split([5])
    with pytest.raises(ConfigError, match="stride"):
        pack_windows(split, np.array([0]), 8, stride)
    with pytest.raises(ConfigError, match="stride"):
        list(windows(split.document(0), 9, 8, stride))
