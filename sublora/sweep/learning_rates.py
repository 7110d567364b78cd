"""The learning rate of every configuration, chosen from one small grid on a seed of its own.

Modes of allocation scale the gradient differently. One learning rate for all of them would compare how well it happens
to fit each; a rate per configuration, from the same values, compares the modes.
"""

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sublora.config import Config, config_from_json
from sublora.errors import SubloraError, TrainingError
from sublora.files import write_text
from sublora.report.analysis.metrics import read_metrics
from sublora.run_folder import RunFolder
from sublora.sweep.grid import Grid, Variant
from sublora.sweep.results import settings_sha256
from sublora.sweep.run import alone_in

log = logging.getLogger(__name__)

LEARNING_RATES = "learning_rates.json"
# Batches of the evaluation that decides: rates differ by a few hundredths of a bit.
EVALUATION_BATCHES = 40


@dataclass(frozen=True)
class Trial:
    """A short run that measures one learning rate.

    variant: what it is measured for.
    learning_rate: of alpha.
    config: of the run.
    """

    variant: Variant
    learning_rate: float
    config: Config

    @property
    def name(self) -> str:
        """The name of the trial and of its folder."""
        return Path(self.config.login.out_dir).name


@dataclass(frozen=True)
class Measured:
    """The outcome of a trial: held-out bits per token after its last step, None where it diverged.

    settings: hash of the trial's settings; another hash is another trial.
    """

    variant: str
    learning_rate: float
    held_out_bpd: float | None
    settings: str


def trials(grid: Grid, variants: Iterable[Variant]) -> list[Trial]:
    """Return the trials that choose the learning rates of some variants; none where there is nothing to choose."""
    if len(grid.learning_rates) < 2:
        return []
    out = []
    for variant in variants:
        for rate in grid.learning_rates:
            folder = grid.work / "tuning" / f"{variant.name}-lr{rate:g}"
            config = grid.config(
                variant,
                grid.tuning_seed,
                folder,
                optimizer__learning_rate=rate,
                training__max_iters=grid.tuning_iters,
                training__eval_interval=grid.tuning_iters,
                training__eval_iters=EVALUATION_BATCHES,
            )
            out.append(Trial(variant, rate, config))
    return out


def perform_trial(config_json: str, variant: str) -> None:
    """Train for a short time and write the outcome to the trial's folder. Submitted by a launcher."""
    config = config_from_json(config_json)
    run = RunFolder(Path(config.login.out_dir))
    with alone_in(run):
        from sublora.training.loop import train

        try:
            train(config)
            last = [record for record in read_metrics(run.metrics) if record["kind"] == "eval"][-1]
            value = last.get("val_bpd", last["train_bpd"])
        except TrainingError as error:
            # A rate at which training diverges is an answer too.
            log.warning("%s", error)
            value = None
        outcome = Measured(variant, config.optimizer.learning_rate, value, settings_sha256(config, bounds=False))
        write_text(run.outcome, json.dumps(asdict(outcome)) + "\n")


def measured(grid: Grid, wanted: Iterable[Trial]) -> dict[str, Measured]:
    """Return, by name, the outcomes of trials that are known: kept with the results, or in the folders of work.

    Raises:
        SubloraError: a file of outcomes is damaged.
    """
    kept = {(m.variant, m.learning_rate, m.settings): m for m in _read(grid.results / "tuning" / LEARNING_RATES)}
    out = {}
    for trial in wanted:
        key = (trial.variant.name, trial.learning_rate, settings_sha256(trial.config, bounds=False))
        for outcome in (kept.get(key), *_read(RunFolder(Path(trial.config.login.out_dir)).outcome)):
            if outcome and (outcome.variant, outcome.learning_rate, outcome.settings) == key:
                out[trial.name] = outcome
    return out


def _read(path: Path) -> list[Measured]:
    if not path.exists():
        return []
    try:
        written = json.loads(path.read_text())
        return [Measured(**row) for row in written.get("measured", [written])]
    except (ValueError, KeyError, TypeError) as error:
        raise SubloraError(f"{path} is damaged: {error}; remove it, and it is measured again") from error


def choose(outcomes: Iterable[Measured]) -> dict[str, float]:
    """Return the rate with the lowest held-out loss per variant.

    Raises:
        SubloraError: every rate of a variant diverged.
    """
    best: dict[str, tuple[float, float]] = {}
    for outcome in outcomes:
        loss = math.inf if outcome.held_out_bpd is None else outcome.held_out_bpd
        best[outcome.variant] = min(best.get(outcome.variant, (math.inf, math.inf)), (loss, outcome.learning_rate))
    for variant, (loss, _) in best.items():
        if loss == math.inf:
            raise SubloraError(f"{variant} diverged at every learning rate: add smaller ones to learning_rates")
    return {variant: rate for variant, (_, rate) in best.items()}


def record(grid: Grid, outcomes: Iterable[Measured]) -> None:
    """Write everything that was measured, and what was chosen from it, to the results.

    What was measured before for variants that are not among the outcomes, with another part of the grid, stays.
    """
    path = grid.results / "tuning" / LEARNING_RATES
    new = list(outcomes)
    rows = [m for m in _read(path) if m.variant not in {n.variant for n in new}] + new
    chosen = choose(rows)
    for variant, rate in choose(new).items():
        if rate in (min(grid.learning_rates), max(grid.learning_rates)):
            log.warning("%s: the best learning rate, %g, is at the edge of the grid", variant, rate)
    written = {"seed": grid.tuning_seed, "iters": grid.tuning_iters, "chosen": chosen, "measured": rows}
    write_text(path, json.dumps(written, indent=2, default=asdict) + "\n")
