"""One run of a sweep: train, certify, verify, and keep the results. Each step is done once, whatever interrupts it."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sublora.certificate.selection import write_selection
from sublora.config import Config, config_from_json
from sublora.errors import CertificateError, ConfigError, SubloraError
from sublora.files import write_text
from sublora.run_folder import RunFolder
from sublora.sweep.results import difference, keep, settings_sha256


def perform_run(config_json: str, results: str, candidates: str) -> None:
    """Take the steps of a run that are not done yet.

    This is what a launcher submits, so its arguments are strings.

    Args:
        config_json: the configuration as JSON; login.out_dir is the working folder.
        results: folder of the run's results.
        candidates: number of certificates that the best will be chosen from.

    Raises:
        SubloraError: the folder belongs to other settings or to another process, or a step failed.
    """
    config = config_from_json(config_json)
    run = RunFolder(Path(config.login.out_dir))
    with alone_in(run):
        if run.config.exists() and (other := difference(run, config, bounds=False)):
            raise ConfigError(
                f"{run.path} holds a run with {other}: remove it, or give the sweep another folder of work"
            )
        steps = _Steps(run.steps)
        trained, all_settings = settings_sha256(config, bounds=False), settings_sha256(config)
        steps.take("train", trained, lambda: _train(config))
        steps.take("bounds", all_settings, lambda: _certify(config))
        steps.take("verify", all_settings, lambda: verify_elsewhere(run, config))
        write_text(run.config, config.to_yaml())
        write_selection(run, int(candidates))
        keep(run, RunFolder(Path(results)), steps.seconds())


@contextmanager
def alone_in(run: RunFolder) -> Iterator[None]:
    """Hold a folder for this process; it is free again when the process ends, however it ends.

    Raises:
        SubloraError: another process holds it.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.lock, timeout=0):
            yield
    except Timeout as error:
        raise SubloraError(f"another process works in {run.path}: wait for it, or end it") from error


class _Steps:
    """Which steps of a run are done, with which settings, and how long they took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = json.loads(self.path.read_text()) if self.path.exists() else {}

    def take(self, name: str, settings: str, action: Callable[[], None]) -> None:
        """Take a step unless it was taken with these settings; later ones must then be taken again."""
        if self.done.get(name, {}).get("settings") == settings:
            return
        start = time.monotonic()
        action()
        names = list(self.done)
        earlier = names[: names.index(name)] if name in names else names
        self.done = {n: self.done[n] for n in earlier}
        self.done[name] = {"settings": settings, "seconds": time.monotonic() - start}
        write_text(self.path, json.dumps(self.done, indent=2) + "\n")

    def seconds(self) -> dict[str, float]:
        """Return how long each step took, from its last start."""
        return {name: step["seconds"] for name, step in self.done.items()}


def _train(config: Config) -> None:
    from sublora.training.loop import train

    train(config)


def _certify(config: Config) -> None:
    from sublora.certificate.issue import certify

    certify(config)


def verify_elsewhere(run: RunFolder, config: Config) -> None:
    """Verify a certificate in another process, so that nothing but the bytes is shared with the one that issued it.

    Args:
        run: holds certificate and message.
        config: names the corpus, and the base where it is pretrained.

    Raises:
        CertificateError: it was not verified; says why.
    """
    command = [sys.executable, "-m", "sublora", "verify", str(run.path)]
    command += ["--data", str(Path(config.data.dataset_dir, config.data.dataset))]
    if base := config.prior.base:
        command += ["--base", base]
    why = ""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as check:
        # It takes as long as measuring did: what it says is passed on while it runs.
        try:
            for line in check.stderr or ():
                sys.stderr.write(line)
                why = line.strip() or why
        except BaseException:
            # Interrupted: nobody waits for the other process.
            check.kill()
            raise
    if check.returncode:
        why = why or f"exit status {check.returncode}"
        raise CertificateError(f"the certificate in {run.path} was not verified: {why}")
