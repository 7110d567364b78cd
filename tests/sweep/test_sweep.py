"""A sweep from the grid file to verified certificates, and what it does when something is finished, killed or fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from sublora.certificate.reading import read_certificate
from sublora.certificate.selection import read_selection, write_selection
from sublora.certificate.verify import verify
from sublora.cli import main
from sublora.cli.command import Parser
from sublora.cli.sweep import COMMANDS
from sublora.corpus.prepare import prepare
from sublora.errors import CertificateError, ConfigError, SubloraError
from sublora.files import canonical_json
from sublora.report.analysis.runs import load_runs
from sublora.report.pages.suite import write_suite_report
from sublora.run_folder import RunFolder
from sublora.sweep import queue
from sublora.sweep.grid import read_grid
from sublora.sweep.launchers import Launcher
from sublora.sweep.learning_rates import Measured, choose, perform_trial, trials
from sublora.sweep.queue import Status, Task, work_off
from sublora.sweep.results import finished
from sublora.sweep.run import alone_in, perform_run
from sublora.sweep.table import seconds_left, status_table, steps_taken

TINY = {
    "data.batch_size": 8, "data.block_size": 32, "model.n_layer": 2, "model.n_head": 2, "model.n_embd": 16,
    "training.max_iters": 20, "training.eval_interval": 10, "training.eval_iters": 2, "training.log_interval": 5,
    "optimizer.weight_decay": 0.0, "bounds.bound_samples": 60, "system.device": "cpu", "system.threads": 1,
}  # fmt: skip


def write_grid(folder, data_dir, **changes):
    grid = {
        "settings": TINY | {"data.dataset_dir": str(data_dir)},
        "work": str(folder / "work"),
        "results": str(folder / "results"),
        "budgets": [40],
        "seeds": [1, 2],
        "configurations": {
            "uniform": {"sublora.allocation_mode": "uniform"},
            "learned": {"sublora.allocation_mode": "learned"},
        },
        "learning_rates": [0.05, 0.2],
        "tuning_seed": 7,
        "tuning_iters": 5,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return folder / "grid.yaml"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["union", "state", "of", "the", "congress", "treaty", "peace", "revenue"]
    (folder / "speech.txt").write_text("\n\n".join(" ".join(rng.choice(words, 10)) for _ in range(200)))
    return prepare("text", folder / "data", paths=[folder / "speech.txt"])


@pytest.fixture(scope="module")
def swept(data_dir, tmp_path_factory):
    """A folder in which two configurations were run, and what the sweep printed.

    All but one of the trials of learning rates are made here, in this process: starting torch is what takes the time.
    """
    folder = tmp_path_factory.mktemp("sweep")
    path = write_grid(folder, data_dir, seeds=[1])
    grid = read_grid(path)
    for trial in trials(grid, grid.variants)[1:]:
        perform_trial(json.dumps(trial.config.to_dict()), trial.variant.name)
    command = [sys.executable, "-m", "sublora", "sweep", "--config-file", str(path)]
    done = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


NAMES = [f"sublora-d40-{c}-seed{s}" for s in (1,) for c in ("uniform", "learned")]


def test_every_run_ends_with_a_verified_certificate(swept):
    folder, printed = swept
    assert sorted(p.name for p in (folder / "results").iterdir()) == sorted([*NAMES, "tuning"])
    for name in NAMES:
        assert name in printed
        kept = RunFolder(folder / "results" / name)
        assert set(kept.path.iterdir()) == {
            kept.config, kept.metrics, kept.message, kept.certificate, kept.selection, kept.verification,
        }  # fmt: skip
        record = json.loads(kept.verification.read_text())
        assert record["certificate"] == verify(folder / "work" / "runs" / name, None).certificate.digest
        assert set(record["seconds"]) == {"train", "bounds", "verify"}
    assert "2 finished" in printed


def test_learning_rates_are_chosen_and_kept(swept):
    folder, _ = swept
    record = json.loads((folder / "results" / "tuning" / "learning_rates.json").read_text())
    assert (record["seed"], record["iters"], len(record["measured"])) == (7, 5, 4)
    for variant, rate in record["chosen"].items():
        rows = {m["learning_rate"]: m["held_out_bpd"] for m in record["measured"] if m["variant"] == variant}
        assert rows[rate] == min(rows.values())
        config = yaml.safe_load(RunFolder(folder / "results" / f"{variant}-seed1").config.read_text())
        assert config["optimizer"]["learning_rate"] == rate


def test_the_best_of_all_pays_for_the_choice(swept):
    folder, _ = swept
    for name in NAMES:
        run = RunFolder(folder / "results" / name)
        certificate = read_certificate(run.certificate)
        selection = read_selection(run, certificate)
        assert selection.candidates == 2
        assert [c.metric for c in selection.claims] == [c.metric for c in certificate.claims]
        assert all(s.bound >= c.bound for s, c in zip(selection.claims, certificate.claims, strict=True))
        assert selection.claims[0].bound > certificate.claims[0].bound


def test_a_sweep_is_analysed_from_its_folder(swept, tmp_path):
    folder, _ = swept
    runs = load_runs(folder / "results")
    assert sorted(run.name for run in runs) == sorted(NAMES)
    assert all(run.D and run.selection for run in runs)
    write_suite_report(folder / "results", tmp_path / "report")
    assert "The best of 2 certificates is that of" in (tmp_path / "report" / "index.html").read_text()


def test_what_is_finished_is_skipped(swept, caplog, capsys):
    folder, _ = swept
    caplog.set_level("INFO")
    before = {p: p.stat().st_mtime_ns for p in (folder / "results").glob("sublora-*/*")}
    assert main(["sweep", "--config-file", str(folder / "grid.yaml")]) == 0
    assert "started" not in caplog.text
    assert capsys.readouterr().out.count("finished before") == 2
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "results").glob("sublora-*/*")}


def test_finished_means_these_settings_and_an_unbroken_record(swept, tmp_path):
    folder, _ = swept
    grid = read_grid(folder / "grid.yaml")
    run = grid.runs()[0]
    rate = json.loads((grid.results / "tuning" / "learning_rates.json").read_text())["chosen"][run.variant.name]
    config = grid.config(run.variant, run.seed, tmp_path, optimizer__learning_rate=rate)
    kept = RunFolder(grid.results / run.name)
    assert finished(kept, config, 2)
    assert not finished(kept, config, 3)
    assert not finished(RunFolder(tmp_path), config, 2)
    other = grid.config(run.variant, run.seed, tmp_path, optimizer__learning_rate=0.123)
    with pytest.raises(ConfigError, match=r"learning_rate=0\.\d+, not 0\.123"):
        finished(kept, other, 2)


def test_an_interrupted_run_goes_on_where_it_was(swept, data_dir, tmp_path):
    """Killed after training and before certification: training is not repeated, and the numbers are the same."""
    folder, _ = swept
    grid = read_grid(folder / "grid.yaml")
    run = grid.runs()[0]
    work = RunFolder(grid.work / "runs" / run.name)
    rate = yaml.safe_load(work.config.read_text())["optimizer"]["learning_rate"]
    config = grid.config(run.variant, run.seed, work.path, optimizer__learning_rate=rate)
    steps = json.loads(work.steps.read_text())
    work.steps.write_text(json.dumps({"train": steps["train"]}))
    checkpoint = work.last.stat().st_mtime_ns
    digest = read_certificate(work.certificate).digest
    perform_run(json.dumps(config.to_dict()), str(tmp_path / "again"), "4")
    assert work.last.stat().st_mtime_ns == checkpoint
    assert read_certificate(tmp_path / "again").digest == digest
    other = grid.config(run.variant, run.seed, work.path, optimizer__learning_rate=0.123)
    with pytest.raises(ConfigError, match=r"not 0\.123: remove it"):
        perform_run(json.dumps(other.to_dict()), str(tmp_path / "other"), "4")


def test_a_selection_belongs_to_its_certificate(swept, tmp_path):
    folder, _ = swept
    one, two = (RunFolder(folder / "work" / "runs" / name) for name in NAMES[:2])
    run = RunFolder(tmp_path)
    for path in (one.certificate, one.losses, one.message):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    certificate = read_certificate(run.certificate)
    assert read_selection(run, certificate) is None
    write_selection(run, 1)
    assert read_selection(run, certificate).claims[0].bound == certificate.claims[0].bound
    with pytest.raises(CertificateError, match="another certificate"):
        read_selection(run, read_certificate(two.certificate))
    path = run.selection
    path.write_text(path.read_text().replace('"candidates": 1', '"candidates": 2'))
    with pytest.raises(CertificateError, match="was changed"):
        read_selection(run, certificate)
    run.losses.write_bytes(two.losses.read_bytes())
    with pytest.raises(CertificateError, match="do not belong"):
        write_selection(run, 4)


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    run = RunFolder(tmp_path)
    with alone_in(run), pytest.raises(SubloraError, match="another process"), alone_in(run):
        pass
    with alone_in(run):
        pass


class FakeJob:
    def __init__(self, error):
        self.error = error

    def done(self):
        return True

    def exception(self):
        return self.error

    def cancel(self):
        raise AssertionError("it has ended")


class FakeLauncher:
    """Jobs that end at once, with the errors given by name, one per attempt."""

    kind = "local"

    def __init__(self, errors):
        self.errors, self.submitted = errors, []

    def submit(self, name, function, arguments):
        self.submitted.append(name)
        errors = self.errors.get(name, [])
        return FakeJob(errors.pop(0) if errors else None)


def make_tasks(folder, *names):
    return [Task(name, print, (), folder / name, 100) for name in names]


def test_a_failed_run_is_tried_once_more_after_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "SECONDS_BETWEEN_LOOKS", 0.0)
    tasks = make_tasks(tmp_path, "a", "b", "c", "d")
    tasks[3].status = Status.FINISHED
    trace = RuntimeError("Job failed with trace:\n------\nsome frame\nValueError: no luck\n\n------\nSee\n  - logs")
    launcher = FakeLauncher({"a": [trace], "b": [trace, trace]})
    work_off(tasks, launcher, 2, lambda: None)
    assert launcher.submitted == ["a", "b", "c", "a", "b"]
    assert [t.status for t in tasks] == [Status.FINISHED, Status.FAILED, Status.FINISHED, Status.FINISHED]
    assert [t.attempts for t in tasks] == [2, 2, 1, 0]
    assert tasks[1].error == "ValueError: no luck"


def test_a_failure_is_reported_with_its_reason(data_dir, tmp_path, capsys):
    """Through real processes, both attempts: the folder of work belongs to a run with other settings."""
    path = write_grid(tmp_path, data_dir, seeds=[1], learning_rates=[], configurations={"uniform": {}})
    grid = read_grid(path)
    (run,) = grid.runs()
    folder = grid.work / "runs" / run.name
    folder.mkdir(parents=True)
    other = grid.config(run.variant, run.seed, folder, optimizer__learning_rate=0.123)
    RunFolder(folder).config.write_text(other.to_yaml())
    assert main(["sweep", "--config-file", str(path), "--jobs", "2"]) == 2
    captured = capsys.readouterr()
    assert f"1 of 1 failed twice, the first is {run.name}: " in captured.err
    assert "holds a run with optimizer.learning_rate=0.123, not 0.005" in captured.err
    assert "failed, second attempt" in captured.out
    assert not (tmp_path / "results").exists()
    assert len(list((grid.work / "jobs" / run.name).glob("*.err"))) == 2


def test_a_dry_run_for_slurm_needs_no_slurm_and_writes_nothing(data_dir, tmp_path, capsys, monkeypatch):
    path = write_grid(tmp_path, data_dir)
    monkeypatch.setenv("PATH", "")
    arguments = ["--launcher", "slurm", "--slurm.partition", "gpu", "--slurm.cpus_per_task=4", "--dry-run"]
    assert main(["sweep", "--config-file", str(path), *arguments]) == 0
    out = capsys.readouterr().out
    assert "slurm (time=1440, partition=gpu, cpus_per_task=4)" in out
    for name in (*NAMES, "sublora-d40-learned-lr0.05"):
        assert name in out
    assert {p.name for p in tmp_path.iterdir()} == {"grid.yaml"}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put Slurm's commands in the path: sbatch checks a script and keeps it, srun starts a task on this machine."""
    folder, script = tmp_path / "bin", tmp_path / "submitted.sh"
    folder.mkdir()
    commands = {
        "sbatch": f'bash -n "$1" || exit 1\ncp "$1" {script}\necho "Submitted batch job 7"',
        "srun": 'until [[ -x "$1" && "$1" == /* ]]; do shift; done\nexec "$@"',
        "sacct": "exit 1",
    }
    for name, lines in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{lines}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return script


