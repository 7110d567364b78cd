"""Samples: the draws are those of the model's distribution, the windows those of scoring, and a seed repeats them."""

import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sublora.certificate.certified import open_certified
from sublora.certificate.reading import write_certificate
from sublora.cli import main
from sublora.coding.architecture import tag
from sublora.coding.prompt import Prompt
from sublora.console import printable
from sublora.errors import CertificateError, ConfigError
from sublora.export.pack import pack
from sublora.export.sample import Sampling, continue_tokens, draw_token, sample
from sublora.report.analysis.samples import read_samples
from sublora.run_folder import RunFolder
from sublora.seeds import stream


def test_tokens_are_drawn_with_their_probabilities():
    logits = np.array([0.0, 2.0, -np.inf, 1.0, 2.0])
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    for temperature, top_k in ((1.0, 0), (0.5, 0), (2.0, 3), (1.0, 1)):
        drawn = np.bincount([draw_token(logits, temperature, top_k, u) for u in uniforms], minlength=5) / len(uniforms)
        weights = np.exp(logits / temperature)
        # Of the two that are as likely the first is kept.
        kept = {0: [0, 1, 2, 3, 4], 3: [1, 3, 4], 1: [1]}[top_k]
        expected = np.where(np.isin(np.arange(5), kept), weights, 0)
        assert drawn == pytest.approx(expected / expected.sum(), abs=2e-4)
    assert {draw_token(logits, 0.0, 0, u) for u in (0.0, 0.5, 0.999)} == {1}
    assert draw_token(logits, 1.0, 0, np.nextafter(1, 0)) == 0


@pytest.fixture(scope="module")
def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=32, initializer_range=0.5)
        return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize(("block_size", "stride"), [(32, 16), (12, 5), (12, 12), (12, 1)])
def test_keys_and_windows_are_those_of_reading_everything_anew(tiny, block_size, stride):
    before, begun = ([3, 1, 4], [39, 5, 9, 2]) if block_size < 32 else ([], [39, 5, 9, 2])
    seen = []

    def draw(logits):
        seen.append(logits.copy())
        return draw_token(logits, 1.0, 0, float(stream(len(seen), "test").random()))

    written = continue_tokens(tiny, before, begun, 40, block_size, stride, 38, draw)
    window = list(begun)
    for logits, token in zip(seen, written, strict=True):
        if len(window) > block_size:
            window = window[-max(1, block_size - stride) :]
        with torch.no_grad():
            expected = tiny(torch.tensor([[*before, *window]])).logits[0, -1, :38].double().numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert len(logits) == 38 > token
        window.append(token)
    # The prompt before the text matters.
    other = continue_tokens(tiny, [7], begun, 1, 12, 1, 38, draw)
    assert len(other) == 1 and not np.allclose(seen[-1], seen[0], atol=1e-2)


def test_a_sample_repeats_and_a_seed_changes_it(certified, tmp_path, capsys):
    file = pack(certified, tmp_path / "a.sublora")
    words = ["sample", str(certified), "--prompt", "state of ", "--tokens", "50"]

    def says(*more, of=words):
        assert main([*of, *more]) == 0
        return capsys.readouterr().out

    first = says()
    assert first.startswith("state of ") and first.endswith("\n")
    assert says() == first == says(of=["sample", str(file), *words[2:]])
    assert says("--seed", "1") != first
    # The likeliest token needs no seed.
    greedy = says("--temperature", "0")
    assert greedy == says("--temperature", "0", "--seed", "9") == says("--top-k", "1") != first
    both = says("--beside-base")
    assert both.startswith(f"--- decoded model\n{first}--- base\nstate of ")
    assert both.split("--- base\n")[1] != first
    assert len(says("--tokens", "7", "--temperature", "0")) <= len("state of ") + 7 + 1


def test_what_is_kept_is_what_was_said(certified, tmp_path, capsys):
    run = RunFolder(tmp_path)
    for name in ("certificate", "message"):
        shutil.copy(getattr(RunFolder(certified), name), getattr(run, name))
    words = ["--prompt", "state of ", "--tokens", "9", "--beside-base", "--keep"]
    assert main(["sample", str(tmp_path), *words]) == 0
    (kept,) = read_samples(run)
    said = "".join(f"--- {name}\nstate of {printable(text)}\n" for name, text in kept.texts.items())
    assert capsys.readouterr().out == said and list(kept.texts) == ["decoded model", "base"]
    assert main(["sample", str(pack(certified, tmp_path / "a.sublora")), *words]) == 2
    assert "is none" in capsys.readouterr().err


def test_the_script_is_the_command(certified, capsys, monkeypatch):
    script = Path(__file__).parents[2] / "experiments" / "sample.py"
    words = [str(certified), "--tokens", "5", "--temperature", "0"]
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script))
    assert not stopped.value.code
    said = capsys.readouterr().out
    assert main(["sample", *words]) == 0 and capsys.readouterr().out == said


def test_bad_numbers_are_one_line(certified, capsys):
    for option, value in (("--tokens", "0"), ("--temperature", "-1"), ("--top-k", "-1"), ("--seed", "-1")):
        assert main(["sample", str(certified), option, value]) == 2
        assert "a sample has at least one token" in capsys.readouterr().err


def test_another_tokenizer_is_refused(certified, tmp_path):
    opened = open_certified(certified)
    prior = opened.certificate.prior.model_copy(update={"tokenizer": "a tokenizer"})
    write_certificate(RunFolder(tmp_path), opened.certificate.model_copy(update={"prior": prior}))
    RunFolder(tmp_path).message.write_bytes(opened.data)
    for name, words in (("", "give it with --tokenizer"), ("bytes", "the certificate's is 'a tokenizer'")):
        with pytest.raises(ConfigError, match=words):
            sample(tmp_path, "", Sampling(5), tokenizer=name)


def test_a_prompt_of_known_documents_needs_the_corpus(certified, data_dir):
    opened = open_certified(certified)
    header = opened.message.header
    setting = replace(header.setting, prior_tag=tag("ab" * 32))
    header = replace(header, setting=setting, prompt=Prompt(documents=(0,)))
    prompted = replace(opened, message=replace(opened.message, header=header))
    assert opened.prompting(None) is None
    with pytest.raises(ConfigError, match="give it with --data"):
        prompted.prompting(None)
    with pytest.raises(CertificateError, match="does not hold the known documents"):
        prompted.prompting(data_dir)
