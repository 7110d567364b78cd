"""How many documents a watch reads until it raises an alarm, against how far the mean loss has drifted.

    python benchmarks/watch.py [--watches 400] [--documents 3000] [--out FILE]

writes benchmarks/results/watch.json. Losses are in units of their standard deviation: normal, the certified bound is 4
standard deviations above the lower limit, and no loss is above twice the bound. A mean is given as its distance from
the bound. While documents come from the source, their mean lies below the bound by a gap; after a number of them it
drifts above the bound. alpha = 0.05; medians and 90 % quantiles over 400 watches, each
ending 3,000 documents after the drift.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sublora.inequalities.watch import Wager
from sublora.seeds import stream

RESULTS = Path(__file__).parent / "results" / "watch.json"
ALPHA, SCALE = 0.05, 4.0
# Documents before the drift, and how far below the bound their mean is.
BEFORE = ((0, 0.0), (100, 0.25), (1_000, 0.25), (1_000, 0.0))
DRIFTS = (0.1, 0.25, 0.5, 1.0, 2.0)
WATCHES, MOST = 400, 3_000
# False alarms are rarer, so that many more watches look for them.
FALSE_ALARM_FACTOR = 10


def first_alarms(before: int, gap: float, drift: float, watches: int = WATCHES, most: int = MOST) -> np.ndarray:
    """Return after how many documents each watch raises its alarm; infinite where it does not.

    Args:
        before: documents before the drift.
        gap: by which their mean is below the bound, in standard deviations.
        drift: by which the mean of the others is above it.
        watches: how many there are.
        most: documents after the drift.
    """
    rng = stream(0, "watch", before, round(1000 * gap), round(1000 * drift))
    wager, at = Wager.begin((watches,)), np.full(watches, np.inf)
    for i in range(before + most):
        mean = -gap if i < before else drift
        excess = np.clip(rng.normal(mean, 1, watches) / SCALE, -1, 1)
        wager = wager.after(np.where(np.isinf(at), excess, 0))
        at[np.isinf(at) & (wager.capital >= 1 / ALPHA)] = i + 1
        if np.isfinite(at).all():
            break
    return at


def row(before: int, gap: float, watches: int, most: int) -> dict[str, object]:
    """Return the delays after drifts of all sizes, and the share of alarms before them."""
    delays: dict[str, list[int | None]] = {}
    early = 0.0
    for drift in DRIFTS:
        at = first_alarms(before, gap, drift, watches, most)
        early = max(early, float((at <= before).mean()))
        delay = at[at > before] - before
        found = [float(np.quantile(delay, q, method="higher")) for q in (0.5, 0.9)]
        delays[str(drift)] = [int(value) if np.isfinite(value) else None for value in found]
    return {"before": before, "gap": gap, "alarms_before": early, "delays": delays}


def false_alarms(watches: int, documents: int) -> float:
    """Return the share of watches that ever alarm although the mean is exactly the bound."""
    return float(np.isfinite(first_alarms(0, 0.0, 0.0, watches, documents)).mean())


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watches", type=int, default=WATCHES)
    parser.add_argument("--documents", type=int, default=MOST, help="that are read after a drift")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    many = FALSE_ALARM_FACTOR * options.watches
    results = {
        "command": "python benchmarks/watch.py",
        "versions": {"python": platform.python_version(), "numpy": version("numpy")},
        "alpha": ALPHA,
        "false_alarms": {
            "documents": options.documents,
            "watches": many,
            "share": false_alarms(many, options.documents),
        },
        "rows": [row(*case, options.watches, options.documents) for case in BEFORE],
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
