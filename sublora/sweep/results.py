"""What is kept of a finished run, and whether it is the run that the grid asks for."""

import json
from typing import Any

import yaml

from sublora.certificate.reading import read_certificate
from sublora.certificate.selection import read_selection
from sublora.config import Config
from sublora.errors import CertificateError, ConfigError
from sublora.files import canonical_json, sha256, write_bytes, write_text
from sublora.run_folder import RunFolder

# Where a run is written and what it runs on does not change its numbers.
_FREE = ("login", "system.device", "system.threads", "data.dataset_dir", "data.dataset", "model.best_checkpoint_path")


def settings(config: Config, *, bounds: bool = True) -> dict[str, Any]:
    """Return what decides the numbers of a run, as `{"section.key": value}`; without `bounds`, those of training."""
    flat = {f"{s}.{key}": value for s, keys in config.to_dict().items() for key, value in keys.items()}
    free = _FREE if bounds else (*_FREE, "bounds")
    return {name: v for name, v in flat.items() if name not in free and name.partition(".")[0] not in free}


def settings_sha256(config: Config, *, bounds: bool = True) -> str:
    """Return the hash of `settings`."""
    return sha256(canonical_json(settings(config, bounds=bounds)))


def difference(run: RunFolder, config: Config, *, bounds: bool = True) -> str:
    """Return the first setting in which a run's folder differs from a configuration, in words; "" where none does.

    A key that the folder does not record, because it was written before the key existed, is not compared.

    Raises:
        ConfigError: the recorded configuration is damaged.
    """
    try:
        recorded = yaml.safe_load(run.config.read_text())
        for name, value in settings(config, bounds=bounds).items():
            section, _, key = name.partition(".")
            then = recorded.get(section, {}).get(key, value)
            if then != value:
                return f"{name}={then!r}, not {value!r}"
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise ConfigError(f"{run.config} is missing or damaged: remove {run.path} and run again") from error
    return ""


def finished(run: RunFolder, config: Config, candidates: int) -> bool:
    """Whether a folder of results holds the verified certificate of this configuration, as one of `candidates`.

    Raises:
        ConfigError: it holds a finished run with other settings: nothing is overwritten that somebody may have quoted.
    """
    if not run.verification.exists():
        return False
    try:
        certificate = read_certificate(run.certificate)
        selection = read_selection(run, certificate)
        verified = json.loads(run.verification.read_text())["certificate"] == certificate.digest
    except (CertificateError, ValueError, KeyError, TypeError):
        # Damaged: what is kept is copied again from the working folder, or made again.
        return False
    if other := difference(run, config):
        raise ConfigError(
            f"{run.path} holds a run with {other}: remove it, or give the sweep another folder of results"
        )
    return verified and selection is not None and selection.candidates == candidates


def keep(work: RunFolder, results: RunFolder, seconds: dict[str, float]) -> None:
    """Copy what is kept of a verified run to its folder of results.

    Args:
        work: where the run was made, with its checkpoints and losses.
        results: where it is kept.
        seconds: time that each step took.
    """
    results.path.mkdir(parents=True, exist_ok=True)
    # The verification comes last: a folder that has it has the others.
    results.verification.unlink(missing_ok=True)
    for path in (work.config, work.metrics, work.message, work.certificate, work.selection):
        write_bytes(results.path / path.name, path.read_bytes())
    record = {
        "certificate": read_certificate(results.certificate).digest,
        "how": "full replay in another process",
        "seconds": {step: round(value, 1) for step, value in seconds.items()},
    }
    write_text(results.verification, json.dumps(record, indent=2) + "\n")
