"""Bounds for tokens that depend on each other, on the same losses: bets beside Azuma, Bernstein and Freedman.

    python benchmarks/tokens.py DATA RUN [--tokens 200000] [--out FILE]

writes benchmarks/results/tokens.json. The message of RUN (results/demo_scratch) is decoded, and predicts successive
blocks of DATA, the State of the Union addresses in bytes: `sublora prepare --source sotu --out DATA`. X_k is the loss
of token k under token smoothing, in [lo, hi]; Y_k a prediction of it made before token k is seen; delta = 0.05;
L = K ln 2 + ln(1/delta). All bound T, the mean of E[X_k | the tokens before k] over the M tokens:

* Azuma: mean X + (hi - lo) sqrt(L / 2M). Lotfi et al. 2024b (arXiv:2407.18158).
* empirical Bernstein for martingales: mean X + c (L + ln G + psi(t) sum ((Y - X) / c)^2) / (t M), c = hi - lo,
  psi(t) = -ln(1-t) - t, the smallest over a fixed grid of G values of t. Howard et al. 2021 (arXiv:1810.08240), by the
  inequality exp(t x - psi(t) x^2) <= 1 + t x for x >= -1 and t in [0, 1) of Fan et al. 2015.
* Freedman: mean X + sqrt(2 v L / M) + c L / 3M, v the mean conditional variance of X. Nobody knows v: with the mean of
  (Y - X)^2 in its place it is no bound, and stands here for what knowing v could bring. Freedman 1975, in the form of
  Zhang 2023, "Mathematical Analysis of Machine Learning Algorithms", Theorem 13.6.
* betting on Y - X with the constant prediction hi / 2: what a certificate does (`token_betting`).
* betting on Y - X, Y the mean of the losses so far. So is Y for Bernstein and Freedman.

Every bound has the best of eight smoothing values. More tokens than were measured are the measured ones repeated:
projections. `afforded` turns them round: how many bits a message may have for every token that is bounded, if what a
certificate claims is to lie no more than so far above the mean loss. It is computed with 50,000 of the tokens.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sublora.certificate.claims import PREDICTED_SHARE
from sublora.certificate.reading import read_certificate
from sublora.coding.message import MAX_SYMBOLS, decode_message
from sublora.corpus.corpus import open_corpus
from sublora.corpus.units import sample_units
from sublora.inequalities import nats, token_azuma, token_betting
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID, token_smoothing_bits, token_smoothing_range
from sublora.inequalities.token_level import GRID_LIMITS, GRID_POINTS
from sublora.run_folder import RunFolder
from sublora.scoring.measure import rebuild
from sublora.scoring.risk import score_units

RESULTS = Path(__file__).resolve().parent / "results" / "tokens.json"
DELTA = 0.05
# Of GPT-2 small with d = 50,000 (benchmarks/results/feedback_scale.json), and how many tokens are imagined for it.
MANY_BITS, MANY_TOKENS = 104_771, 10_000_000
# Gaps that messages are found for, and lengths that are tried, in bits of message per token.
AFFORDED, TRIED, FEW = (0.03, 0.1, 0.3, 1.0), np.geomspace(1e-5, 1, 26), 50_000
Bound = Callable[[np.ndarray, float, float, float], float]


def azuma(x: np.ndarray, low: float, high: float, exponent: float) -> float:
    """Return the bound of Lotfi et al. 2024b."""
    return token_azuma(x, lower=low, upper=high, nats=exponent)


def bernstein(x: np.ndarray, low: float, high: float, exponent: float) -> float:
    """Return the empirical Bernstein bound for martingales."""
    scale = high - low
    square = float(np.square((predicted(x, high) - x) / scale).mean())
    paid = (exponent + math.log(GRID_POINTS)) / len(x)
    gaps = ((paid + (-math.log1p(-t) - t) * square) / t for t in np.geomspace(*GRID_LIMITS, GRID_POINTS).tolist())
    return min(float(x.mean()) + scale * min(gaps), high)


def freedman(x: np.ndarray, low: float, high: float, exponent: float) -> float:
    """Return Freedman's bound with a measured mean square in place of the conditional variances."""
    square, linear = float(np.square(predicted(x, high) - x).mean()), (high - low) * exponent / (3 * len(x))
    return min(float(x.mean()) + math.sqrt(2 * square * exponent / len(x)) + linear, high)


