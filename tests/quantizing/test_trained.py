"""A trained model before quantization: it is what was trained, and its base is loaded no more than is needed."""

import dataclasses
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sublora.config.loading import load_config
from sublora.corpus.corpus import open_corpus
from sublora.nn import base
from sublora.nn.create_model import get_model
from sublora.quantizing.trained import Trained
from sublora.training.checkpoint import Checkpoint

TOKENS = torch.arange(40).reshape(2, 20)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("trained") / "llama"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def loads(monkeypatch):
    """How often a pretrained base was loaded for a model."""
    counted, load = [], base.load_pretrained
    monkeypatch.setattr(base, "load_pretrained", lambda source, *rest: counted.append(source) or load(source, *rest))
    return counted


NAMED = ["--sublora.target_modules=[q_proj,down_proj]", "--sublora.rank_pattern={down_proj: 2}"]


@pytest.mark.parametrize("layers", [NAMED, []], ids=["on named layers", "on the targets"])
def test_a_base_is_loaded_once_for_each_model(layers, llama, data_dir, loads):
    small = [f"--prior.base={llama}", "--data.block_size=32", "--sublora.intrinsic_dim=9"]
    config, corpus = load_config([*small, *layers]), open_corpus(data_dir)
    expected = get_model(config, corpus.vocab_size)
    tensors = {"subspace_params": torch.linspace(-3, 3, 9)}
    checkpoint = Checkpoint(tensors, 0, math.inf, corpus.vocab_size, corpus.train.sha256, config)
    with torch.no_grad():
        at_theta0 = expected(TOKENS).logits
        expected.subspace_params.copy_(tensors["subspace_params"])
        wanted = expected(TOKENS).logits
    assert (wanted - at_theta0).abs().max() > 1e-3
    loads.clear()
    trained = Trained(config, checkpoint, corpus, CPU)
    first, second = trained.model(), trained.model()
    assert len(loads) == 2
    with torch.no_grad():
        # The second model must not be built on the first one's base, which has an adapter.
        first.subspace_params.zero_()
        assert torch.equal(first(TOKENS).logits, at_theta0)
        assert torch.equal(second(TOKENS).logits, wanted)
    other = dataclasses.replace(config.sublora, target_modules=["q_proj", "v_proj"], rank_pattern={})
    assert (trained.spec.kinds != 0) == bool(layers) and trained.spec.seed == config.system.seed
    assert Trained(dataclasses.replace(config, sublora=other), checkpoint, corpus, CPU).spec.targets == "attention"
