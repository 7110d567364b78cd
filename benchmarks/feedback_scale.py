"""Error feedback with many coordinates: seconds and bits against the plain trellis at the same quadratic loss.

    python benchmarks/feedback_scale.py [--sizes 1000 4000 16000 50000] [--out FILE]

Writes benchmarks/results/feedback_scale.json. The loss is quadratic with R = 500 curved directions, random in the space
of alpha. Their curvatures are those of the demo (docs/log.md, 2026-11-23: 9.3, 1.9, 0.23 and 0.03 for the 1st, 10th,
50th and 200th eigenvalue at d = 1,000), a power law between two of them and beyond the last. Feedback sees N = 256
gradients, Gaussian with that curvature as their covariance, as it sees those of 256 sequences. What no row sees costs
nothing on the rows, which flatters feedback; so the trellis is compared at the same loss on the rows and at the same
true loss. alpha is Gaussian.
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sublora import seeds
from sublora.coding.entropy import fit
from sublora.coding.feedback import feedback_quantize
from sublora.coding.quantizers import Quantized
from sublora.coding.rate_distortion import rate_distortion_quantize

RESULTS = Path(__file__).parent / "results" / "feedback_scale.json"
ROWS = 256
# Rank and size of the demo's eigenvalues.
KNOWN = ((1, 9.3), (10, 1.9), (50, 0.23), (200, 0.03))
DIRECTIONS = 500
# In multiples of the root mean square of alpha, which is 1.
STEP = 1.0
# Corrections of the plain trellis's lagrangian.
ROUNDS = 6


def spectrum() -> np.ndarray:
    """Return the curvatures of the directions, in bits per token and squared coordinate."""
    ranks, sizes = np.log(np.array(KNOWN)).T
    last = (sizes[-1] - sizes[-2]) / (ranks[-1] - ranks[-2])
    x = np.log(np.arange(1, DIRECTIONS + 1))
    return np.exp(np.where(x <= ranks[-1], np.interp(x, ranks, sizes), sizes[-1] + last * (x - ranks[-1])))


def factors(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a factor of the true curvature, of shape (R, d), and the rows that are seen of it, of shape (N, d)."""
    rng = seeds.stream(0, "feedback scale", d)
    directions = np.linalg.qr(rng.standard_normal((d, DIRECTIONS)))[0].T
    true = np.sqrt(spectrum())[:, None] * directions
    return true, rng.standard_normal((ROWS, DIRECTIONS)) @ true / math.sqrt(ROWS)


def loss(quantized: Quantized, alpha: np.ndarray, factor: np.ndarray) -> float:
    """Return the quadratic loss, relative to that of sending zeros."""
    error = quantized.reconstruction - alpha
    return float(np.square(factor @ error).sum() / np.square(factor @ alpha).sum())


def bits(quantized: Quantized) -> int:
    """Return the bits of the entropy model and the payload: K without its header, a few dozen bits."""
    return math.ceil(fit(quantized.symbols, quantized.codebook)[0])


def trellis_at(alpha: np.ndarray, factor: np.ndarray, target: float) -> dict[str, float]:
    """Return the plain trellis at a quadratic loss near `target`, on the step that is usual at high rate.

    In random directions the loss is the relative squared error, of which one bit per coordinate is worth a factor of 4.
    """
    lagrangian = math.log(2) * target
    rows = []
    for _ in range(ROUNDS):
        step = 2 * math.sqrt(12 * lagrangian / math.log(2))
        start = time.perf_counter()
        tried = rate_distortion_quantize(alpha, np.ones(len(alpha)), lagrangian, step=step)
        seconds = time.perf_counter() - start
        found = loss(tried, alpha, factor)
        rows.append({"seconds": round(seconds, 2), "bits": bits(tried), "loss": found})
        # A few steep directions are most of the loss, so it jumps: half of the correction, on a logarithmic scale.
        lagrangian *= math.sqrt(target / found)
    return min(rows, key=lambda row: abs(math.log(row["loss"] / target)))


def row(d: int) -> dict[str, Any]:
    """Measure one number of coordinates."""
    alpha = seeds.stream(0, "alpha", d).standard_normal(d)
    true, seen = factors(d)
    start = time.perf_counter()
    feedback = feedback_quantize(alpha, seen, STEP)
    seconds = time.perf_counter() - start
    on_rows, truly = (loss(feedback, alpha, factor) for factor in (seen, true))
    return {
        "d": d,
        "feedback": {"seconds": round(seconds, 2), "bits": bits(feedback), "loss_on_rows": on_rows, "true_loss": truly},
        "trellis_at_the_loss_on_rows": trellis_at(alpha, seen, on_rows),
        "trellis_at_the_true_loss": trellis_at(alpha, true, truly),
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000, 16_000, 50_000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = {
        "command": "python benchmarks/feedback_scale.py",
        "rows": ROWS,
        "step": STEP,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "sizes": [row(d) for d in options.sizes],
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
