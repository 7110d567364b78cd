"""Scoring against the definition: one document, one token at a time."""

import math

import numpy as np
import pytest
import torch

from sublora import seeds
from sublora.coding.architecture import Architecture
from sublora.coding.spec import ModelSpec
from sublora.corpus.batches import Batches, sample_batch
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.units import sample_units
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID
from sublora.nn.base import create_base
from sublora.nn.create_model import build_model
from sublora.quantizing.curvature import fisher
from sublora.scoring.risk import score_units, token_losses
from sublora.scoring.scores import TOP_K

ARCHITECTURE = Architecture("random", n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=257)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("risk")
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh "), n)).strip() or "x" for n in (1, 2, 11, 12, 13, 40, 5, 24, 25, 60)]
    (folder / "text.txt").write_text("\n\n".join(texts))
    prepare("text", folder / "data", paths=[folder / "text.txt"])
    return open_corpus(folder / "data")


def bits_by_definition(model, document, stride):
    """-log2 p of each token of a document, from the end-of-text token, in windows that advance by `stride`."""
    block = ARCHITECTURE.block_size
    tokens = [256, *document.tolist()]
    out = []
    for i in range(1, len(tokens)):
        # The window that predicts token i ends, unless the document does, with the last of its `stride` new tokens.
        last_new = block if i <= block else block + stride * (1 + (i - block - 1) // stride)
        context = tokens[last_new - block : i]
        logits = model(input_ids=torch.tensor([context])).logits[0, -1].double()
        logits[256] = -math.inf
        out.append(-float(logits.log_softmax(-1)[tokens[i]]) / math.log(2))
    return out


@pytest.mark.parametrize("stride", [12, 5])
@torch.no_grad()
def test_scores_are_the_definition(corpus, stride):
    model = create_base(ARCHITECTURE, seed=1).eval()
    for parameter in model.parameters():
        parameter.mul_(5)
    documents = np.array([3, 0, 7, 7, 5, len(corpus.train) - 1])
    kwargs = {"block_size": 12, "stride": stride}
    units = sample_units(corpus, corpus.train, "document_level", 12)
    told = []
    scores = score_units(model, units, documents, batch_size=3, read=told.append, **kwargs)
    assert len(told) > 1 and min(told) > 0 and sum(told) >= scores.lengths.sum() - len(documents)
    for row, i in enumerate(documents):
        bits = bits_by_definition(model, corpus.train.document(int(i)), stride)
        assert scores.bits[row] == pytest.approx(sum(bits), abs=1e-4)
        assert scores.lengths[row] == len(bits)
        for column, a in enumerate(TOKEN_SMOOTHING_GRID):
            smoothed = np.mean([-math.log2((1 - a) * 2**-b + a / 256) for b in bits])
            assert scores.smoothed[row, column] == pytest.approx(smoothed, abs=1e-4)
    others = score_units(model, units, documents, batch_size=64, **kwargs)
    np.testing.assert_allclose(others.bits, scores.bits, atol=1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 2)
    more = score_units(model, units, documents, batch_size=3, **kwargs)
    assert torch.get_num_threads() == threads + 2
    torch.set_num_threads(threads)
    assert np.array_equal(more.bits, scores.bits) and np.array_equal(more.smoothed, scores.smoothed)
    # Another model has other scores: the comparison above could fail.
    other = score_units(create_base(ARCHITECTURE, seed=2).eval(), units, documents, batch_size=3, **kwargs)
    assert np.abs(other.bits - scores.bits).max() > 0.1


def test_ranks_count_ties_against_the_model():
    logits = torch.tensor([[3.0, 2.0, 2.0, 1.0, -math.inf]])
    misses = {}
    for target in range(4):
        losses = token_losses(logits, torch.tensor([target]), 4)
        misses[target] = losses[0, 1 + len(TOKEN_SMOOTHING_GRID) :][:4].tolist()
    assert TOP_K[:4] == (1, 2, 3, 4)
    assert misses == {0: [0, 0, 0, 0], 1: [1, 1, 0, 0], 2: [1, 1, 0, 0], 3: [1, 1, 1, 0]}


def test_probabilities_of_one_token_documents_add_up_to_one():
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    logits[0, 6] = -math.inf
    total = sum(2 ** -float(token_losses(logits, torch.tensor([t]), 6)[0, 0]) for t in range(6))
    assert total == pytest.approx(1, abs=1e-6)


def test_the_fisher_information_is_the_curvature(corpus):
    """For tokens drawn from the model itself, the Hessian of the expected loss is the Fisher information."""
    model = build_model(
        ARCHITECTURE, ModelSpec(seed=0, rank=2, head_rank=2, lora_alpha=32, intrinsic_dim=3, intrinsic_mode="dense")
    )
    with torch.no_grad():
        model.subspace_params.fill_(2.0)
    estimate = fisher(model, Batches(corpus.train, 12), seed=0, samples=600)
    assert np.allclose(estimate, estimate.T) and np.linalg.eigvalsh(estimate).min() > 0
    # The same quantity by second differences of the KL divergence between the model and its perturbation.
    x = np.concatenate([sample_batch(corpus.train, seeds.stream(0, "curvature", i), 1, 12)[0] for i in range(200)])

    @torch.no_grad()
    def log_p(shift):
        model.subspace_params.add_(shift)
        out = model(input_ids=torch.from_numpy(x)).logits.double().log_softmax(-1)
        model.subspace_params.sub_(shift)
        return out

    base = log_p(torch.zeros(3))
    for i in range(3):
        shift = torch.zeros(3)
        shift[i] = 0.05
        divergence = float((base.exp() * (base - log_p(shift))).sum(-1).mean()) / math.log(2)
        assert estimate[i, i] == pytest.approx(2 * divergence / 0.05**2, rel=0.2)
