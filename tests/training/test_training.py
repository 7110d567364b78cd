"""Training: it learns, resumes to the bit, and stops with one clear line when it cannot go on."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from sublora.config import LearningRate, load_config
from sublora.corpus.batches import sample_batch
from sublora.corpus.prepare import prepare
from sublora.errors import ConfigError, SubloraError, TrainingError
from sublora.training.checkpoint import BEST, LAST, load_checkpoint
from sublora.training.loop import Run, train
from sublora.training.schedule import learning_rate_factor


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = ["union", "state", "of", "the", "congress", "treaty", "peace", "revenue"]
    text = "\n\n".join(" ".join(rng.choice(words, 12)) for _ in range(120))
    (folder / "speech.txt").write_text(text)
    prepare("text", folder / "data", paths=[folder / "speech.txt"])
    return folder / "data"


def configure(data_dir, out_dir, *extra):
    return load_config(
        [
            f"--data.dataset_dir={data_dir}", f"--login.out_dir={out_dir}",
            "--data.batch_size=4", "--data.block_size=16",
            "--model.n_layer=2", "--model.n_head=2", "--model.n_embd=16", "--sublora.intrinsic_dim=60",
            "--training.max_iters=12", "--training.eval_interval=4", "--training.eval_iters=2",
            "--training.log_interval=2",
            "--optimizer.learning_rate=0.1", "--optimizer.weight_decay=0", "--system.device=cpu", *extra,
        ]
    )  # fmt: skip


def alpha(out_dir, name=LAST):
    return load_checkpoint(out_dir / name).tensors["subspace_params"]


def metrics_without_times(out_dir):
    records = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "tokens_per_second"} for r in records]


def test_it_learns_and_records(data_dir, tmp_path):
    train(configure(data_dir, tmp_path, "--training.max_iters=40", "--sublora.allocation_mode=learned"))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evals = [r for r in records if r["kind"] == "eval"]
    assert [r["iter"] for r in evals] == list(range(0, 41, 4))
    assert evals[-1]["val_bpd"] < evals[0]["val_bpd"] - 0.5
    assert evals[0]["val_bpd"] == pytest.approx(math.log2(257), abs=0.1)
    assert len(evals[-1]["gamma"]) == 2 and evals[-1]["gamma"] != evals[0]["gamma"]
    trains = [r for r in records if r["kind"] == "train"]
    assert all(len(r["grad_norm_a"]) == 2 and len(r["grad_norm_b"]) == 2 for r in trains if r["iter"] % 2 == 0)
    assert list((tmp_path / "tensorboard").iterdir())
    best = min(evals, key=lambda r: r["val_bpd"])
    assert load_checkpoint(tmp_path).iteration == best["iter"]


def test_an_interrupted_run_ends_with_the_same_bits(data_dir, tmp_path, monkeypatch):
    extra = [
        "--sublora.lora_dropout=0.3",
        "--sublora.allocation_mode=learned",
        "--training.gradient_accumulation_steps=2",
    ]
    train(configure(data_dir, tmp_path / "whole", *extra))

    class Killed(BaseException):
        pass

    step = Run._step

    def dies_at_step_10(self):
        if self.iteration == 10:
            raise Killed
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_step", dies_at_step_10)
        with pytest.raises(Killed):
            train(configure(data_dir, tmp_path / "parts", *extra))
    assert load_checkpoint(tmp_path / "parts" / LAST).iteration == 8
    torch.manual_seed(99)
    train(configure(data_dir, tmp_path / "parts", *extra))
    assert torch.equal(alpha(tmp_path / "parts"), alpha(tmp_path / "whole"))
    assert metrics_without_times(tmp_path / "parts") == metrics_without_times(tmp_path / "whole")


def test_another_seed_is_another_run(data_dir, tmp_path):
    train(configure(data_dir, tmp_path / "a", "--training.max_iters=2"))
    train(configure(data_dir, tmp_path / "b", "--training.max_iters=2", "--system.seed=43"))
    assert not torch.equal(alpha(tmp_path / "a"), alpha(tmp_path / "b"))


def test_a_run_is_not_continued_with_other_settings(data_dir, tmp_path):
    train(configure(data_dir, tmp_path, "--training.max_iters=1"))
    with pytest.raises(ConfigError, match=r"holds a run with sublora.intrinsic_dim=60, not 61"):
        train(configure(data_dir, tmp_path, "--sublora.intrinsic_dim=61"))


def test_training_can_start_from_a_checkpoint(data_dir, tmp_path, caplog):
    train(configure(data_dir, tmp_path / "a"))
    extra = ["--model.init_from=best_ckpt", f"--model.best_checkpoint_path={tmp_path / 'a'}", "--training.max_iters=0"]
    train(configure(data_dir, tmp_path / "b", *extra, "--sublora.intrinsic_dim=50"))
    assert torch.equal(alpha(tmp_path / "b"), alpha(tmp_path / "a", BEST))
    assert "sublora.intrinsic_dim is configured as 50, but the checkpoint's model has 60, which is used" in caplog.text


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_the_last_good_checkpoint(data_dir, tmp_path):
    with pytest.raises(
        TrainingError, match=r"at step \d+, learning rate .* last good checkpoint is .*last.safetensors"
    ):
        train(configure(data_dir, tmp_path, "--optimizer.learning_rate=1e30"))
    assert torch.isfinite(alpha(tmp_path)).all()


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"", lambda b: b"\x00" * len(b)])
def test_a_damaged_checkpoint_is_named(data_dir, tmp_path, damage):
    train(configure(data_dir, tmp_path, "--training.max_iters=0"))
    path = tmp_path / BEST
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match=r"best.safetensors is damaged"):
        load_checkpoint(tmp_path)


def test_missing_data_is_one_line(tmp_path):
    with pytest.raises(SubloraError) as caught:
        train(configure(tmp_path / "nothing", tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_schedule():
    settings = LearningRate(warmup_iters=10, min_lr=0.1)
    factors = [learning_rate_factor(i, settings, 1.0, 110) for i in range(120)]
    assert factors[0] == pytest.approx(1 / 11) and factors[10] == 1.0
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == factors[119] == pytest.approx(0.1)
    assert np.all(np.diff(factors[10:111]) < 0)
    constant = dataclasses.replace(settings, decay_lr=False)
    assert learning_rate_factor(100, constant, 1.0, 110) == 1.0


def test_weights_and_biases_offline(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(configure(data_dir, tmp_path, "--training.max_iters=2", "--login.wandb_log=true"))
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    # A run that goes on is the same run.
    train(configure(data_dir, tmp_path, "--training.max_iters=4", "--login.wandb_log=true"))
    assert {path.name for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")} == {run.name}


def test_tensorboard_has_every_curve(data_dir, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(configure(data_dir, tmp_path, "--sublora.allocation_mode=learned"))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curves = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {"train/loss", "train/lr", "train/tokens_per_second", "train/grad_norm"} <= set(curves)
    assert curves["train/loss"] == [1, 2, 4, 6, 8, 10, 12]
    for layer in (0, 1):
        assert curves[f"eval/gamma/{layer}"] == curves["eval/val_bpd"] == [0, 4, 8, 12]
        assert curves[f"train/grad_norm_a/{layer}"] == curves[f"train/grad_norm_b/{layer}"] == [2, 4, 6, 8, 10, 12]


def test_word_order_can_be_perturbed(data_dir, tmp_path, monkeypatch):
    seen = []

    def sample(split, rng, batch_size, block_size, window=0):
        batches = sample_batch(split, rng, batch_size, block_size, window)
        seen.append((window, batches))
        return batches

    monkeypatch.setattr("sublora.corpus.batches.sample_batch", sample)
    for name, window in (("plain", 0), ("shuffled", 4)):
        extra = [f"--data.perturb_word_order_window_size={window}", "--training.max_iters=1"]
        train(configure(data_dir, tmp_path / name, *extra))
    plain, shuffled = ([np.c_[x, y[:, -1:]] for w, (x, y) in seen if w == window] for window in (0, 4))
    assert len(plain) == len(shuffled) > 0
    for before, after in zip(plain, shuffled, strict=True):
        assert (before != after).any()
        # 17 tokens: four windows of four, and one of one.
        assert (np.sort(before[:, :16].reshape(-1, 4)) == np.sort(after[:, :16].reshape(-1, 4))).all()
    assert not torch.equal(alpha(tmp_path / "plain"), alpha(tmp_path / "shuffled"))


def test_gates_are_recorded_and_dead_ones_are_named(data_dir, tmp_path, caplog):
    learned = ("--sublora.allocation_mode=learned", "--sublora.allocation_scope=layer")
    train(configure(data_dir, tmp_path / "wide", *learned))
    assert "no gradient" not in caplog.text
    evaluations = [r for r in metrics_without_times(tmp_path / "wide") if r["kind"] == "eval"]
    assert all(list(r["gates"].values()) == r["gamma"] and r["dead_gates"] == 0 for r in evaluations)
    # A transition far narrower than one coordinate, between two of them.
    train(configure(data_dir, tmp_path / "dead", *learned, "--sublora.gating_steepness=1000000"))
    assert "the gates of layer0" in caplog.text and "no gradient" in caplog.text
