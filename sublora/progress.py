"""Progress of long work: a bar with the time left on a terminal, a log line every ten seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far a loop is, on standard error.

    Args:
        description: what is being done, as in "scoring".
        total: steps in all; None when it is not known, and then no time left is shown.

    Yields:
        A function that is called with the number of steps done since its last call.
    """
    if sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _Lines(description, total)


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
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
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance(steps: int) -> None:
            bar.advance(task, steps)

        yield advance


class _Lines:
    """A log line at most every `SECONDS_BETWEEN_LINES`; none for work that is done before the first is due."""

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self.start = self.last_line = time.monotonic()

    def __call__(self, steps: int) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        elapsed = now - self.start
        if self.total and self.done:
            left = elapsed * max(self.total - self.done, 0) / self.done
            log.info("%s: %d of %d, %.0f s, about %.0f s left", self.description, self.done, self.total, elapsed, left)
        else:
            log.info("%s: %d, %.0f s", self.description, self.done, elapsed)
