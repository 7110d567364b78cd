"""How far each bound lies above the mean loss, against the length of the message; and its cost.

    python benchmarks/bounds.py [--toy]

writes benchmarks/results/bounds.json and docs/figures/bounds.{svg,png}. Three settings, delta = 0.05, gaps in bits per
token above the model's own mean loss:

* drawn: V = 50,257, n = 8,009,762 documents of which m = 10,000 are measured, losses normal with mean 9.5 and standard
  deviation 1.0. Gaps are means over 20 draws.
* all: V = 257, n = 25,000 documents, all measured, losses normal with mean 3.9 and standard deviation 0.45.

* demo: the losses of the committed demo from random weights, results/demo_scratch: 5,000 draws from n documents.
Bounds that need all n losses are
  given n losses distributed as those drawn, so they are projections; the two-stage bounds are what a certificate says.

Synthetic losses are clipped to the limits of token smoothing with a = 0.1. The document mixture has weight 1/2 and
documents of at least 16 tokens, so that its limit is log2 V + 1/16; it is given the same losses.

--toy: few lengths and one draw, and nothing is written.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from sublora import inequalities as ineq
from sublora.certificate.claims import losses_by_metric, projected_bound, reference_bound, risk_bound
from sublora.certificate.reading import read_certificate
from sublora.certificate.terms import Terms, make_terms
from sublora.coding.message import MAX_SYMBOLS, decode_message
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID, excess_upper, mixture_excess, token_smoothing_range
from sublora.run_folder import RunFolder
from sublora.scoring.scores import read_scores
from sublora.seeds import stream

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "bounds.json"
DEMO = RunFolder(ROOT / "results" / "demo_scratch")
DELTA = 0.05
SMOOTHING = 0.1
MIN_TOKENS = 16
DRAWS = 20
# The lengths K of the tables, and those of the curves.
TABLE = {"drawn": (3_000, 30_000, 150_000), "all": (300, 1_000, 3_000)}
CURVE = {
    "drawn": np.geomspace(300, 300_000, 19).round().astype(int),
    "all": np.geomspace(100, 10_000, 17).round().astype(int),
    "demo": np.geomspace(300, 30_000, 13).round().astype(int),
}
LABELS = {
    "hoeffding_subsampling": "Hoeffding, subsampled",
    "betting_subsampled": "betting, two stages",
    "betting_subsampled_mixture": "betting, two stages, document mixture",
    "hoeffding": "Hoeffding",
    "kl_inverse": "kl inverse",
    "empirical_bernstein": "empirical Bernstein",
    "betting": "betting",
    "betting_mixture": "betting, document mixture",
    "betting_subsampled_excess": "betting, two stages, excess over a fallback code",
    "betting_excess": "betting, excess over a fallback code",
}
LOOKED = list(LABELS.values())
# Color (Okabe & Ito 2008, told apart by the color-blind), line and width; two-stage bounds are dashed.
LOOKS = {
    "hoeffding_subsampling": ("#000000", "--", 1.4),
    "betting_subsampled": ("#0072B2", "--", 1.6),
    "betting_subsampled_mixture": ("#D55E00", "--", 2.2),
    "hoeffding": ("#999999", "-", 2.6),
    # The kl inverse lies almost on Hoeffding's bound: a thin line on a wide one lets both be seen.
    "kl_inverse": ("#000000", "-", 0.8),
    "empirical_bernstein": ("#009E73", "-", 1.4),
    "betting": ("#0072B2", "-", 1.6),
    "betting_mixture": ("#D55E00", "-", 1.6),
    "betting_subsampled_excess": ("#CC79A7", "--", 2.2),
    "betting_excess": ("#CC79A7", "-", 1.6),
}


def drawn_gaps(bits: int, draws: int = DRAWS) -> dict[str, float]:
    """Return the mean gaps when 10,000 of 8 million documents are measured."""
    low, high = token_smoothing_range(SMOOTHING, 50_257)
    n, message_nats = 8_009_762, bits * math.log(2)
    gaps = np.empty((draws, 2))
    for i in range(draws):
        losses = np.clip(stream(0, "bounds", "drawn", i).normal(9.5, 1.0, 10_000), low, high)
        earlier = ineq.hoeffding_subsampling(losses, spread=high - low, n=n, message_nats=message_nats, delta=DELTA)
        betting = ineq.betting_subsampled(losses, upper=high, n=n, message_nats=message_nats, delta=DELTA).value
        gaps[i] = np.array([earlier, betting]) - losses.mean()
    return dict(zip(("hoeffding_subsampling", "betting_subsampled"), map(float, gaps.mean(axis=0)), strict=True))


def all_gaps(bits: int) -> dict[str, float]:
    """Return the gaps when all of 25,000 documents are measured."""
    low, high = token_smoothing_range(SMOOTHING, 257)
    mixture = math.log2(257) + excess_upper(0.5, MIN_TOKENS)
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


def demo_terms() -> Terms:
    """Return what the demo's bounds depend on besides its losses."""
    certificate, data = read_certificate(DEMO.certificate), DEMO.message.read_bytes()
    header = decode_message(data, max_symbols=MAX_SYMBOLS).header
    return make_terms(header, 8 * len(data), certificate.corpus.n, certificate.prior.known)


