"""The live table of a sweep: every run, its status, and the time that is left."""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sublora.report.analysis.tables import at_most
from sublora.run_folder import RunFolder
from sublora.sweep.queue import Status, Task

# Training's part of a run's time, until a run has been seen to the end.
TRAINING_SHARE = 0.7
# Lines of a terminal that are not rows of the table.
_FRAME = 7


def steps_taken(task: Task) -> int:
    """Return the training steps that a task has recorded; 0 before the first record."""
    try:
        with RunFolder(task.folder).metrics.open("rb") as file:
            file.seek(max(file.seek(0, 2) - 8192, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        # The first line may be cut by the window, the last by the writer.
        if line.startswith("{") and line.endswith("}"):
            return int(json.loads(line)["iter"])
    return 0


def seconds_left(tasks: Sequence[Task], jobs: int, fractions: Sequence[float]) -> float:
    """Return the time until all tasks are done; NaN while nothing is known.

    A task takes as long as the finished ones did on average; before any has finished, as the running ones let expect.

    Args:
        tasks: with the seconds they have taken.
        jobs: how many run at a time.
        fractions: how much of each task is done, 0 to 1.
    """
    pairs = list(zip(tasks, fractions, strict=True))
    known = [task.seconds for task in tasks if task.status is Status.FINISHED and task.attempts]
    known = known or [t.seconds / f for t, f in pairs if t.status is Status.RUNNING and f > 0]
    if not known:
        return math.nan
    each = sum(known) / len(known)
    running = [max(each - t.seconds, 0.0) for t, _ in pairs if t.status is Status.RUNNING]
    waiting = each * sum(t.status is Status.WAITING for t in tasks)
    return max([(sum(running) + waiting) / jobs, *running])


def duration(seconds: float) -> str:
    """Return a time in words."""
    if math.isnan(seconds):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary(tasks: Sequence[Task], jobs: int) -> str:
    """Return the state of a sweep in one line."""
    counts = [f"{n} {status}" for status in Status if (n := sum(task.status is status for task in tasks))]
    left = seconds_left(tasks, jobs, [_fraction(task) for task in tasks])
    open_tasks = any(task.status in (Status.WAITING, Status.RUNNING) for task in tasks)
    return f"{len(tasks)}: {', '.join(counts)}" + (f"; about {duration(left)} left" if open_tasks else "")


def _fraction(task: Task) -> float:
    return TRAINING_SHARE * steps_taken(task) / max(task.iterations, 1) if task.status is Status.RUNNING else 0.0


def status_table(
    title: str, tasks: Sequence[Task], jobs: int, results: Callable[[Task], dict[str, float]], height: int | None = None
) -> Table:
    """Return the table of a sweep.

    Args:
        title: what the tasks are.
        tasks: one row each.
        jobs: how many run at a time.
        results: the numbers of a finished task, by name of the column.
        height: lines of the terminal; rows of what is finished or waits give way. None shows all.
    """
    shown, hidden = _fit(tasks, height)
    rows = [(task, results(task) if task.status is Status.FINISHED else {}) for task in shown]
    columns = list(dict.fromkeys(name for _, numbers in rows for name in numbers))
    caption = f"not shown: {hidden}" if hidden else None
    table = Table(title=f"{title}, {summary(tasks, jobs)}", caption=caption, title_justify="left")
    table.add_column("run", no_wrap=True)
    table.add_column("status")
    for name in ("step", "time", *columns):
        table.add_column(name, justify="right")
    for task, numbers in rows:
        table.add_row(task.name, *_cells(task), *(_number(numbers.get(name)) for name in columns))
    return table


def _fit(tasks: Sequence[Task], height: int | None) -> tuple[Sequence[Task], int]:
    """Choose the rows for a terminal of so many lines: what runs or failed, then the next, then the last finished."""
    if height is None or len(tasks) <= (room := max(height - _FRAME, 1)):
        return tasks, 0
    order = (Status.RUNNING, Status.FAILED, Status.WAITING, Status.FINISHED)
    chosen = {task.name for task in sorted(tasks, key=lambda task: order.index(task.status))[:room]}
    return [task for task in tasks if task.name in chosen], len(tasks) - len(chosen)


def _cells(task: Task) -> tuple[str, str, str]:
    status = task.status.value
    if task.status is Status.FINISHED and not task.attempts:
        status = "finished before"
    elif task.attempts > 1:
        status += ", second attempt"
    steps = f"{steps_taken(task):,} of {task.iterations:,}" if task.status is Status.RUNNING else ""
    return status, steps, duration(task.seconds) if task.attempts else ""


def _number(value: float | None) -> str:
    return "" if value is None else at_most(value)


@contextmanager
def live_table(table: Callable[[int | None], Table]) -> Iterator[Callable[[], None]]:
    """Show a table that changes, on a terminal; print it once at the end elsewhere.

    Args:
        table: makes the table for a terminal of so many lines.

    Yields:
        A function that shows the table as it is now.
    """
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with Live(table(console.height), console=console, auto_refresh=False, transient=True) as live:
        # The table lets lines through above itself, but only those written to the stream that it put in place.
        handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
        streams = [handler.setStream(sys.stderr) for handler in handlers]
        try:
            yield lambda: live.update(table(console.height), refresh=True)
        finally:
            for handler, stream in zip(handlers, streams, strict=True):
                handler.setStream(stream or sys.stderr)


def run_numbers(run: RunFolder) -> dict[str, float]:
    """Return the held-out loss and the bound of a finished run, by name."""
    from sublora.certificate.reading import read_certificate
    from sublora.report.analysis.tables import held_out_loss

    certificate = read_certificate(run.certificate)
    main, found = certificate.headline, held_out_loss(certificate)
    numbers = {f"held-out {main.name}": found[0]} if found else {}
    return {**numbers, f"certified {main.name}": main.bound}