def test_a_job_for_slurm_is_a_script_that_runs(slurm, tmp_path):
    asked = {"partition": "gpu", "cpus_per_task": 4, "gpus_per_node": 1}
    job = Launcher("slurm", tmp_path / "jobs", asked).submit("run-a", canonical_json, ["x"])
    lines = slurm.read_text().splitlines()
    for wanted in ("job-name=run-a", "time=1440", "partition=gpu", "cpus-per-task=4", "gpus-per-node=1", "nodes=1"):
        assert f"#SBATCH --{wanted}" in lines
    assert not job.done()
    place = {
        "JOB_ID": 7,
        "NTASKS": 1,
        "JOB_NUM_NODES": 1,
        "NODEID": 0,
        "PROCID": 0,
        "LOCALID": 0,
        "JOB_NODELIST": "here",
    }
    environment = {**os.environ, **{f"SLURM_{name}": str(value) for name, value in place.items()}}
    subprocess.run(["bash", str(slurm)], env=environment, check=True, capture_output=True)
    assert job.done() and job.exception() is None and job.result() == canonical_json("x")


def test_a_script_that_is_none_is_not_taken(slurm, tmp_path):
    launcher = Launcher("slurm", tmp_path / "jobs", {"setup": ["if true; then"]})
    with pytest.raises(SubloraError, match="Slurm did not take run-a"):
        launcher.submit("run-a", canonical_json, ["x"])
    assert not slurm.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "no run is called 'nothing'"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--slurm.partition", "gpu"], "need --launcher slurm"),
        (["--launcher", "slurm", "--slurm.partitoin=gpu"], "unknown option --slurm.partitoin"),
        (["--launcher", "slurm", "--slurm.partition"], "expected one argument"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_options_are_one_line(arguments, message, data_dir, tmp_path, capsys):
    assert main(["sweep", "--config-file", str(write_grid(tmp_path, data_dir)), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_slurm_takes_its_values_as_yaml():
    words = ["--config-file", "grid.yaml", "--slurm.time", "60", "--slurm.exclusive=true"]
    parser = Parser()
    COMMANDS["sweep"].add_options(parser)
    assert parser.parse_args(words).slurm == {"time": 60, "exclusive": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": [1]}, "unknown key 'budget'.*nearest is 'budgets'"),
        ({"seeds": []}, "lacks 'seeds'"),
        ({"seeds": [1, 1]}, "names a value twice"),
        ({"seeds": "42"}, "must be a list of numbers"),
        ({"tuning_seed": 2}, "must not be one of the seeds"),
        ({"settings": {"system.seed": 3}}, "system.seed is set by the sweep itself"),
        ({"configurations": {"a": {"sublora.alocation_mode": "fixed"}}}, "a: unknown key 'alocation_mode'"),
        ({"base": "missing.yaml"}, "cannot read the config file"),
        ({"budgets": {"forty": {}}}, "budgets must be a list of numbers"),
        ({"budgets": {40: [1]}}, "budget 40: must hold section.key: value"),
        ({"budgets": {40: {"system.seed": 3}}}, "budget 40: system.seed is set by the sweep itself"),
    ],
)
def test_a_wrong_grid_is_named(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_grid(write_grid(tmp_path, tmp_path, **change))


def test_a_budget_has_settings_that_those_of_a_configuration_go_before(tmp_path):
    budgets = {40: {"bounds.bound_samples": 7}, 20: None}
    own = {"sublora.allocation_mode": "learned", "bounds.bound_samples": 9, "budgets": [40, 30]}
    grid = read_grid(write_grid(tmp_path, tmp_path, budgets=budgets, configurations={"uniform": {}, "learned": own}))
    found = {(v.d, v.configuration): grid.config(v, 1, tmp_path).bounds.bound_samples for v in grid.variants}
    everywhere = TINY["bounds.bound_samples"]
    expected = {(40, "uniform"): 7, (40, "learned"): 9, (20, "uniform"): everywhere, (30, "learned"): 9}
    assert found == expected and list(found) == list(expected)


def test_the_grid_of_the_proposal():
    grid = read_grid(Path("config/adaptive_experiments.yaml"))
    names = [run.name for run in grid.runs()]
    assert len(names) == len(set(names)) == 33
    assert "sublora-d1000-fixed-bheavy-seed42" in names
    assert len(grid.runs("*learned-layer*")) == 3
    configs = {run.name: grid.config(run.variant, run.seed, grid.work) for run in grid.runs()}
    assert configs["sublora-d2000-fixed-aheavy-seed999"].sublora.allocation_ratio == 0.2
    assert configs["sublora-d1000-learned-layer-seed42"].sublora.allocation_scope == "layer"
    assert {c.training.max_iters for c in configs.values()} == {1000}
    assert {c.system.seed for c in configs.values()} == {42, 123, 999}


def test_the_grid_of_a_small_budget_differs_from_it_in_the_budget():
    small, large = (read_grid(Path(f"config/{name}.yaml")) for name in ("adaptive_d200", "adaptive_experiments"))
    assert len(small.runs()) == 9
    for run in small.runs():
        twin = next(r for r in large.runs() if r.name == run.name.replace("d200", "d1000"))
        one, other = (
            grid.config(r.variant, r.seed, Path("out")).to_dict() for grid, r in ((small, run), (large, twin))
        )
        one["sublora"]["intrinsic_dim"] = 1000
        assert one == other


def test_the_lowest_loss_chooses_and_a_divergence_does_not():
    rows = [Measured("a", 0.1, 4.0, ""), Measured("a", 0.2, 3.9, ""), Measured("a", 0.3, None, "")]
    assert choose([*rows, Measured("b", 0.1, 5.0, "")]) == {"a": 0.2, "b": 0.1}
    with pytest.raises(SubloraError, match="c diverged at every learning rate"):
        choose([Measured("c", 0.1, None, "")])


def test_the_time_left_by_hand(tmp_path):
    done, running, first, second = make_tasks(tmp_path, "a", "b", "c", "d")
    tasks = [done, running, first, second]
    running.status, running.seconds = Status.RUNNING, 40.0
    assert seconds_left([first], 2, [0.0]) != seconds_left([first], 2, [0.0])  # NaN: nothing is known
    # Before any has finished: a quarter in 40 s is 160 s each; (120 + 160 + 160 + 160) / 2.
    assert seconds_left(tasks, 2, [0.0, 0.25, 0.0, 0.0]) == pytest.approx(300)
    done.status, done.seconds, done.attempts = Status.FINISHED, 100.0, 1
    assert seconds_left(tasks, 2, [1.0, 0.25, 0.0, 0.0]) == pytest.approx((60 + 200) / 2)
    # One is left on many processors: it takes its own time.
    assert seconds_left([done, running], 8, [1.0, 0.25]) == pytest.approx(60)


def test_progress_is_read_from_a_file_that_is_being_written(tmp_path):
    (task,) = make_tasks(tmp_path, "a")
    assert steps_taken(task) == 0
    task.folder.mkdir()
    lines = [json.dumps({"kind": "train", "iter": i, "grad_norm_a": [0.1] * 50}) for i in range(0, 90, 10)]
    RunFolder(task.folder).metrics.write_text("\n".join(lines) + '\n{"kind": "tra')
    assert steps_taken(task) == 80


def test_a_low_terminal_shows_what_runs(tmp_path):
    tasks = make_tasks(tmp_path, *(f"t{i}" for i in range(30)))
    tasks[20].status = Status.RUNNING
    table = status_table("runs", tasks, 1, lambda task: {}, height=12)
    assert len(table.rows) == 5 and table.caption == "not shown: 25"
    assert "t20" in list(table.columns[0].cells)
    assert len(status_table("runs", tasks, 1, lambda task: {}).rows) == 30


def test_the_launcher_for_this_machine_says_so(tmp_path):
    assert Launcher("local", tmp_path, {}).describe() == "processes on this machine"
