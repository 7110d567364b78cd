"""Tables of suites: mean and standard error over seeds, differences in pairs, and learning rates."""

import csv
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scipy.stats import ttest_1samp

from page_tables.markdown import spread, table
from sublora.report.analysis.runs import Configuration, Run, configurations, load_runs
from sublora.report.analysis.tables import held_out_loss


@dataclass(frozen=True)
class Row:
    """A run of a suite: what its table says of it. Losses are in bits per byte, which are tokens there."""

    mode: str
    d: int
    seed: int
    bits: float
    held_out: float
    certified: float


R = TypeVar("R", Row, Run)


def read_suite(folder: Path) -> dict[tuple[str, int], list[Row]]:
    """Return the runs of a suite by mode and d, in the order of its table.

    The certificates themselves are of an earlier format: see results/README.md.
    """
    with (folder / "report" / "tables" / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    groups: dict[tuple[str, int], list[Row]] = {}
    for line in lines:
        mode, d, seed = line["mode"], int(line["d"]), int(line["seed"])
        numbers = (float(line[name]) for name in ("bits", "held_out_bpd", "certified_bpb"))
        groups.setdefault((mode, d), []).append(Row(mode, d, seed, *numbers))
    return groups


def paired(runs: Iterable[R], others: Iterable[R]) -> list[tuple[R, R]]:
    """Return runs with those of others that have the same seed."""
    by_seed = {run.seed: run for run in others}
    return [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]


def suite(folder: Path) -> str:
    """Return a suite: mean and standard error over seeds, a row per mode and budget."""
    rows = [
        [
            mode,
            f"{d:,}",
            str(len(runs)),
            spread((run.bits for run in runs), 0),
            spread(run.held_out for run in runs),
            spread(run.certified for run in runs),
        ]
        for (mode, d), runs in read_suite(folder).items()
    ]
    return table(["mode", "d", "seeds", "K, bits", "held-out BPB", "certified BPB"], rows)


def differences(folder: Path) -> str:
    """Return by how much `learned` lies below each other mode, in pairs of runs with the same budget and seed."""
    groups = read_suite(folder)
    rows = []
    for (mode, d), runs in groups.items():
        pairs = paired(runs, groups.get(("learned", d), []))
        if mode == "learned" or not pairs:
            continue
        certified = spread((other.certified - run.certified for other, run in pairs), sign="+")
        held_out = spread((other.held_out - run.held_out for other, run in pairs), sign="+")
        rows.append([mode, f"{d:,}", str(len(pairs)), certified, held_out])
    return table(["mode minus learned", "d", "pairs", "certified BPB", "held-out BPB"], rows)


def gains(folder: Path) -> str:
    """Return a suite on a pretrained base: what is certified, and by how much it is below the base alone."""
    rows = [
        [
            mode,
            f"{d:,}",
            str(len(runs)),
            spread((run.bits for run in runs), 0),
            spread(run.claim("bpb_gain_alone", "model_alone") for run in runs),
            spread(_held_out(run) for run in runs),
            spread(run.claim("bpb", "bound") for run in runs),
            spread(run.claim("bpb_gain_alone", "bound") for run in runs),
        ]
        for (mode, d), runs in configurations(load_runs(folder)).items()
    ]
    header = ["mode", "d", "seeds", "K, bits", "gain, model alone", "held out", "certified", "certified gain"]
    return table(header, rows)


def _held_out(run: Run) -> float:
    """The held-out loss of a certified run, per byte where bytes are known."""
    assert run.certificate
    found = held_out_loss(run.certificate)
    return found[0] if found else math.nan


def against_lora(suites: Mapping[str, Path]) -> str:
    """Return what the practised frame wins over LoRA's, in pairs of runs with the same budget and seed.

    Args:
        suites: folders of results by what they are about.
    """
    rows = []
    for text, folder in suites.items():
        groups = configurations(load_runs(folder))
        for (mode, d), runs in groups.items():
            if not mode.startswith("practised"):
                continue
            pairs = paired(runs, groups[Configuration("uniform", d)])
            lower = [other.claim("bpb", "bound") - run.claim("bpb", "bound") for run, other in pairs]
            rows.append(
                [
                    text,
                    f"{d:,}",
                    str(len(pairs)),
                    spread(other.claim("bpb_gain_alone", "model_alone") for _, other in pairs),
                    spread(run.claim("bpb_gain_alone", "model_alone") for run, _ in pairs),
                    spread(run.claim("bpb", "bound") for run, _ in pairs),
                    f"{spread(lower)} (p = {ttest_1samp(lower, 0).pvalue:.1g})",
                ]
            )
    header = [
        "certified text",
        "d",
        "pairs",
        "gain, LoRA's",
        "gain, practised",
        "certified, practised",
        "below LoRA's by",
    ]
    return table(header, rows)


def behind(folder: Path, best: str) -> str:
    """Return by how much other modes lie above one, and gain less over the base alone, in pairs with the same seed.

    Where the name of a mode begins with `best`, it is that mode in another size.
    """
    groups = configurations(load_runs(folder))
    measures = [("bpb_gain_alone", "model_alone"), ("bpb", "bound"), ("bpb_gain_alone", "bound")]
    rows = []
    for (mode, d), runs in groups.items():
        same_d = (some for (name, size), some in groups.items() if name.startswith(best) and size == d)
        pairs = paired(runs, itertools.chain.from_iterable(same_d))
        if mode.startswith(best) or not pairs:
            continue
        cells = [spread((one.claim(*m) - other.claim(*m) for one, other in pairs), sign="+") for m in measures]
        rows.append([mode, f"{d:,}", str(len(pairs)), *cells])
    return table([f"mode minus {best}", "d", "pairs", "gain, model alone", "certified", "certified gain"], rows)


def learning_rates(folder: Path) -> str:
    """Return the held-out loss of every trial of a learning rate."""
    record = json.loads((folder / "tuning" / "learning_rates.json").read_text())
    losses = {(row["variant"], row["learning_rate"]): row["held_out_bpd"] for row in record["measured"]}
    rates = sorted({rate for _, rate in losses})
    rows = [
        [name, *(_trial(losses, name, rate) for rate in rates), f"{chosen:g}"]
        for name, chosen in record["chosen"].items()
    ]
    return table(["configuration", *(f"{rate:g}" for rate in rates), "chosen"], rows)


def _trial(losses: Mapping[tuple[str, float], float | None], name: str, rate: float) -> str:
    if (name, rate) not in losses:
        return ""
    loss = losses[name, rate]
    return "diverged" if loss is None else f"{loss:.3f}"
