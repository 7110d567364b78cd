"""Quantization while training: gradients reach everything that is learned, and the loss stays low at few bits."""

import numpy as np
import pytest
import torch

from sublora.coding.architecture import Architecture
from sublora.coding.codebooks import TrellisGrid
from sublora.coding.feedback import Rate
from sublora.coding.spec import ModelSpec
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.nn.create_model import build_model
from sublora.quantizing.curvature import fisher_factor
from sublora.quantizing.gradual import gradual_quantize
from sublora.quantizing.wrapper import QuantizingWrapper

ARCHITECTURE = Architecture("random", n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=257)
BATCHES = {"batch_size": 8, "seed": 0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantizing")
    rng = np.random.default_rng(0)
    (folder / "text.txt").write_text("\n\n".join("".join(rng.choice(list("aaabcd "), 60)) + "e" for _ in range(30)))
    prepare("text", folder / "data", paths=[folder / "text.txt"])
    return open_corpus(folder / "data")


def a_model(**spec):
    defaults = {"seed": 0, "intrinsic_mode": "dense", "rank": 2, "head_rank": 2, "intrinsic_dim": 30}
    model = build_model(ARCHITECTURE, ModelSpec(**defaults | spec))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.subspace_params.copy_(torch.randn(30, generator=generator))
    return model


def mean_bits(model, corpus):
    tokens = torch.from_numpy(corpus.train.tokens[:1212].astype(np.int64)).view(-1, 12)
    with torch.no_grad():
        log_p = model(input_ids=tokens[:, :-1]).logits.log_softmax(-1)
    return -float(log_p.gather(2, tokens[:, 1:, None]).mean())


@pytest.mark.parametrize("method", ["uniform", "kmeans"])
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_what_is_coded_is_what_was_trained(corpus, method, levels):
    wrapper = QuantizingWrapper(a_model(), levels=levels, method=method)
    before = mean_bits(wrapper, corpus)
    wrapper.fit(Batches(corpus.train, 12), steps=30, learning_rate=0.02, **BATCHES)
    quantized = wrapper.quantized()
    assert len(np.unique(quantized.reconstruction)) <= levels
    alpha = wrapper.parameters_by_name()["subspace_params"].detach().numpy()
    assert np.abs(alpha - quantized.reconstruction).max() <= 0.03 * np.abs(alpha).max()
    assert mean_bits(wrapper, corpus) < before


def test_gradients_reach_alpha_the_centroids_and_the_gates():
    model = a_model(allocation_mode="learned", allocation_scope="shared", gating_steepness=10)
    wrapper = QuantizingWrapper(model, levels=4, method="kmeans")
    wrapper(input_ids=torch.arange(10)[None]).logits.square().mean().backward()
    gradients = [model.subspace_params.grad, wrapper.centroids.grad, model.gating_params.grad]
    assert all(float(g.abs().min()) > 0 for g in gradients)
    # A centroid moves all coordinates that stand at it.
    sums = torch.zeros(4).index_add_(0, wrapper.assignments(), model.subspace_params.grad)
    assert torch.allclose(sums, wrapper.centroids.grad, rtol=1e-4, atol=1e-7)


def test_the_model_computes_with_coded_gates():
    model = a_model(allocation_mode="learned", allocation_scope="shared", gating_steepness=10)
    with torch.no_grad():
        model.gating_params.add_(0.1)
    wrapper = QuantizingWrapper(model, levels=4, method="uniform")
    used = wrapper.parameters_by_name()["gating_params"].sigmoid().detach().numpy()
    assert used == pytest.approx(wrapper.quantized_gates(), abs=1e-6)
    assert np.abs(used - model.gating_params.sigmoid().detach().numpy()).max() > 1e-3


def test_gradual_quantization_ends_where_the_model_stands_and_keeps_learning(corpus):
    model = a_model()
    before = mean_bits(model, corpus)
    batches = Batches(corpus.train, 12)
    factor = fisher_factor(model, batches, seed=0, samples=64)
    quantized = gradual_quantize(model, batches, factor, step=1.0, rate=Rate(1.0, 1e-3), steps=40, **BATCHES)
    assert isinstance(quantized.codebook, TrellisGrid)
    assert np.array_equal(quantized.reconstruction, model.subspace_params.detach().numpy())
    assert mean_bits(model, corpus) < before


def test_gradual_quantization_is_repeatable(corpus):
    def once():
        model = a_model()
        batches = Batches(corpus.train, 9, "documents", np.array([97, 98, 256]))
        factor = fisher_factor(model, batches, seed=0, samples=16)
        rate = Rate(1.0, 1e-3)
        return gradual_quantize(model, batches, factor, step=1.0, rate=rate, steps=3, **BATCHES)

    assert np.array_equal(once().symbols, once().symbols)
