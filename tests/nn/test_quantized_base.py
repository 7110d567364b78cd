"""Bases with quantized weights: an adapter is trained on them as they are, and certified on what they stand for."""

import importlib.util
import json

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

import sublora
from sublora.cli import main
from sublora.errors import ConfigError
from sublora.nn.pretrained import load_pretrained
from sublora.nn.weights import hash_weights
from sublora.run_folder import RunFolder

TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "plain"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


KINDS = {
    "torchao, 8 bits": ("torchao", {}),
    "bitsandbytes, 8 bits": ("bitsandbytes", {"load_in_8bit": True}),
    "bitsandbytes, nf4": ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "bitsandbytes, nf4 twice": (
        "bitsandbytes",
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ),
}


def quantize(plain, folder, kind):
    """Write a base with quantized weights, as transformers does it."""
    package, options = KINDS[kind]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: the extra quantized has it")
    if package == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        how = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        from transformers import BitsAndBytesConfig

        how = BitsAndBytesConfig(**options)
    AutoModelForCausalLM.from_pretrained(plain, quantization_config=how, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def quantized(request, plain, tmp_path_factory):
    return quantize(plain, tmp_path_factory.mktemp("base") / "quantized", request.param)


def load(folder):
    # Without dropout there is no other difference, but bitsandbytes computes with rounded inputs in eval mode.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def train(model, steps=5):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(steps):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("adapter", ["lora", "spectral"])
def test_from_training_to_a_verified_certificate(adapter, plain, quantized, data_dir, tmp_path):
    base = load(quantized)
    before = logits(base)
    # Not the weights that it was made of, nor far from them.
    assert 1e-5 < (before - logits(load(plain))).abs().max() < 0.1
    model = sublora.wrap(base, d=30, adapter=adapter, targets="linear", rank=2, head_rank=0)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=0)
    assert (logits(train(model)) - before).abs().max() > 0.01
    message = sublora.compress(model, data_dir, base=quantized, quantizer="uniform", samples=20, block_size=32)
    certificate = sublora.certify(message, documents=data_dir, base=quantized, to=tmp_path / "run")
    assert sublora.verify(tmp_path / "run", documents=data_dir, base=quantized).in_words()
    assert certificate.prior.base.sha256 == hash_weights(load(quantized)) != hash_weights(load(plain))
    with pytest.raises(sublora.errors.SubloraError):
        sublora.verify(tmp_path / "run", documents=data_dir, base=plain)


def test_it_is_loaded_as_the_numbers_that_it_stands_for(quantized):
    model, sha256 = load_pretrained(str(quantized))
    assert sha256 == hash_weights(load(quantized)) == hash_weights(model)
    assert all(type(p) is nn.Parameter and p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(logits(model), logits(load(quantized)), atol=1e-4, rtol=0)
    assert not hasattr(model.config, "quantization_config")
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


def test_what_is_exported_computes_the_same_merged_and_on_the_quantized_base(quantized, data_dir, tmp_path):
    model = train(sublora.wrap(load(quantized), d=30, targets="linear", rank=2, head_rank=0))
    message = sublora.compress(model, data_dir, base=quantized, quantizer="uniform", samples=20, block_size=32)
    sublora.certify(message, documents=data_dir, base=quantized, to=tmp_path / "run")
    words = ["export", str(tmp_path / "run"), "--base", str(quantized), "--to"]
    assert main([*words, str(tmp_path / "adapter")]) == main([*words, str(tmp_path / "merged"), "--merged"]) == 0
    merged = load(tmp_path / "merged")
    assert all(type(p) is nn.Parameter and p.dtype == torch.float32 for p in merged.parameters())
    assert (logits(merged) - logits(load(quantized))).abs().max() > 0.01
    adapted = peft.PeftModel.from_pretrained(load(quantized), tmp_path / "adapter").train()
    torch.testing.assert_close(logits(adapted), logits(merged), atol=1e-5, rtol=0)
    decoded = sublora.load(RunFolder(tmp_path / "run").message, base=quantized)
    torch.testing.assert_close(logits(decoded), logits(merged), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_layers_of_gpt2_are_turned_back(kind, tmp_path):
    """bitsandbytes puts outputs first, and GPT-2 inputs: a square weight the wrong way round has the right shape."""
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 257}
    silent = {"bos_token_id": None, "eos_token_id": None, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    GPT2LMHeadModel(GPT2Config(**sizes, **silent)).save_pretrained(tmp_path / "plain")
    folder = quantize(tmp_path / "plain", tmp_path / "quantized", kind)
    base = load(folder)
    expected = logits(base)
    model, sha256 = load_pretrained(str(folder))
    assert sha256 == hash_weights(base) and type(model.transformer.h[0].attn.c_proj) is Conv1D
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(load(tmp_path / "saved")), logits(model), atol=1e-6, rtol=0)
    with torch.no_grad():
        weight = model.transformer.h[0].attn.c_proj.weight
        weight.copy_(weight.t().clone())
    assert (logits(model) - expected).abs().max() > 1e-3


def test_evaluation_leaves_weights_of_4_bits_as_they_are(plain, tmp_path):
    folder = quantize(plain, tmp_path / "quantized", "bitsandbytes, nf4")
    model = sublora.wrap(load(folder), d=10)
    before = logits(model)
    torch.testing.assert_close(logits(model.eval()), before, atol=1e-5, rtol=0)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    in_eval = model.subspace_params.grad.clone()
    model.subspace_params.grad = None
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    torch.testing.assert_close(in_eval, model.subspace_params.grad)
    # A base that was evaluated before it was wrapped: on some processors it has other weights now.
    base = load(folder).eval()
    logits(base)
    if getattr(base.model.layers[0].mlp.up_proj.weight.quant_state, "packing_format_for_cpu", False):
        with pytest.raises(ConfigError, match="wrap it before it is called") as error:
            sublora.wrap(base, d=10)
        assert "\n" not in str(error.value)
    else:
        assert hash_weights(base) == hash_weights(load(folder))


def test_a_missing_package_is_one_line(plain, tmp_path):
    if importlib.util.find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed")
    load(plain).save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": how}))
    with pytest.raises(ConfigError, match=r"needs another package: .*bitsandbytes") as error:
        load_pretrained(str(tmp_path / "base"))
    assert "\n" not in str(error.value)


def test_packed_integers_are_no_base_of_a_message_and_an_adapter_on_them_is_trained(plain):
    """As other tools keep weights: integers, whose scales stand elsewhere."""

    class Packed(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight.float() / 100)

    base = load(plain)
    for layer in base.model.layers:
        old = layer.mlp.up_proj
        layer.mlp.up_proj = Packed(*old.weight.shape[::-1], bias=False)
        packed = (100 * old.weight.detach()).round().to(torch.int8)
        layer.mlp.up_proj.weight = nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ConfigError, match="packed integers") as error:
        sublora.wrap(base, d=10)
    assert "\n" not in str(error.value)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    model = sublora.wrap(adapted, d=10)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert model.subspace_params.grad.abs().max() > 0