def constant_bets(x: np.ndarray, low: float, high: float, exponent: float) -> float:
    """Return what a certificate claims."""
    constant = PREDICTED_SHARE * high
    return token_betting(x, np.full(len(x), constant), least=constant, upper=high, nats=exponent)


def running_bets(x: np.ndarray, low: float, high: float, exponent: float) -> float:
    """Return bets against the mean of the losses so far."""
    return token_betting(x, predicted(x, high), least=low, upper=high, nats=exponent)


def predicted(x: np.ndarray, high: float) -> np.ndarray:
    """Return at each token the mean of a first guess and of the losses before: known when it is predicted."""
    before = np.concatenate([[PREDICTED_SHARE * high], x[:-1].astype(np.float64)])
    return np.cumsum(before) / np.arange(1, len(x) + 1)


BOUNDS: dict[str, Bound] = {
    "azuma": azuma,
    "bernstein": bernstein,
    "freedman": freedman,
    "constant_bets": constant_bets,
    "running_bets": running_bets,
}


def measured_bits(run: RunFolder, data: Path, tokens: int) -> tuple[np.ndarray, int]:
    """Return the bits of the first tokens of a corpus under the model of a run, and the number of possible tokens."""
    message, corpus = decode_message(run.message.read_bytes(), max_symbols=MAX_SYMBOLS), open_corpus(data)
    block = message.header.architecture.block_size
    units = sample_units(corpus, corpus.train, "token_level", block)
    rows = np.arange(min(math.ceil(tokens / block), len(units)))
    rebuilt = rebuild(message, "", corpus.prior)
    how: dict[str, Any] = {"block_size": block, "stride": block, "batch_size": 32, "keep_tokens": True}
    return score_units(rebuilt.model, units, rows, prompt=rebuilt.prompt, **how).token_bits.ravel(), units.n_symbols


def gaps(bits: np.ndarray, n_symbols: int, message_bits: int, tokens: int) -> dict[str, float]:
    """Return the bounds for so many tokens, above the mean of the bits of those that were measured."""
    exponent, best = nats(message_bits, DELTA), {}
    for name, bound in BOUNDS.items():

        def at(a: float, count: int, bound: Bound = bound) -> float:
            low, high = token_smoothing_range(a, n_symbols)
            x = np.resize(token_smoothing_bits(bits, a, n_symbols), count)
            # The best smoothing is found with fewer tokens, of a smaller exponent.
            return bound(x, low, high, exponent * count / tokens)

        a = min(TOKEN_SMOOTHING_GRID, key=lambda a: at(a, min(len(bits), tokens)))
        best[name] = round(at(a, tokens) - float(bits.mean(dtype=np.float64)), 4)
    return best


def afforded(bits: np.ndarray, n_symbols: int) -> dict[str, float]:
    """Return the bits of a message per token at which bets have each gap, interpolated on logarithmic scales."""
    few = bits[:: max(1, len(bits) // FEW)]

    def gap(rate: float) -> float:
        bounds = []
        for a in TOKEN_SMOOTHING_GRID:
            low, high = token_smoothing_range(a, n_symbols)
            x = token_smoothing_bits(few, a, n_symbols)
            bounds.append(constant_bets(x, low, high, rate * len(few) * math.log(2)))
        return min(bounds) - float(few.mean(dtype=np.float64))

    known = np.log([gap(rate) for rate in TRIED.tolist()])
    rates = np.exp(np.interp(np.log(AFFORDED), known, np.log(TRIED)))
    return {str(gap): float(f"{rate:.3g}") for gap, rate in zip(AFFORDED, rates, strict=True)}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=200_000, help="that are measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = RunFolder(options.run)
    bits, n_symbols = measured_bits(run, options.data, options.tokens)
    own, factor = read_certificate(run.certificate).message.bits, MANY_TOKENS // 200_000
    settings = [(own, len(bits)), (own, factor * len(bits)), (MANY_BITS, factor * len(bits))]
    result = {
        "command": "python benchmarks/tokens.py DATA RUN",
        "run": options.run.name,
        "measured": len(bits),
        "mean_bits": round(float(bits.mean(dtype=np.float64)), 4),
        "rows": [
            {"bits": paid, "tokens": tokens, "gaps": gaps(bits, n_symbols, paid, tokens)} for paid, tokens in settings
        ],
        "afforded": afforded(bits, n_symbols),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
