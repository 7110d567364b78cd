"""What codes without a network need for the documents of a corpus, in bits per token: certified, and held out.

    python benchmarks/baselines.py DATA [--out FILE]

writes benchmarks/results/baselines.json. Documents weigh equally. Coded n-grams pay for their messages (K bits); the
others are fitted to a random half of the training documents and certified from the other half with K = 0. Codes without
a bound know nothing of other documents.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sublora.certificate.baselines import baselines, certify_fitted_half
from sublora.certificate.known import known_code, measure_code
from sublora.certificate.model import Baseline
from sublora.certificate.terms import Terms
from sublora.corpus.baselines import adaptive_bits, uniform_bits, zlib_bits
from sublora.corpus.corpus import open_corpus
from sublora.corpus.units import sample_units

RESULTS = Path(__file__).resolve().parent / "results" / "baselines.json"
DELTA = 0.05
HALF_ORDERS = range(3, 8)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    corpus = open_corpus(options.data)
    split = corpus.val
    if split is None:
        sys.exit(f"{options.data} has no held-out documents")
    documents, vocab_size = np.arange(len(split)), corpus.vocab_size
    bits = {
        "uniform coding": uniform_bits(split, documents, vocab_size),
        "order-0 adaptive, per document": adaptive_bits(split, documents, vocab_size),
        "zlib, per document": zlib_bits(split, documents, vocab_size),
    }
    units = sample_units(corpus, corpus.train, "document_level", corpus.min_tokens)
    code = known_code(corpus, units, 0)
    terms = Terms(
        bound_type="document_level",
        bits=0,
        division_bits=0,
        n=len(units),
        delta=DELTA,
        joint=False,
        mixture_weight=0.5,
        n_symbols=units.n_symbols,
        min_tokens=units.min_tokens,
        min_bytes=units.min_tokens,
        # This code was chosen by nobody: nothing pays for it.
        known=measure_code(code, [units.split], units.min_tokens, whole=False).known(DELTA, 0),
        has_base=False,
        subsampled=False,
    )
    start = time.perf_counter()
    certified = baselines(corpus, code, terms)
    seconds = time.perf_counter() - start
    result = {
        "command": "python benchmarks/baselines.py DATA",
        "source": corpus.meta["source"],
        "documents": len(split),
        "n": terms.n,
        "delta": DELTA,
        "held_out_bits_per_token": {name: round(float((b / split.lengths).mean()), 4) for name, b in bits.items()},
        "certified": [_rounded(b) for b in certified],
        "fitted_to_half": [_rounded(certify_fitted_half(corpus, code, terms, [order])) for order in HALF_ORDERS],
        "seconds_of_certified": round(seconds, 1),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result["held_out_bits_per_token"].items():
        sys.stdout.write(f"{name}: {value:.3f}\n")
    for b in [*result["certified"], *result["fitted_to_half"]]:
        sys.stdout.write(f"{b['name']}: K {b['bits']}, held out {b['held_out']:.3f}, certified {b['bound']:.3f}\n")


def _rounded(baseline: Baseline) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in baseline.model_dump().items()}


if __name__ == "__main__":
    main()
