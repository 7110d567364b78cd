"""How far a bound lies above the mean loss, for d coordinates and n documents, on the losses of committed runs.

    python benchmarks/gap.py [--documents 3000 ...] [--out FILE] [--figure FILE]

writes benchmarks/results/gap.json and docs/figures/gap.svg. A gap is bound minus mean of the losses that are bounded,
in bits per token; delta = 0.05, K = overhead + rate * d. The rate, bits per coordinate, is what messages took:
committed ones for d = 200 and d = 1,000, and for more coordinates error feedback on a quadratic loss
(benchmarks/results/feedback_scale.json). The overhead is the run's own message without its payload.

Of n documents 10,000 are measured, or all where there are no more. The losses are the run's, so these are projections:
what a bound would be if a model of that d lost on its documents what this one lost. For every cell the mixture weight
is chosen anew, and the run's prediction or none, as an issuer does. Beside it stands the bound of Lotfi et al. (2024)
for the same model, K, n and number of draws, with the best of its eight smoothing values; what smoothing adds to the
loss is not counted as a gap. A bound that says no more than what was known beforehand is marked: for ours, the mean
loss of the known code; for theirs, uniform coding.
"""

import argparse
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from sublora import inequalities as ineq
from sublora.certificate.claims import losses_by_metric, projected_claim
from sublora.certificate.reading import read_certificate
from sublora.certificate.terms import Terms, make_terms
from sublora.coding.message import MAX_SYMBOLS, decode_message
from sublora.coding.prediction import NEUTRAL
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID, token_smoothing_range
from sublora.run_folder import RunFolder
from sublora.scoring.scores import Scores, read_scores

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gap.json"
FIGURE = ROOT / "docs" / "figures" / "gap.svg"
# Runs whose losses are taken, and the messages whose payloads give the rate of few coordinates beside them. From random
# weights, coordinates are dearer.
RUNS = {
    "smollm2_docs": {200: "sotu_before", 1_000: "smollm2_docs"},
    "demo_scratch": {200: "demo_scratch", 1_000: "demo_scratch"},
    "gpt2_small_wide": {50_000: "gpt2_small_wide"},
}
MANY = (4_000, 16_000, 50_000)
DOCUMENTS = (3_000, 10_000, 30_000, 100_000, 1_000_000, 8_009_762)
MEASURED = 10_000
MIXTURE_EXPONENTS = range(1, 17)
COLORS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


def rates(like: dict[int, str]) -> dict[int, float]:
    """Return the payload of messages in bits per coordinate, by the number of coordinates."""
    few = {}
    for d, name in like.items():
        message = read_certificate(ROOT / "results" / name).message
        few[d] = message.ledger["payload"] / message.coordinates
    feedback = json.loads((RESULTS.parent / "feedback_scale.json").read_bytes())["sizes"]
    many = {size["d"]: size["feedback"]["bits"] / size["d"] for size in feedback if size["d"] in MANY}
    # What a message took goes before what a benchmark says.
    return dict(sorted((many | few).items()))


def unpredicted(terms: Terms) -> Terms:
    """Return the terms of a message that predicts of a document what it costs in the known code."""
    known = terms.known
    same = {"predicted_per_token": known.per_token, "predicted_per_byte": known.per_byte}
    return dataclasses.replace(terms, prediction=NEUTRAL, known=known.model_copy(update=same))


def ours(scores: Scores, terms: Terms) -> tuple[float, float]:
    """Return the projected claim in bits per token, with what is best for it, and the mean loss."""
    samples, tried = MEASURED if terms.n > MEASURED else 0, []
    for k, predicting in itertools.product(MIXTURE_EXPONENTS, (terms, unpredicted(terms))):
        own = dataclasses.replace(predicting, mixture_weight=2.0**-k)
        losses = losses_by_metric(scores, own)["bpd"]
        tried.append((projected_claim(losses, own, samples), float(losses.values.mean())))
    return min(tried)


