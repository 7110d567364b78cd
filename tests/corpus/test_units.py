"""What n counts: documents or blocks, by their definition."""

import numpy as np
import pytest
import torch

from sublora.coding.architecture import Architecture
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.units import blocks, held_out_units, sample_units, window_tokens
from sublora.errors import CorpusError
from sublora.nn.base import create_base
from sublora.scoring.risk import score_units

BLOCK = 12
ARCHITECTURE = Architecture("random", n_layer=2, n_head=2, n_embd=16, block_size=BLOCK, vocab_size=257)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    (folder / "text.txt").write_text("\n\n".join("ab" * n for n in range(1, 30)))
    prepare("text", folder / "data", paths=[folder / "text.txt"])
    return open_corpus(folder / "data")


def test_blocks_are_the_token_file_cut_into_pieces(corpus):
    units = sample_units(corpus, corpus.train, "sequence_level", BLOCK)
    n = len(corpus.train.tokens) // BLOCK
    assert len(units) == n and units.min_tokens == BLOCK and units.n_symbols == 257
    cut = np.stack([units.split.document(i) for i in range(n)])
    assert np.array_equal(cut.ravel(), corpus.train.tokens[: n * BLOCK])
    assert corpus.eot_token in cut


def test_documents_are_those_of_the_corpus(corpus):
    units = sample_units(corpus, corpus.train, "document_level", BLOCK)
    assert len(units) == corpus.train.n_documents and units.n_symbols == 256


def test_errors(corpus):
    with pytest.raises(CorpusError, match="fewer than a block"):
        blocks(corpus.train, 10**6)
    with pytest.raises(ValueError, match="'page_level'"):
        sample_units(corpus, corpus.train, "page_level", BLOCK)
    assert held_out_units(corpus, "sequence_level", 10**6) is None
    assert held_out_units(corpus, "document_level", 10**6) is not None


@torch.no_grad()
def test_a_block_is_scored_from_end_of_text_on(corpus):
    model = create_base(ARCHITECTURE, seed=1).eval()
    units = sample_units(corpus, corpus.train, "sequence_level", BLOCK)
    scores = score_units(model, units, np.array([3, 0]), block_size=BLOCK, stride=BLOCK, batch_size=2, keep_tokens=True)
    for row, i in enumerate((3, 0)):
        tokens = [256, *units.split.document(i).tolist()]
        log_p = model(input_ids=torch.tensor([tokens[:-1]])).logits[0].double().log_softmax(-1)
        bits = [-float(log_p[k, token]) / np.log(2) for k, token in enumerate(tokens[1:])]
        assert scores.token_bits[row] == pytest.approx(bits, abs=1e-5)
        assert scores.bits[row] == pytest.approx(sum(bits), abs=1e-4)
    assert not scores.byte_lengths.any()


@pytest.mark.parametrize(("stride", "expected"), [(12, 30), (5, 52)])
def test_window_tokens(stride, expected):
    # 30 tokens in windows of 12: 12 and 12 and 6, or 12 and four more that each read 7 or more tokens again.
    from sublora.corpus.batches import windows

    read = sum(len(inputs) for inputs, _, _ in windows(np.zeros(30, np.uint16), 256, 12, stride))
    assert window_tokens(np.array([30]), 12, stride)[0] == read
