"""Bases with quantized weights: an adapter is trained on them as they are, and certified on what they stand for."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import sublora
from sublora.errors import ConfigError
from sublora.nn.pretrained import load_pretrained
from sublora.nn.weights import hash_weights

TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "plain"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quantized(plain, tmp_path_factory):
    """The same with weights of 8 bits, by torchao."""
    pytest.importorskip("torchao", reason="torchao is not installed: the extra quantized has it")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    folder = tmp_path_factory.mktemp("base") / "quantized"
    model.save_pretrained(folder)
    return folder


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("adapter", ["lora", "spectral"])
def test_from_training_to_a_verified_certificate(adapter, plain, quantized, data_dir, tmp_path):
    base = load(quantized)
    before = logits(base)
    # Not the weights that it was made of, nor far from them.
    assert 1e-5 < (before - logits(load(plain))).abs().max() < 0.05
    model = sublora.wrap(base, d=30, adapter=adapter, targets="linear", rank=2, head_rank=0)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(5):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (logits(model) - before).abs().max() > 0.01
    message = sublora.compress(model, data_dir, base=quantized, quantizer="uniform", samples=20, block_size=32)
    certificate = sublora.certify(message, documents=data_dir, base=quantized, to=tmp_path / "run")
    assert sublora.verify(tmp_path / "run", documents=data_dir, base=quantized).in_words()
    assert certificate.prior.base.sha256 == hash_weights(load(quantized)) != hash_weights(load(plain))
    with pytest.raises(sublora.errors.SubloraError):
        sublora.verify(tmp_path / "run", documents=data_dir, base=plain)


def test_it_is_loaded_as_the_numbers_that_it_stands_for(quantized):
    model, sha256 = load_pretrained(str(quantized))
    assert sha256 == hash_weights(load(quantized)) == hash_weights(model)
    assert all(type(p) is torch.nn.Parameter and p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(logits(model), logits(load(quantized)), atol=1e-4, rtol=0)
    assert not hasattr(model.config, "quantization_config")


def test_packed_integers_are_no_base_of_a_message_and_an_adapter_on_them_is_trained(plain):
    """As bitsandbytes keeps weights: integers, whose scales stand elsewhere."""

    class Packed(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight.float() / 100)

    base = load(plain)
    for layer in base.model.layers:
        old = layer.mlp.up_proj
        layer.mlp.up_proj = Packed(*old.weight.shape[::-1], bias=False)
        packed = (100 * old.weight.detach()).round().to(torch.int8)
        layer.mlp.up_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ConfigError, match="packed integers") as error:
        sublora.wrap(base, d=10)
    assert "\n" not in str(error.value)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    model = sublora.wrap(adapted, d=10)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert model.subspace_params.grad.abs().max() > 0
