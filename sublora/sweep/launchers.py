"""Where jobs run: processes on this machine, or Slurm, both through submitit.

submitit stores the function and its arguments in a file of its own for the job to load; ours are strings only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sublora.errors import SubloraError

LAUNCHERS = ("local", "slurm")
# Minutes. A run resumes after its time is over, so this only ends what hangs.
_LOCAL_LIMIT = 7 * 24 * 60
_SLURM_LIMIT = 24 * 60


class Job(Protocol):
    """What is used of a submitit job."""

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""

    def exception(self) -> BaseException | None:
        """What it failed with."""

    def cancel(self) -> None:
        """End it."""


class Launcher:
    """Starts jobs, each with a folder for its logs.

    Args:
        kind: "local" or "slurm".
        folder: parent of the jobs' folders.
        slurm: parameters of sbatch as submitit names them, as in `{"partition": "gpu", "cpus_per_task": 4}`.

    Raises:
        SubloraError: an unknown kind or parameter, parameters without Slurm.
    """

    def __init__(self, kind: str, folder: Path, slurm: Mapping[str, Any]) -> None:
        if slurm and kind != "slurm":
            raise SubloraError("--slurm options need --launcher slurm")
        self.kind, self.folder = kind, folder
        self.parameters: dict[str, Any] = {"timeout_min": _LOCAL_LIMIT}
        if kind == "slurm":
            from submitit import SlurmExecutor

            # The one list of what submitit accepts; its own check needs Slurm, and a dry run must not.
            legal = SlurmExecutor._valid_parameters()
            if unknown := sorted(set(slurm) - legal):
                raise SubloraError(f"unknown option --slurm.{unknown[0]}; known: {', '.join(sorted(legal))}")
            self.parameters = {"time": _SLURM_LIMIT, **slurm}

    def describe(self) -> str:
        """Return what jobs are submitted with, in words."""
        listed = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"slurm ({listed})" if self.kind == "slurm" else "processes on this machine"

    def submit(self, name: str, function: Any, arguments: Sequence[str]) -> Job:
        """Start `function(*arguments)` as a job.

        Raises:
            SubloraError: Slurm is not installed here, or did not take the job.
        """
        import submitit

        folder = self.folder / name
        if self.kind == "local":
            local = submitit.LocalExecutor(folder)
            local.update_parameters(**self.parameters, gpus_per_node=_gpus())
            return local.submit(function, *arguments)
        try:
            slurm = submitit.SlurmExecutor(folder)
            slurm.update_parameters(**{"job_name": name, **self.parameters})
            return slurm.submit(function, *arguments)
        except (RuntimeError, ValueError) as error:
            raise SubloraError(f"Slurm did not take {name}: {error}") from error


def _gpus() -> int:
    # submitit hides the GPUs of the machine from a local job unless it is given some.
    import torch

    return torch.cuda.device_count()
