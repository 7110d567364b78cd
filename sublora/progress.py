"""Progress of long work: a bar with the time left on a terminal, a log line every ten seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Says that so many steps are done since the last call, and how things stand."""

    def __call__(self, steps: int, note: str = "") -> None:
        """Say that `steps` more are done, and perhaps how things stand."""


@contextmanager
def progress(description: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
    """Show how far a loop is, on standard error.

    Args:
        description: what is being done, as in "scoring".
        total: steps in all; None when it is not known, and then no time left is shown.
        done: steps that an earlier run did, which say nothing about this one's speed.

    Yields:
        A function that is called with the number of steps done since its last call, and a note to show.
    """
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        with _bar(description, total, done) as advance:
            yield advance
    else:
        yield _Lines(description, total, done)


@contextmanager
def _bar(description: str, total: int | None, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: int, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


class _Lines:
    """A log line at most every `SECONDS_BETWEEN_LINES`; none for work that is done before the first is due."""

    def __init__(self, description: str, total: int | None, done: int) -> None:
        self.description, self.total, self.done, self.before = description, total, done, done
        self.start = self.last_line = time.monotonic()

    def __call__(self, steps: int, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        elapsed = now - self.start
        line = f"{self.description}: {self.done}"
        if self.total:
            left = elapsed * max(self.total - self.done, 0) / max(self.done - self.before, 1)
            line += f" of {self.total}, {elapsed:.0f} s, about {left:.0f} s left"
        else:
            line += f", {elapsed:.0f} s"
        log.info("%s", f"{line}, {note}" if note else line)