def demo_gaps(bits: int) -> dict[str, float]:
    """Return the gaps on the demo's losses, above the mean loss of its model before any smoothing."""
    scores, terms = read_scores(DEMO.losses), dataclasses.replace(demo_terms(), bits=bits)
    losses = losses_by_metric(scores, terms)["bpd"]
    # The same mixture with uniform coding as the fallback: what is bounded is the whole loss.
    uniform = math.log2(terms.n_symbols)
    upper = uniform + excess_upper(terms.mixture_weight, terms.min_tokens)
    mixture = uniform + mixture_excess(scores.bits, scores.lengths * uniform, scores.lengths, terms.mixture_weight)
    low, high = token_smoothing_range(SMOOTHING, terms.n_symbols)
    smoothed = scores.smoothed[:, TOKEN_SMOOTHING_GRID.index(SMOOTHING)].astype(np.float64)
    drawn: dict[str, Any] = {"n": terms.n, "message_nats": bits * math.log(2), "delta": terms.delta}
    nats = ineq.nats(bits, terms.delta)
    everything = np.resize(smoothed, terms.n)
    values = {
        "hoeffding_subsampling": reference_bound(scores, terms).bound,
        "betting_subsampled": ineq.betting_subsampled(smoothed, upper=high, **drawn).value,
        "betting_subsampled_mixture": ineq.betting_subsampled(mixture, upper=upper, **drawn).value,
        "betting_subsampled_excess": risk_bound(losses, terms),
        "hoeffding": ineq.hoeffding(everything, lower=low, upper=high, nats=nats),
        "kl_inverse": ineq.kl_inverse(everything, lower=low, upper=high, nats=nats),
        "empirical_bernstein": ineq.empirical_bernstein(everything, lower=low, upper=high, nats=nats),
        "betting": ineq.betting(everything, upper=high, nats=nats),
        "betting_mixture": ineq.betting(np.resize(mixture, terms.n), upper=upper, nats=nats),
        "betting_excess": projected_bound(losses, terms),
    }
    own = float((scores.bits / scores.lengths).mean())
    return {name: value - own for name, value in values.items()}


def seconds(sizes: Iterable[int]) -> list[dict[str, float | int | str]]:
    """Return the processor time of the two betting bounds, the shorter of two calls each."""
    rows: list[dict[str, float | int | str]] = []
    for n in sizes:
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
                start = time.process_time()
                call()
                times.append(time.process_time() - start)
            rows.append({"bound": name, "losses": n, "nats": 1e5, "seconds": round(min(times), 4)})
    return rows


def draw(curves: dict[str, list[dict[str, float]]], demo_bits: int, folder: Path) -> None:
    """Draw the gap of every bound against K, a panel per setting; one legend, since a bound looks the same in all."""
    mpl.rcParams.update(
        {"svg.hashsalt": "sublora", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, panels = plt.subplots(1, 3, figsize=(11.5, 4.4), layout="constrained")
    titles = {
        "drawn": "synthetic: 10,000 of 8,009,762 measured",
        "all": "synthetic: all of 25,000 measured",
        "demo": "the demo's losses",
    }
    for panel, (setting, rows) in zip(panels, curves.items(), strict=True):
        for name in rows[0]:
            if name != "bits":
                x, y = [row["bits"] for row in rows], [row[name] for row in rows]
                color, style, width = LOOKS[name]
                panel.loglog(x, y, style, color=color, label=LABELS[name], linewidth=width)
        panel.set_title(titles[setting], fontsize=10)
        panel.set_xlabel("message length K (bits)")
        panel.grid(True, which="major", linewidth=0.4, alpha=0.6)
    panels[0].set_ylabel("bound − mean loss (bits per token)")
    panels[2].axvline(demo_bits, color="0.3", linewidth=0.8, linestyle=":")
    panels[2].annotate(
        "the demo's K", (demo_bits, 0.03), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points"
    )
    lines = {line.get_label(): line for panel in panels for line in panel.get_lines() if line.get_label() in LOOKED}
    figure.legend([lines[name] for name in LOOKED], LOOKED, loc="outside lower center", ncols=4, frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "bounds.svg", metadata={"Date": None})
    figure.savefig(folder / "bounds.png", dpi=150, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Compute, write and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="few lengths and one draw; nothing is written")
    toy = parser.parse_args().toy
    draws, every, sizes = (1, 16, (1_000,)) if toy else (DRAWS, 1, (10_000, 1_000_000, 10_000_000))
    gaps: dict[str, Callable[[int], dict[str, float]]] = {
        "drawn": partial(drawn_gaps, draws=draws),
        "all": all_gaps,
        "demo": demo_gaps,
    }
    curves = {
        setting: [{"bits": int(bits), **gaps[setting](int(bits))} for bits in lengths[::every]]
        for setting, lengths in CURVE.items()
    }
    demo_bits = demo_terms().bits
    lengths = TABLE | {"demo": (demo_bits,)}
    tables = {
        setting: [{"bits": bits, **gaps[setting](bits)} for bits in table[::every]]
        for setting, table in lengths.items()
    }
    timing = seconds(sizes)
    with tempfile.TemporaryDirectory() as scratch:
        draw(curves, demo_bits, Path(scratch) if toy else ROOT / "docs" / "figures")
    result = {
        "command": "python benchmarks/bounds.py",
        "delta": DELTA,
        "unit": "bound minus mean loss of the model, bits per token",
        "gaps": tables,
        "curves": curves,
        "seconds": timing,
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 5))
    if not toy:
        RESULTS.write_text(json.dumps(rounded, indent=1) + "\n")
    for setting, rows in tables.items():
        for row in rows:
            words = ", ".join(f"{LABELS[name]} {gap:.3f}" for name, gap in row.items() if name != "bits")
            sys.stdout.write(f"{setting}, K = {row['bits']:,}: {words}\n")
    for line in timing:
        sys.stdout.write(f"{line['bound']}, {line['losses']:,} losses: {line['seconds']:.3f} s\n")


if __name__ == "__main__":
    main()
