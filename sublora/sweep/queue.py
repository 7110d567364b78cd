"""The queue of a sweep: so many jobs at a time, a failed one once more, and what became of each."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sublora.sweep.launchers import Job, Launcher

log = logging.getLogger(__name__)

ATTEMPTS = 2
SECONDS_BETWEEN_LOOKS = 1.0


class Status(StrEnum):
    """Where a task is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass
class Task:
    """One job to be done, and what became of it.

    name: of the job.
    function, arguments: what is submitted.
    folder: where it works; its metrics tell how far it is.
    iterations: training steps it will take.
    status: a task that is finished from the start is skipped.
    attempts: how often it was started.
    seconds: how long the last attempt has taken.
    error: why the last attempt failed.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[str, ...]
    folder: Path
    iterations: int
    status: Status = Status.WAITING
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""


def work_off(tasks: Sequence[Task], launcher: Launcher, jobs: int, show: Callable[[], None]) -> None:
    """Run tasks until each is finished or has failed twice. Failures are recorded, not raised.

    Args:
        tasks: in the order in which they start; a failed one goes to the end.
        launcher: where they run.
        jobs: how many run at a time.
        show: called at every look.
    """
    waiting = [task for task in tasks if task.status is Status.WAITING]
    running: dict[str, tuple[Task, Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                task.status, task.attempts = Status.RUNNING, task.attempts + 1
                running[task.name] = (task, launcher.submit(task.name, task.function, task.arguments), time.monotonic())
                log.info("%s: started%s", task.name, " once more" if task.attempts > 1 else "")
            show()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for task, job, start in list(running.values()):
                task.seconds = time.monotonic() - start
                if not job.done():
                    continue
                del running[task.name]
                if _conclude(task, job):
                    waiting.append(task)
        show()
    finally:
        # Interrupted: what is done so far is on disk, and the next sweep goes on from there.
        for _, job, _ in running.values():
            job.cancel()


def _conclude(task: Task, job: Job) -> bool:
    """Record how a job ended; return whether it is to be tried again."""
    error = _error_of(job)
    if not error:
        task.status = Status.FINISHED
        log.info("%s: finished in %.0f s", task.name, task.seconds)
        return False
    task.error = error
    again = task.attempts < ATTEMPTS
    task.status = Status.WAITING if again else Status.FAILED
    log.warning("%s: failed%s: %s", task.name, ", is tried once more" if again else " again", error)
    return again


def _error_of(job: Job) -> str:
    """Return why a job failed in one line, "" where it did not."""
    from submitit.core.utils import UncompletedJobError

    try:
        error = job.exception()
    except UncompletedJobError as lost:
        error = lost
    if error is None:
        return ""
    # submitit puts the trace, or what the job wrote, between lines of dashes; its last line says what went wrong.
    parts = re.split(r"^-{4,}\s*$", str(error), flags=re.MULTILINE)
    lines = [line.strip() for line in (parts[1] if len(parts) > 1 else parts[0]).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