def reference(scores: Scores, terms: Terms) -> tuple[float, float]:
    """Return the bound of Lotfi et al. (2024), or Hoeffding's where all are measured, and the mean smoothed loss."""
    tried = []
    for i, a in enumerate(TOKEN_SMOOTHING_GRID):
        low, high = token_smoothing_range(a, terms.n_symbols)
        losses, nats = scores.smoothed[:, i], terms.bits * math.log(2)
        if terms.n > MEASURED:
            drawn = np.resize(losses, MEASURED)
            bound: dict[str, Any] = {"spread": high - low, "n": terms.n, "message_nats": nats, "delta": terms.delta}
            value = ineq.hoeffding_subsampling(drawn, **bound)
        else:
            everything = np.resize(losses, terms.n)
            exponent = ineq.nats(terms.bits, terms.delta)
            value = ineq.hoeffding(everything, lower=low, upper=high, nats=exponent)
        tried.append((value, float(losses.mean(dtype=np.float64))))
    return min(tried)


def rows_of(name: str, documents: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row per d of a run: its K, and a cell per n."""
    run = RunFolder(ROOT / "results" / name)
    certificate, scores, data = read_certificate(run.certificate), read_scores(run.losses), run.message.read_bytes()
    header = decode_message(data, max_symbols=MAX_SYMBOLS).header
    overhead = certificate.message.bits - certificate.message.ledger["payload"]
    rows = []
    for d, rate in rates(RUNS[name]).items():
        bits, cells = math.ceil(overhead + rate * d), []
        for n in documents:
            terms = make_terms(header, bits, n, certificate.prior.known)
            (bound, mean), (earlier, smoothed) = ours(scores, terms), reference(scores, terms)
            cells.append(
                {
                    "n": n,
                    "gap": round(bound - mean, 4),
                    "says_something": bound < terms.known.per_token,
                    "reference_gap": round(earlier - smoothed, 4),
                    "reference_says_something": earlier < math.log2(terms.n_symbols),
                }
            )
        rows.append({"d": d, "bits": bits, "bits_per_coordinate": round(rate, 3), "cells": cells})
    return rows


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the gaps against n, a panel per run and a color per d; the reference's are dashed."""
    mpl.rcParams.update(
        {"svg.hashsalt": "sublora", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, panels = plt.subplots(1, len(runs), figsize=(4.5 * len(runs), 3.6), layout="constrained", sharey=True)
    for panel, (name, rows) in zip(np.atleast_1d(panels), runs.items(), strict=True):
        for row, color in zip(rows, COLORS[-len(rows) :], strict=True):
            n = [cell["n"] for cell in row["cells"]]
            panel.loglog(n, [cell["gap"] for cell in row["cells"]], color=color, label=f"d = {row['d']:,}")
            panel.loglog(n, [cell["reference_gap"] for cell in row["cells"]], "--", color=color, linewidth=0.8)
        panel.set_title(f"losses of {name}", fontsize=10)
        panel.set_xlabel("n, documents")
        panel.grid(True, which="major", linewidth=0.4, alpha=0.6)
    np.atleast_1d(panels)[0].set_ylabel("bound − mean loss (bits per token)")
    # The first panel has every d.
    lines, labels = np.atleast_1d(panels)[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside right center", frameon=False, title="dashed:\nLotfi et al. 2024")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Compute, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=DOCUMENTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    runs = {name: rows_of(name, options.documents) for name in RUNS}
    result = {"command": "python benchmarks/gap.py", "measured": MEASURED, "delta": 0.05, "runs": runs}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(runs, options.figure)
    for name, rows in runs.items():
        for row in rows:
            cells = "  ".join(f"{cell['gap']:.3f} ({cell['reference_gap']:.2f})" for cell in row["cells"])
            sys.stdout.write(f"{name}, d = {row['d']:,}, K = {row['bits']:,}: {cells}\n")


if __name__ == "__main__":
    main()
