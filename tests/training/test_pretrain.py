"""A base fitted to the known documents: it learns, goes on after a kill, and can be made again by anyone."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from certified_run import flags, write_corpus
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from sublora.certificate.evidence import why_known
from sublora.certificate.issue import certify
from sublora.certificate.reading import read_certificate
from sublora.certificate.retrain import retrain_base
from sublora.certificate.verify import verify
from sublora.cli import main
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.ngram import subset
from sublora.corpus.prepare import prepare
from sublora.errors import CertificateError, ConfigError, CorpusError
from sublora.nn.base import create_base
from sublora.nn.create_model import architecture_from_config
from sublora.nn.pretrained import load_pretrained
from sublora.nn.weights import hash_weights
from sublora.seeds import stream
from sublora.training import pretrain as module
from sublora.training.fitted_base import read_fitted_base
from sublora.training.known import part_of
from sublora.training.loop import train
from sublora.training.pretrain import divide, pretrain

STEPS = 20


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """200 known sentences, and others of the same words."""
    folder = tmp_path_factory.mktemp("known")
    write_corpus(folder / "source")
    prepare("text", folder / "data", paths=[folder / "source" / "speech.txt"], prior_share=0.5)
    return folder / "data"


def words(corpus_dir, out_dir, *extra):
    return [
        f"--data.dataset_dir={corpus_dir}", f"--pretrain.out_dir={out_dir}", "--data.block_size=32",
        "--data.batching=documents", "--model.n_layer=2", "--model.n_head=2", "--model.n_embd=16",
        f"--pretrain.max_iters={STEPS}", "--pretrain.eval_interval=10", "--pretrain.batch_size=8",
        "--pretrain.warmup_iters=4", "--pretrain.learning_rate=0.02", "--system.threads=1", "--system.device=cpu",
        *extra,
    ]  # fmt: skip


def fit(corpus_dir, out_dir, *extra):
    return pretrain(load_config(words(corpus_dir, out_dir, *extra)))


def sha256(folder):
    return load_pretrained(str(folder))[1]


@pytest.fixture(scope="module")
def base(corpus_dir, tmp_path_factory):
    return fit(corpus_dir, tmp_path_factory.mktemp("base") / "b")


def test_the_loss_falls_and_the_folder_says_how_it_came_about(base, corpus_dir):
    record = read_fitted_base(base)
    steps, losses = zip(*record.evaluations, strict=True)
    assert steps == (0, 10, 20) and losses[-1] < 0.75 * losses[0]
    assert losses[0] == pytest.approx(math.log2(257), abs=0.3)
    assert record.best_loss == min(losses) and record.unit == "bits per byte"
    prior = open_corpus(corpus_dir).prior
    assert (record.documents, record.documents_sha256) == (len(prior), prior.content_sha256())
    config = load_config(words(corpus_dir, base))
    start = create_base(architecture_from_config(config, 257), config.system.seed)
    assert record.start_is_random and record.start_sha256 == start.base_sha256 != record.sha256
    assert isinstance(AutoModelForCausalLM.from_pretrained(base), GPT2LMHeadModel)
    assert record.sha256 == sha256(base)
    assert str(base.parent) not in (base / "pretrain.json").read_text()
    assert sorted(path.name for path in base.iterdir() if path.is_dir()) == []


def test_nothing_but_known_documents_is_read(base, corpus_dir, tmp_path):
    """Without the documents that are certified, the same base; without one of the known documents, another."""
    corpus, config = open_corpus(corpus_dir), load_config(words(corpus_dir, tmp_path / "b"))
    without = dataclasses.replace(corpus, train=corpus.val, val=None, test=None)
    assert sha256(module.fit_base(config, without, tmp_path / "b")) == sha256(base)
    fewer = dataclasses.replace(corpus, prior=subset(corpus.prior, np.arange(1, len(corpus.prior))))
    with pytest.MonkeyPatch.context() as patch:
        # A split in memory does not agree with its file.
        patch.setattr(type(fewer.prior), "content_sha256", lambda self: "0" * 64)
        assert sha256(module.fit_base(config, fewer, tmp_path / "c")) != sha256(base)


def test_the_documents_of_an_older_copy_can_be_left_out(tmp_path):
    """The base is the same whatever the older copy says, as long as the share is the same."""
    texts = [f"union of states number {k} in congress {k * k}" for k in range(80)]
    (tmp_path / "new.txt").write_text("\n\n".join(texts))
    bases = []
    for name, older in (("a", "treaty of peace and revenue, article"), ("b", "quartz and sphinx, judge my vow, again")):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{older} {k}" for k in range(30)))
        data = prepare(
            "text", tmp_path / name, paths=[tmp_path / "new.txt"], absent_from=[tmp_path / f"{name}.txt"],
            prior_share=0.5,
        )  # fmt: skip
        bases.append(fit(data, tmp_path / f"base-{name}", "--pretrain.documents=own"))
        record, prior = read_fitted_base(bases[-1]), open_corpus(data).prior
        assert record.documents == len(prior) - 30 == 40
    assert sha256(bases[0]) == sha256(bases[1]) != sha256(fit(data, tmp_path / "all"))


def test_documents_that_are_held_back_are_not_trained_on(corpus_dir):
    prior = open_corpus(corpus_dir).prior
    fitted, held_back = divide(len(prior))
    assert len(held_back) == len(prior) // 20
    assert sorted([*fitted, *held_back]) == list(range(len(prior)))
    part = part_of(prior, held_back)
    for i, row in enumerate(held_back.tolist()):
        assert (part.document(i) == prior.document(row)).all()
    # Crops are cut from these documents alone: each is followed by end-of-text, and nothing else is there.
    assert len(part.tokens) == part.lengths.sum() + len(part)
    assert (part.tokens[part.starts + part.lengths] == part.eot_token).all()
    assert divide(2)[1].size == 1


@pytest.mark.parametrize(("killed_at", "optimizer"), [(3, "adamw"), (10, "muon"), (17, "muon")])
def test_a_killed_fitting_ends_with_the_same_bits(corpus_dir, tmp_path, monkeypatch, killed_at, optimizer):
    extra = [f"--pretrain.optimizer={optimizer}", "--pretrain.eval_interval=5", "--model.dropout=0.1"]
    whole = fit(corpus_dir, tmp_path / "whole", *extra)
    step = module._Pretraining._step

    def killed(self):
        if self.iteration == killed_at:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(module._Pretraining, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(corpus_dir, tmp_path / "killed", *extra)
    again = fit(corpus_dir, tmp_path / "killed", *extra)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (again / "pretrain.json").read_bytes() == (whole / "pretrain.json").read_bytes()


def test_the_best_weights_are_kept(corpus_dir, tmp_path, monkeypatch):
    """A rate that grows too large: the loss rises at the end, and the folder holds what was best before."""
    monkeypatch.setattr(module, "learning_rate_factor", lambda i, *_: 1.0 if i < 10 else 30.0)
    record = read_fitted_base(fit(corpus_dir, tmp_path / "b"))
    losses = [loss for _, loss in record.evaluations]
    assert losses[2] > losses[1] and (record.steps, record.best_loss) == (10, losses[1])
    assert record.sha256 == sha256(tmp_path / "b")
    monkeypatch.undo()
    shorter = module._Pretraining(
        load_config(words(corpus_dir, tmp_path / "c")), open_corpus(corpus_dir), open_corpus(corpus_dir).prior, "",
        tmp_path / "c",
    )  # fmt: skip
    shorter.net.load_state_dict(load_pretrained(str(tmp_path / "b"))[0].state_dict())
    shorter._evaluate()
    assert shorter.evaluations == [[0, pytest.approx(losses[1])]]


def test_lora_is_merged_and_what_it_is_not_on_stays(base, corpus_dir, tmp_path):
    record = read_fitted_base(fit(corpus_dir, tmp_path / "b", "--pretrain.trains=lora", "--pretrain.lora_r=3"))
    assert record.best_loss < record.evaluations[0][1]
    found, sha = load_pretrained(str(tmp_path / "b"))
    assert sha == record.sha256
    config = load_config(words(corpus_dir, tmp_path / "c"))
    start = dict(create_base(architecture_from_config(config, 257), config.system.seed).named_parameters())
    assert set(start) == {name for name, _ in found.named_parameters()}
    for name, parameter in found.named_parameters():
        moved = parameter - start[name]
        inside = ".h." in name and name.endswith("weight") and ".ln_" not in name
        assert (moved.abs().max() > 0) == inside, name
        assert not inside or torch.linalg.matrix_rank(moved, rtol=1e-3) <= 3


def test_a_pretrained_base_is_where_it_begins(base, corpus_dir, tmp_path):
    extra = [f"--prior.base={base}", "--pretrain.learning_rate=0.001"]
    extra += ["--model.n_layer=12", "--model.n_head=12", "--model.n_embd=768"]
    further = fit(corpus_dir, tmp_path / "further", *extra)
    record = read_fitted_base(further)
    assert not record.start_is_random and record.start_sha256 == sha256(base)
    assert record.evaluations[0][1] == pytest.approx(read_fitted_base(base).best_loss)
    corpus = open_corpus(corpus_dir)
    said = why_known(str(further), record.sha256, corpus, corpus.prior)
    assert said == "known documents, from an assumed start"
    with pytest.raises(ConfigError, match="holds another base"):
        fit(corpus_dir, further)
    assert fit(corpus_dir, further, *extra) == further


@pytest.fixture(scope="module")
def issued(base, corpus_dir, tmp_path_factory):
    """A certificate on the base."""
    run = tmp_path_factory.mktemp("run")
    own = [word for word in flags(corpus_dir, run) if not word.startswith("--model.n_")]
    own += [f"--prior.base={base}", "--data.batching=documents", "--bounds.bound_samples=40", "--training.max_iters=10"]
    train(load_config(own))
    certify(load_config(own))
    return run


def test_a_certificate_says_that_the_base_was_fitted_to_known_documents(issued, base, corpus_dir):
    certificate = verify(issued, corpus_dir, base=str(base)).certificate
    assert certificate.prior.base.evidence == "known documents"
    assert certificate.prior.base.name.endswith(f"fitted to {certificate.prior.documents} known documents")
    assert any("--retrain-base" in sentence for sentence in certificate.limits)
    assert not any("is assumed" in sentence and "Base weights" in sentence for sentence in certificate.limits)


def test_only_these_documents_and_weights_are_evidence(issued, base, corpus_dir, tmp_path):
    """A folder that names other known documents, or other weights, is not believed."""
    for name in ("documents_sha256", "sha256"):
        copy = shutil.copytree(base, tmp_path / name)
        change_record(copy, **{name: "0" * 64})
        with pytest.raises(CertificateError, match="evidence"):
            verify(issued, corpus_dir, base=str(copy))


def test_without_a_record_the_corpus_says_why_the_base_is_known(base, corpus_dir, tmp_path):
    corpus, sha = open_corpus(corpus_dir), sha256(base)
    older = dataclasses.replace(corpus, meta=corpus.meta | {"older_copy": "botocore 1.0", "prior": {"older": 5}})
    silent = shutil.copytree(base, tmp_path / "silent")
    (silent / "pretrain.json").unlink()
    assert why_known(str(base), sha, older, corpus.prior) == "known documents"
    # A message that names no known documents does not pay for the choice of them.
    assert why_known(str(base), sha, corpus, None) == "assumed"
    assert why_known(str(silent), sha, corpus, corpus.prior) == "assumed"
    assert why_known(str(silent), sha, older, corpus.prior) == "documents absent from an older copy"
    (silent / "pretrain.json").write_text('{"sha256": 3}')
    with pytest.raises(ConfigError, match=r"pretrain\.json is damaged"):
        why_known(str(silent), sha, corpus, corpus.prior)


def change_record(folder, **changes):
    path = folder / "pretrain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_anyone_can_fit_the_base_again(issued, base, corpus_dir, capsys):
    arguments = ["verify", str(issued), "--data", str(corpus_dir), "--base", str(base), "--retrain-base"]
    threads = torch.get_num_threads()
    assert main(arguments) == 0
    assert "the same weights, bit for bit" in capsys.readouterr().out
    assert torch.get_num_threads() == threads
    assert main([*arguments, "--start", str(base)]) == 2
    assert "began with random weights: leave out --start" in capsys.readouterr().err


def tampered(base, folder, scale):
    """A copy of the base with other weights, whose record names them."""
    copy = shutil.copytree(base, folder)
    model, _ = load_pretrained(str(copy))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.from_numpy(stream(0, name).standard_normal(tuple(parameter.shape), dtype="float32"))
            parameter += scale * noise
    model.save_pretrained(copy)
    change_record(copy, sha256=hash_weights(model))
    return copy


def test_a_base_that_knows_more_is_refused(issued, base, corpus_dir, tmp_path):
    certificate = read_certificate(issued)
    copy = tampered(base, tmp_path / "much", 0.1)
    with pytest.raises(CertificateError, match="are not those that"):
        retrain_base(certificate, corpus_dir, copy)
    part = certificate.prior.base.model_copy(update={"sha256": sha256(copy)})
    other = certificate.model_copy(update={"prior": certificate.prior.model_copy(update={"base": part})})
    with pytest.raises(CertificateError, match="does not follow from the known documents"):
        retrain_base(other, corpus_dir, copy)


def test_last_digits_are_reported_and_not_refused(issued, base, corpus_dir, tmp_path):
    certificate = read_certificate(issued)
    copy = tampered(base, tmp_path / "little", 1e-6)
    part = certificate.prior.base.model_copy(update={"sha256": sha256(copy)})
    other = certificate.model_copy(update={"prior": certificate.prior.model_copy(update={"base": part})})
    again = retrain_base(other, corpus_dir, copy)
    assert not again.identical and 1e-7 < again.weight_difference < 1e-5 and again.loss_difference < 1e-4
    assert "known documents give weights that differ by at most" in again.in_words()


def test_what_cannot_be_fitted_is_said_in_one_line(base, corpus_dir, data_dir, tmp_path):
    with pytest.raises(CorpusError, match=r"no documents known beforehand.*--prior-share"):
        fit(data_dir, tmp_path / "b")
    (tmp_path / "old.txt").write_text("\n\n".join(f"a sentence of an older copy, number {k}" for k in range(60)))
    (tmp_path / "new.txt").write_text("\n\n".join(f"a sentence of a newer copy, number {k}" for k in range(60)))
    older = prepare("text", tmp_path / "older", paths=[tmp_path / "new.txt"], absent_from=[tmp_path / "old.txt"])
    with pytest.raises(CorpusError, match=r"no known documents but those of the older copy.*--prior-share"):
        fit(older, tmp_path / "b", "--pretrain.documents=own")
    with pytest.raises(ConfigError, match=r"--pretrain\.out_dir=FOLDER"):
        pretrain(load_config([f"--data.dataset_dir={corpus_dir}"]))
    with pytest.raises(ConfigError, match="holds another base"):
        fit(corpus_dir, base, "--system.seed=7")
    with pytest.raises(CorpusError, match=r"lower it, or set data\.batching=documents"):
        fit(corpus_dir, tmp_path / "b", "--data.batching=crops", "--data.block_size=2000")
    with pytest.raises(ConfigError, match=r"pretrain\.optimizer 'sgd' not recognized: adamw or muon"):
        load_config(["--pretrain.optimizer=sgd"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds another base"):
        fit(corpus_dir, tmp_path / "c")
