"""Runs that are killed, divided between processes, out of disk space, or diverging."""

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from sublora.config import load_config
from sublora.corpus.prepare import prepare
from sublora.errors import ConfigError, TrainingError
from sublora.seeds import stream
from sublora.training.checkpoint import BEST, LAST, load_checkpoint
from sublora.training.guard import DivergenceGuard
from sublora.training.loop import train


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    words = ["union", "state", "of", "the", "congress", "treaty", "peace", "revenue"]
    rng = stream(0, "words")
    (folder / "speech.txt").write_text("\n\n".join(" ".join(rng.choice(words, 12)) for _ in range(120)))
    prepare("text", folder / "data", paths=[folder / "speech.txt"])
    return folder / "data"


def flags(data_dir, out_dir, *extra):
    return [
        f"--data.dataset_dir={data_dir}", f"--login.out_dir={out_dir}", "--data.batch_size=4", "--data.block_size=16",
        "--model.n_layer=2", "--model.n_head=2", "--model.n_embd=16", "--sublora.intrinsic_dim=60",
        "--training.max_iters=50", "--training.eval_interval=10", "--training.eval_iters=2",
        "--optimizer.learning_rate=0.05", "--optimizer.weight_decay=0", "--system.device=cpu", *extra,
    ]  # fmt: skip


def command(data_dir, out_dir, *extra, launcher=("-m",)):
    return [sys.executable, *launcher, "sublora", "train", *flags(data_dir, out_dir, *extra)]


def alpha(out_dir, name=LAST):
    return load_checkpoint(out_dir / name).tensors["subspace_params"]


def records(out_dir):
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_are_one(data_dir, tmp_path):
    extra = ["--sublora.allocation_mode=learned", "--training.gradient_accumulation_steps=2"]
    train(load_config(flags(data_dir, tmp_path / "one", *extra)))
    # A port of the system's choice: several suites may run on one machine.
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    two = subprocess.run(
        command(data_dir, tmp_path / "two", *extra, launcher=torchrun), capture_output=True, text=True, timeout=300
    )
    assert two.returncode == 0, two.stderr
    one, other = (load_checkpoint(tmp_path / name / LAST) for name in ("one", "two"))
    assert one.iteration == other.iteration == 50
    for name in ("subspace_params", "gating_params"):
        assert float(one.tensors[name].abs().max()) > 0.01
        torch.testing.assert_close(one.tensors[name], other.tensors[name], rtol=0, atol=1e-5)
    evals = [[r for r in records(tmp_path / name) if r["kind"] == "eval"] for name in ("one", "two")]
    assert [r["iter"] for r in evals[0]] == [r["iter"] for r in evals[1]]
    assert evals[0][-1]["val_bpd"] == pytest.approx(evals[1][-1]["val_bpd"], abs=1e-5)


def test_a_batch_that_cannot_be_divided_is_an_error(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(ConfigError, match=r"data.batch_size=4 cannot be divided between 3 processes"):
        train(load_config(flags(data_dir, tmp_path)))


def test_killed_at_any_moment(data_dir, tmp_path):
    extra = ["--training.eval_interval=3", "--training.max_iters=300", "--sublora.lora_dropout=0.2"]
    train(load_config(flags(data_dir, tmp_path / "whole", *extra)))
    rng, out_dir, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(2):
        seen = load_checkpoint(out_dir / LAST).iteration if (out_dir / LAST).exists() else -1
        process = subprocess.Popen(command(data_dir, out_dir, *extra), stderr=subprocess.DEVNULL)
        # Wait until it has got further than the last one, then any moment is as good as another.
        while process.poll() is None and (
            not (out_dir / LAST).exists() or load_checkpoint(out_dir / LAST).iteration <= seen
        ):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert torch.isfinite(alpha(out_dir)).all()
    assert kills
    # A kill in the middle of writing leaves these; they are cleared away.
    (out_dir / f".{LAST}.123.tmp").write_bytes(b"half of a checkpoi")
    with (out_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "it')
    train(load_config(flags(data_dir, out_dir, *extra)))
    assert torch.equal(alpha(out_dir), alpha(tmp_path / "whole"))
    assert torch.equal(alpha(out_dir, BEST), alpha(tmp_path / "whole", BEST))
    assert not list(out_dir.glob(".*.tmp"))
    lines = [records(path) for path in (tmp_path / "whole", out_dir)]
    assert [(r["kind"], r["iter"]) for r in lines[0]] == [(r["kind"], r["iter"]) for r in lines[1]]


@pytest.mark.parametrize("good_writes", [0, 3, 4, 7])
def test_a_full_disk_loses_nothing(data_dir, tmp_path, monkeypatch, good_writes):
    train(load_config(flags(data_dir, tmp_path / "whole")))
    left, fsync = [good_writes], os.fsync

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    out_dir = tmp_path / "full"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises((TrainingError, OSError), match="No space left on device"):
            train(load_config(flags(data_dir, out_dir)))
    assert not list(out_dir.glob(".*.tmp"))
    for path in out_dir.glob("*.safetensors"):
        assert torch.isfinite(load_checkpoint(path).tensors["subspace_params"]).all()
    train(load_config(flags(data_dir, out_dir)))
    assert torch.equal(alpha(out_dir), alpha(tmp_path / "whole"))


def test_compiled_is_close(data_dir, tmp_path):
    extra = ["--training.max_iters=3", "--model.n_layer=1", "--training.eval_iters=1"]
    train(load_config(flags(data_dir, tmp_path / "plain", *extra)))
    done = subprocess.run(
        command(data_dir, tmp_path / "compiled", *extra, "--system.compile=true"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(alpha(tmp_path / "compiled"), alpha(tmp_path / "plain"), rtol=0, atol=1e-4)


def test_a_spike_stops_and_a_healthy_run_does_not(tmp_path):
    uniform, rng = math.log(257), stream(0, "losses")
    guard = DivergenceGuard(257, tmp_path)
    for step in range(400):
        # From 1.2 times the uniform code down to a third of it, with noise and a bad batch now and then.
        healthy = uniform * (1.2 - 0.9 * min(step / 300, 1)) * (1 + 0.2 * rng.standard_normal())
        guard.check(healthy * (3 if step % 50 == 49 else 1), 1.0, step, 0.1)
    with pytest.raises(TrainingError, match=r"risen to .* at step 4\d\d, learning rate 0.1: .* checkpoint is none"):
        for step in range(400, 450):
            guard.check(3.4 * uniform, 1.0, step, 0.1)
    with pytest.raises(TrainingError, match="the loss is nan"):
        DivergenceGuard(257, tmp_path).check(math.nan, 1.0, 0, 0.1)


def test_a_diverging_run_names_its_best_checkpoint(data_dir, tmp_path):
    with pytest.raises(TrainingError, match=rf"the loss has risen .* last good checkpoint is .*{BEST}"):
        train(load_config(flags(data_dir, tmp_path, "--optimizer.learning_rate=30", "--training.eval_interval=1000")))
