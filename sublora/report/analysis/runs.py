"""Finished runs, read for an analysis of many: one JSON file each, or the folders that training wrote."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from sublora.certificate.model import Certificate
from sublora.certificate.reading import parse_certificate, read_certificate
from sublora.certificate.selection import Selection, read_selection
from sublora.config import Sublora
from sublora.errors import CertificateError, SubloraError
from sublora.files import read_json
from sublora.report.analysis.metrics import check_metrics, loss_unit, read_metrics
from sublora.run_folder import RunFolder

# The order of modes in tables and legends; others follow by name.
MODES = ("uniform", "fixed-aheavy", "fixed-equal", "fixed-bheavy", "learned", "spectral", "practised")
_FIXED = {0.2: "fixed-aheavy", 0.5: "fixed-equal", 0.8: "fixed-bheavy"}

# A sweep names its runs by their configurations, which may differ in more than the allocation.
_OF_A_SWEEP = re.compile(r"sublora-d(?P<d>\d+)-(?P<mode>.+)-seed(?P<seed>\d+)")


class Configuration(NamedTuple):
    """What is compared: a mode and a number of coordinates. Runs of one configuration differ in their seed."""

    mode: str
    d: int

    def __str__(self) -> str:
        return f"{self.mode}, d = {self.d:,}"


@dataclass(frozen=True)
class Run:
    """One run: what was configured and what came out.

    name: of the file or folder.
    mode: how the coordinates are divided, as in "fixed-bheavy"; of a run of a sweep, the name of its configuration.
    d: number of coordinates.
    D: number of LoRA parameters, None where the run does not record it.
    seed: root seed.
    certificate: None for a run that was not certified.
    metrics: records of training.
    selection: what the certificate claims as one of several (`sublora.certificate.selection`); None where not computed.
    batching: how training cut its batches; None where it is not known.
    """

    name: str
    mode: str
    d: int
    D: int | None
    seed: int
    certificate: Certificate | None
    metrics: list[dict[str, Any]]
    selection: Selection | None = None
    batching: str | None = None

    @property
    def configuration(self) -> Configuration:
        """Its mode and d."""
        return Configuration(self.mode, self.d)

    @property
    def bits(self) -> int:
        """K of a certified run."""
        assert self.certificate
        return self.certificate.message.bits

    def claim(self, metric: str, field: str) -> float:
        """Return a number of one of the claims of a certified run; NaN where it makes no such claim."""
        assert self.certificate
        claim = self.certificate.claim(metric)
        return math.nan if claim is None else float(getattr(claim, field))

    def held_out(self) -> float:
        """Return the held-out bits per token of a certified run; NaN without held-out documents."""
        assert self.certificate
        return self.certificate.held_out.bpd if self.certificate.held_out else math.nan

    @property
    def loss_unit(self) -> str:
        """What the losses in its metrics are in."""
        return loss_unit(self.batching, self.certificate)

    def gamma(self) -> np.ndarray | None:
        """Return the last recorded gamma of every layer; None where nothing is gated."""
        gammas = [r["gamma"] for r in self.metrics if r.get("gamma")]
        return np.array(gammas[-1]) if gammas else None


def load_runs(source: Path | Sequence[Path]) -> list[Run]:
    """Read runs, sorted by d, mode and seed.

    Args:
        source: a folder of runs, or the runs themselves. A run is a JSON file (name, mode, d, D, seed, certificate,
            metrics) or a folder that training wrote, see `RunFolder`.

    Raises:
        SubloraError: nothing there, a damaged file, or two runs with the same mode, d and seed.
    """
    if isinstance(source, Path):
        inside = [path for path in source.glob("*") if RunFolder(path).metrics.exists()]
        paths = [source] if RunFolder(source).metrics.exists() else sorted(inside or source.glob("*.json"))
        if not paths:
            raise SubloraError(
                f"{source} holds no runs: give a folder with one folder or JSON file per run, or the runs themselves"
            )
    else:
        paths = list(source)
    runs: dict[tuple[str, int, int], Run] = {}
    for path in paths:
        run = _read_folder(path) if path.is_dir() else _read_file(path)
        key = (run.mode, run.d, run.seed)
        if key in runs:
            raise SubloraError(
                f"{runs[key].name} and {run.name} have the same mode, d and seed: runs that differ in something else "
                "need modes of their own"
            )
        runs[key] = run
    if not runs:
        raise SubloraError("no runs are given")
    return sorted(runs.values(), key=lambda run: (run.d, mode_order(run.mode), run.seed))


def mode_order(mode: str) -> tuple[int, str]:
    """Return the key that sorts modes."""
    return (MODES.index(mode), "") if mode in MODES else (len(MODES), mode)


def configurations(runs: Iterable[Run]) -> dict[Configuration, list[Run]]:
    """Group runs by mode and d, in the order given."""
    groups: dict[Configuration, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.configuration, []).append(run)
    return groups


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard error over seeds; the error is NaN for one seed."""
    array = np.array(list(values), dtype=np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()), float(error)


def _read_file(path: Path) -> Run:
    record = read_json(path, "the run")
    try:
        needed = {f.name: record[f.name] for f in fields(Run) if f.default is MISSING}
    except (KeyError, TypeError) as error:
        raise SubloraError(f"{path} is no run: it lacks {error}") from error
    needed["certificate"] = _certificate(record["certificate"], f"{path}, certificate")
    try:
        selection = Selection.model_validate_json(json.dumps(record["selection"])) if record.get("selection") else None
    except ValueError as error:
        raise SubloraError(f"{path}, selection, is damaged: {str(error).splitlines()[0]}") from error
    run = Run(**needed, selection=selection, batching=record.get("batching"))
    check_metrics(run.metrics, f"{path}, record")
    return run


def _certificate(written: Any, where: str) -> Certificate | None:
    """Return the certificate in the JSON of a run: as strictly as one in a file of its own."""
    if written is None:
        return None
    certificate = parse_certificate(json.dumps(written, indent=2, ensure_ascii=False) + "\n", where)
    if certificate.compute_digest() != certificate.digest:
        raise CertificateError(f"{where} was changed: its digest does not match its content")
    return certificate


def _read_folder(path: Path) -> Run:
    run = RunFolder(path)
    metrics = read_metrics(run.metrics)
    try:
        config = yaml.safe_load(run.config.read_text())
        sublora, seed = config["sublora"], config["system"]["seed"]
        batching = config.get("data", {}).get("batching")
        mode, d = sublora["allocation_mode"], sublora["intrinsic_dim"]
        if mode == "fixed":
            ratio = sublora["allocation_ratio"]
            mode = _FIXED.get(ratio, f"fixed-{ratio:g}")
        elif mode == "learned" and sublora["allocation_scope"] != Sublora.allocation_scope:
            mode = f"learned-{sublora['allocation_scope']}"
        elif mode == "learned" and sublora.get("gating_granularity") == "module":
            mode = "learned-module"
        named = _OF_A_SWEEP.fullmatch(path.resolve().name)
        if named and (int(named["d"]), int(named["seed"])) == (d, seed):
            mode = named["mode"]
    except OSError as error:
        raise SubloraError(f"cannot read {run.config}: {error.strerror}") from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise SubloraError(f"{run.config} is damaged: {error}") from error
    certificate = read_certificate(run.certificate) if run.certificate.exists() else None
    selection = read_selection(run, certificate) if certificate else None
    D = certificate.prior.D if certificate else None
    return Run(path.resolve().name, mode, d, D, seed, certificate, metrics, selection, batching)
