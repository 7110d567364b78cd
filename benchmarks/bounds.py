"""How far each bound lies above the mean loss, against the length of the message, on synthetic losses; and its cost.

    python benchmarks/bounds.py

writes benchmarks/results/bounds.json and docs/figures/bounds.{svg,png}. Two settings, delta = 0.05, gaps in bits per
token:

* drawn: V = 50,257, n = 8,009,762 documents of which m = 10,000 are measured, losses normal with mean 9.5 and standard
  deviation 1.0. Gaps are means over 20 draws.
* all: V = 257, n = 25,000 documents, all measured, losses normal with mean 3.9 and standard deviation 0.45.

Losses are clipped to the limits of token smoothing with a = 0.1. The document mixture has weight 1/2 and documents of
at least 16 tokens, so that its limit is log2 V + 1/16; it is given the same losses.
"""

import json
import math
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np

from sublora.bounds import inequalities as ineq
from sublora.bounds.smoothing import mixture_upper, token_smoothing_range
from sublora.seeds import stream

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
DELTA = 0.05
SMOOTHING = 0.1
MIN_TOKENS = 16
DRAWS = 20
# The lengths K of the tables, and those of the curves.
TABLE = {"drawn": (3_000, 30_000, 150_000), "all": (300, 1_000, 3_000)}
CURVE = {
    "drawn": np.geomspace(300, 300_000, 19).round().astype(int),
    "all": np.geomspace(100, 10_000, 17).round().astype(int),
}
LABELS = {
    "hoeffding_subsampling": "Hoeffding, subsampled",
    "betting_subsampled": "betting, two stages",
    "hoeffding": "Hoeffding",
    "kl_inverse": "kl inverse",
    "empirical_bernstein": "empirical Bernstein",
    "betting": "betting",
    "betting_mixture": "betting, document mixture",
}


def drawn_gaps(bits: int) -> dict[str, float]:
    """Return the mean gaps when 10,000 of 8 million documents are measured."""
    low, high = token_smoothing_range(SMOOTHING, 50_257)
    n, message_nats = 8_009_762, bits * math.log(2)
    gaps = np.empty((DRAWS, 2))
    for i in range(DRAWS):
        losses = np.clip(stream(0, "bounds", "drawn", i).normal(9.5, 1.0, 10_000), low, high)
        earlier = ineq.hoeffding_subsampling(losses, spread=high - low, n=n, message_nats=message_nats, delta=DELTA)
        betting = ineq.betting_subsampled(losses, upper=high, n=n, message_nats=message_nats, delta=DELTA).value
        gaps[i] = np.array([earlier, betting]) - losses.mean()
    return dict(zip(("hoeffding_subsampling", "betting_subsampled"), map(float, gaps.mean(axis=0)), strict=True))


def all_gaps(bits: int) -> dict[str, float]:
    """Return the gaps when all of 25,000 documents are measured."""
    low, high = token_smoothing_range(SMOOTHING, 257)
    mixture = mixture_upper(257, 0.5, MIN_TOKENS)
    losses = np.clip(stream(0, "bounds", "all").normal(3.9, 0.45, 25_000), low, mixture)
    nats = ineq.nats(bits, DELTA)
    values = {
        "hoeffding": ineq.hoeffding(losses, lower=low, upper=high, nats=nats),
        "kl_inverse": ineq.kl_inverse(losses, lower=low, upper=high, nats=nats),
        "empirical_bernstein": ineq.empirical_bernstein(losses, lower=low, upper=high, nats=nats),
        "betting": ineq.betting(losses, upper=high, nats=nats),
        "betting_mixture": ineq.betting(losses, upper=mixture, nats=nats),
    }
    return {name: value - float(losses.mean()) for name, value in values.items()}


GAPS = {"drawn": drawn_gaps, "all": all_gaps}


def seconds() -> list[dict[str, float | int | str]]:
    """Return the wall-clock time of the two betting bounds, the shorter of two calls each."""
    rows: list[dict[str, float | int | str]] = []
    for n in (10_000, 1_000_000, 10_000_000):
        losses = stream(0, "bounds", "seconds").random(n)
        calls = {
            "betting": lambda x=losses: ineq.betting(x, upper=1.0, nats=1e5),
            "betting_subsampled": lambda x=losses: ineq.betting_subsampled(
                x, upper=1.0, n=10**8, message_nats=1e5, delta=DELTA
            ),
        }
        for name, call in calls.items():
            times = []
            for _ in range(2):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            rows.append({"bound": name, "losses": n, "nats": 1e5, "seconds": round(min(times), 4)})
    return rows


def draw(curves: dict[str, list[dict[str, float]]], folder: Path) -> None:
    """Draw the gap of every bound against K, a panel per setting."""
    mpl.rcParams.update(
        {"svg.hashsalt": "sublora", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.9), layout="constrained")
    titles = {
        "drawn": "10,000 of 8,009,762 documents measured",
        "all": "all of 25,000 documents measured",
    }
    colors = dict(zip(LABELS, ("0.45", "C1", "0.45", "C0", "C2", "C1", "C3"), strict=True))
    for panel, (setting, rows) in zip(panels, curves.items(), strict=True):
        for name in rows[0]:
            if name != "bits":
                x, y = [row["bits"] for row in rows], [row[name] for row in rows]
                # The kl inverse lies almost on Hoeffding's bound: dashes let both be seen.
                style = "--" if name == "kl_inverse" else "-"
                panel.loglog(x, y, style, color=colors[name], label=LABELS[name], linewidth=1.6)
        panel.set_title(titles[setting], fontsize=10)
        panel.set_xlabel("message length K (bits)")
        panel.grid(True, which="major", linewidth=0.4, alpha=0.6)
        panel.legend(frameon=False)
    panels[0].set_ylabel("bound − mean loss (bits per token)")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "bounds.svg", metadata={"Date": None})
    figure.savefig(folder / "bounds.png", dpi=150, metadata={"Software": None})


def main() -> None:
    """Compute, write and print everything."""
    curves = {
        setting: [{"bits": int(bits), **GAPS[setting](int(bits))} for bits in lengths]
        for setting, lengths in CURVE.items()
    }
    tables = {
        setting: [{"bits": bits, **GAPS[setting](bits)} for bits in lengths] for setting, lengths in TABLE.items()
    }
    timing = seconds()
    draw(curves, ROOT / "docs" / "figures")
    result = {
        "command": "python benchmarks/bounds.py",
        "delta": DELTA,
        "unit": "bound minus mean loss, bits per token",
        "gaps": tables,
        "curves": curves,
        "seconds": timing,
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 5))
    path = ROOT / "benchmarks" / "results" / "bounds.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded, indent=1) + "\n")
    for setting, rows in tables.items():
        for row in rows:
            gaps = ", ".join(f"{LABELS[name]} {gap:.3f}" for name, gap in row.items() if name != "bits")
            sys.stdout.write(f"{setting}, K = {row['bits']:,}: {gaps}\n")
    for line in timing:
        sys.stdout.write(f"{line['bound']}, {line['losses']:,} losses: {line['seconds']:.3f} s\n")


if __name__ == "__main__":
    main()
