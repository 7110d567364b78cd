"""Exports: PEFT and transformers load them without this package, and compute what was certified."""

import json
import shutil

import pytest
import torch
from certified_run import flags
from peft import PeftModel
from transformers import AutoModelForCausalLM

import sublora
from sublora.certificate.issue import certify
from sublora.certificate.reading import read_certificate
from sublora.cli import main
from sublora.coding.message import decode_message
from sublora.config import load_config
from sublora.export.export import export
from sublora.nn.create_model import build_base
from sublora.run_folder import RunFolder
from sublora.scoring.measure import decoded_model, rebuild
from sublora.training.loop import train

TOKENS = torch.arange(60).reshape(2, 30)


def issue(data_dir, folder, *extra):
    options = flags(data_dir, folder, "--training.max_iters=5", "--bounds.bound_samples=20", *extra)
    train(load_config(options))
    certify(load_config(options))
    return folder


def message_of(run):
    return decode_message(RunFolder(run).message.read_bytes(), max_symbols=1 << 20)


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def certified_logits(run, source=""):
    """Of the model that is scored: the adapter is merged."""
    return logits(rebuild(message_of(run), source, None).model)


def adapted_logits(run, source=""):
    """Of the same model before merging, whose sums are in another order."""
    return logits(decoded_model(message_of(run), source).materialize())


