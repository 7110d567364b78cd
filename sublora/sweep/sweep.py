"""A sweep: choose the learning rates, then take every run of the grid from training to a verified certificate."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from sublora.config import Config
from sublora.console import write_table
from sublora.errors import ConfigError, SubloraError
from sublora.run_folder import RunFolder
from sublora.sweep.grid import Grid, Planned, read_grid
from sublora.sweep.launchers import Launcher
from sublora.sweep.learning_rates import choose, measured, perform_trial, record, trials
from sublora.sweep.queue import Status, Task, work_off
from sublora.sweep.results import finished
from sublora.sweep.run import perform_run
from sublora.sweep.table import live_table, run_numbers, status_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a sweep is run.

    only: glob of the runs' names.
    launcher: "local" or "slurm".
    jobs: how many at a time; None is 1 on this machine, and all of them with Slurm.
    slurm: parameters of sbatch.
    dry_run: print what would be submitted, and do nothing.
    """

    only: str = "*"
    launcher: str = "local"
    jobs: int | None = None
    slurm: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False


def sweep(path: Path, options: Options, tell: Callable[[Table], None] = write_table) -> None:
    """Run a grid. What is finished is skipped, and what was interrupted goes on where it was.

    Args:
        path: grid file.
        options: how to run it.
        tell: gets the table of what was done, or with a dry run of what would be.

    Raises:
        SubloraError: the grid or the options are wrong, or runs failed twice; the others are done then.
    """
    grid = read_grid(path)
    chosen = grid.runs(options.only)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs is {options.jobs}, but must be at least 1")
    launcher = Launcher(options.launcher, grid.work / "jobs", options.slurm)
    if options.dry_run:
        tell(_plan(grid, chosen, launcher))
        return
    # Read by OpenMP and BLAS when a job starts. Jobs inherit the environment, from Slurm too.
    if threads := _config(grid, chosen[0], None).system.threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if grid.source:
        from sublora.corpus.prepare import prepare

        prepare(grid.source, Path(_config(grid, chosen[0], None).data.dataset_dir))
    with _interruptible():
        rates = _learning_rates(grid, chosen, launcher, options, tell)
        tasks = [_run_task(grid, run, rates) for run in chosen]
        _work(tasks, "runs", launcher, options, lambda task: run_numbers(RunFolder(grid.results / task.name)), tell)


def _config(grid: Grid, run: Planned, rate: float | None) -> Config:
    rates = {} if rate is None else {"optimizer__learning_rate": rate}
    return grid.config(run.variant, run.seed, grid.work / "runs" / run.name, **rates)


def _only_rate(grid: Grid, chosen: Sequence[Planned]) -> dict[str, float]:
    """Return the learning rate per variant of a grid that leaves no choice, {} for one that does."""
    rates = grid.learning_rates
    return {run.variant.name: rates[0] for run in chosen} if len(rates) == 1 else {}


def _learning_rates(
    grid: Grid, chosen: Sequence[Planned], launcher: Launcher, options: Options, tell: Callable[[Table], None]
) -> dict[str, float]:
    """Return the learning rate per variant, after the trials that are missing; {} where the configured one is used."""
    if rates := _only_rate(grid, chosen):
        return rates
    wanted = trials(grid, {run.variant.name: run.variant for run in chosen}.values())
    known = measured(grid, wanted)
    tasks = [
        Task(
            trial.name,
            perform_trial,
            (json.dumps(trial.config.to_dict()), trial.variant.name),
            Path(trial.config.login.out_dir),
            grid.tuning_iters,
            Status.FINISHED if trial.name in known else Status.WAITING,
        )
        for trial in wanted
    ]

    def numbers(task: Task) -> dict[str, float]:
        outcome = measured(grid, [t for t in wanted if t.name == task.name]).get(task.name)
        return {} if outcome is None or outcome.held_out_bpd is None else {"held-out": outcome.held_out_bpd}

    if any(task.status is Status.WAITING for task in tasks):
        _work(tasks, "learning rates", launcher, options, numbers, tell)
    outcomes = list(measured(grid, wanted).values())
    if outcomes:
        record(grid, outcomes)
    return choose(outcomes)


def _run_task(grid: Grid, run: Planned, rates: dict[str, float]) -> Task:
    config = _config(grid, run, rates.get(run.variant.name))
    results, candidates = RunFolder(grid.results / run.name), len(grid.runs())
    done = finished(results, config, candidates)
    return Task(
        run.name,
        perform_run,
        (json.dumps(config.to_dict()), str(results.path), str(candidates)),
        Path(config.login.out_dir),
        config.training.max_iters,
        Status.FINISHED if done else Status.WAITING,
    )


def _work(
    tasks: Sequence[Task],
    title: str,
    launcher: Launcher,
    options: Options,
    numbers: Callable[[Task], dict[str, float]],
    tell: Callable[[Table], None],
) -> None:
    """Run tasks behind the live table, and tell the table at the end.

    Raises:
        SubloraError: some failed twice.
    """
    jobs = options.jobs or (1 if launcher.kind == "local" else len(tasks))
    known: dict[str, dict[str, float]] = {}

    def results(task: Task) -> dict[str, float]:
        # A finished run does not change: its certificate is read once.
        if task.name not in known:
            known[task.name] = numbers(task)
        return known[task.name]

    def table(height: int | None) -> Table:
        return status_table(title, tasks, jobs, results, height)

    with live_table(table) as show:
        work_off(tasks, launcher, jobs, show)
    tell(table(None))
    if failed := [task for task in tasks if task.status is Status.FAILED]:
        raise SubloraError(
            f"{len(failed)} of {len(tasks)} failed twice, the first is {failed[0].name}: {failed[0].error} "
            f"(logs in {launcher.folder / failed[0].name})"
        )


def _plan(grid: Grid, chosen: Sequence[Planned], launcher: Launcher) -> Table:
    """Return the table of a dry run."""
    table = Table(title=f"would be submitted to {launcher.describe()}", title_justify="left")
    for column in ("job", "what", "steps", "learning rate"):
        table.add_column(column, justify="left" if column in ("job", "what") else "right", no_wrap=True)
    wanted = trials(grid, {run.variant.name: run.variant for run in chosen}.values())
    known = measured(grid, wanted)
    missing = [trial for trial in wanted if trial.name not in known]
    for trial in missing:
        table.add_row(trial.name, "short training", f"{grid.tuning_iters:,}", f"{trial.learning_rate:g}")
    rates = _only_rate(grid, chosen) or choose(known.values())
    undecided = {trial.variant.name for trial in missing}
    for run in chosen:
        config = _config(grid, run, rates.get(run.variant.name))
        decided = run.variant.name not in undecided
        done = decided and finished(RunFolder(grid.results / run.name), config, len(grid.runs()))
        table.add_row(
            run.name,
            "nothing, it is finished" if done else "train, bounds, verify",
            f"{config.training.max_iters:,}",
            f"{config.optimizer.learning_rate:g}" if decided else "the best of those",
        )
    return table


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end a sweep as Ctrl-C does, so that its jobs end with it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # A shell starts what it puts in the background with SIGINT ignored, jobs inherit that, and SIGINT is what ends a
    # job on this machine.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