@pytest.fixture
def llama(tmp_path):
    """A pretrained base in a folder: a Llama of random weights with heads that share their keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(vocab_size=257, num_key_value_heads=2, **sizes))
    base.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_peft_loads_the_adapter_of_a_random_base(data_dir, certified, tmp_path):
    """LoRA on the fused projections of a GPT-2, whose weights are transposed, and on its tied head."""
    run = certified
    out = export(run, tmp_path / "adapter")
    message = message_of(run)
    base = build_base(message.header.architecture, message.spec.seed)
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, out))
    torch.testing.assert_close(adapted, adapted_logits(run), atol=1e-5, rtol=0)
    torch.testing.assert_close(adapted, certified_logits(run), atol=1e-4, rtol=0)
    assert (adapted - before).abs().max() > 1e-3
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "certificate",
    ]  # fmt: skip
    # What lies beside it is the certificate, and it holds.
    assert read_certificate(out / "certificate") == read_certificate(run)
    assert main(["verify", str(out / "certificate"), "--data", str(data_dir)]) == 0


@pytest.mark.parametrize("adapter", [["lora"], ["spectral"], ["spectral", "--sublora.spectral_tied=true"]], ids=str)
def test_peft_loads_the_adapter_of_a_pretrained_base(data_dir, llama, tmp_path, adapter):
    sizes = [f"--prior.base={llama}", "--sublora.targets=linear", f"--sublora.adapter={adapter[0]}", *adapter[1:]]
    run = issue(data_dir, tmp_path / "run", "--sublora.spectral_r=4", *_without_sizes(sizes))
    out = export(run, tmp_path / "adapter", base=str(llama))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), out)
    torch.testing.assert_close(logits(adapted), certified_logits(run, str(llama)), atol=1e-5, rtol=0)
    card = (out / "README.md").read_text()
    certificate = read_certificate(run)
    # Two layers of seven kinds: a core of 4 x 4 for each kind, or for each layer and kind.
    assert adapter == ["lora"] or (7 if adapter[1:] else 14) * 16 == certificate.prior.D
    assert certificate.statement in card and all(limit in card for limit in certificate.limits)
    assert "sublora verify certificate --data CORPUS --base BASE" in card
    # Transformers finds the base through the adapter.
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), logits(adapted), atol=1e-5, rtol=0)


def test_layers_and_ranks_by_name_are_certified_and_exported(data_dir, llama, tmp_path, capsys):
    names = ["--sublora.target_modules=[q_proj,down_proj]", "--sublora.rank_pattern={down_proj: 2}"]
    base = _without_sizes([f"--prior.base={llama}", "--sublora.linear_head_enable_lora=false", *names])
    run = issue(data_dir, tmp_path / "run", *base, "--sublora.allocation_mode=learned")
    # Bits 0 and 6 of the seven kinds, D = 2 layers of (q: 4 x (16 + 16), down: 2 x (32 + 16)).
    spec = message_of(run).spec
    assert (spec.kinds, spec.ranks) == (0b1000001, (4, 2))
    assert read_certificate(run).prior.D == 2 * (4 * (16 + 16) + 2 * (32 + 16))
    assert main(["verify", str(run), "--data", str(data_dir), "--base", str(llama)]) == 0
    assert "verified" in capsys.readouterr().out
    out = export(run, tmp_path / "adapter", base=str(llama))
    written = json.loads((out / "adapter_config.json").read_text())
    assert len(written["target_modules"]) == 4
    ends = {name.rpartition(".")[2]: rank for name, rank in written["rank_pattern"].items()}
    assert ends == {"q_proj": 4, "down_proj": 2}
    fresh = AutoModelForCausalLM.from_pretrained(llama)
    before = logits(fresh)
    adapted = logits(PeftModel.from_pretrained(fresh, out))
    torch.testing.assert_close(adapted, certified_logits(run, str(llama)), atol=1e-5, rtol=0)
    assert (adapted - before).abs().max() > 1e-3


def _without_sizes(extra):
    """The sizes of a random base are those of the flags: a pretrained one has its own."""
    return ["--model.n_layer=12", "--model.n_head=12", "--model.n_embd=768", *extra]


def test_transformers_loads_the_merged_model(certified, tmp_path):
    out = export(certified, tmp_path / "merged", merged=True)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(loaded), certified_logits(certified), atol=1e-5, rtol=0)
    assert "a whole model of transformers" in (out / "README.md").read_text()


def test_all_weights_are_exported_merged(data_dir, tmp_path, capsys):
    run = issue(data_dir, tmp_path / "run", "--sublora.adapter=weights")
    assert main(["export", str(run), "--to", str(tmp_path / "a")]) == 2
    assert "export it with --merged" in capsys.readouterr().err
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".*"))
    out = export(run, tmp_path / "b", merged=True)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(loaded), certified_logits(run), atol=1e-5, rtol=0)


def test_a_prompt_goes_with_it(data_dir, llama, tmp_path, capsys, caplog):
    extra = _without_sizes([f"--prior.base={llama}", "--sublora.adapter=none", "--data.batching=documents"])
    prompt = ["--prompt.documents=1", "--prompt.source=training", "--data.block_size=160", "--prompt.candidates=2"]
    run = issue(data_dir, tmp_path / "run", *extra, *prompt)
    with pytest.raises(Exception, match="only a prompt: export it with --merged"):
        export(run, tmp_path / "a", base=str(llama))
    out = export(run, tmp_path / "b", base=str(llama), merged=True)
    tokens = json.loads((out / "prompt.json").read_text())["tokens"]
    assert tokens == [256, *message_of(run).header.prompt.texts[0]]
    assert "Without it nothing is claimed" in (out / "README.md").read_text()
    torch.testing.assert_close(logits(sublora.load(run, base=str(llama))), certified_logits(run, str(llama)))
    assert f"behind a prompt of {len(tokens)} tokens" in caplog.text
    torch.testing.assert_close(
        logits(sublora.load(RunFolder(run).message, base=llama)), logits(sublora.load(run, base=llama))
    )
    assert "the message has a prompt, which is no part of the model" in caplog.text
    # There is no adapter: only behind the prompt, the model writes otherwise than its base.
    words = ["sample", str(run), "--base", str(llama), "--tokens", "20", "--beside-base"]
    assert main(words) == 0
    decoded, base = capsys.readouterr().out.removeprefix("--- decoded model\n").split("--- base\n")
    assert decoded != base


def test_what_cannot_be_exported_is_said_in_one_line(certified, tmp_path, capsys):
    def says(words, *arguments):
        assert main(["export", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    says("is not empty", certified, "--to", tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    says("leave out --base", certified, "--to", tmp_path / "a", "--base", tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("certificate.json", "message.bin"):
        shutil.copy(certified / name, copy / name)
    data = bytearray((copy / "message.bin").read_bytes())
    data[-1] ^= 1
    (copy / "message.bin").write_bytes(data)
    says("is not the message that the certificate is about", copy, "--to", tmp_path / "a")
    says("certificate", tmp_path / "nothing", "--to", tmp_path / "a")
    assert not (tmp_path / "a").exists()
