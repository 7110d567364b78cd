"""Message length against loss for every quantizer, on trained checkpoints.

    python benchmarks/quantization.py DATA RUN [RUN ...] [--documents 200] [--samples 512] [--iterations 250]
        [--only GLOB] [--out FILE]

DATA is a corpus, RUN a folder that `sublora train` wrote on it; several runs (allocation modes, say) are measured on
the same documents. Writes benchmarks/results/quantization.json: for every run and quantizer the
message's bits, the squared error relative to that of sending zeros, the decoded model's bits per byte on training
documents, by how much that is more than without quantization, and the bound that is estimated from them. One row
is the length that the reference implementation (Lotfi et al. 2024) books for the same coordinates.
"""

import argparse
import dataclasses
import fnmatch
import functools
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sublora import seeds
from sublora.certificate.issue import Certifier
from sublora.coding.feedback import feedback_quantize, plan
from sublora.coding.message import encode_message
from sublora.coding.quantizers import Quantized, quantize, quantize_uniform
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.config import load_config
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.quantizing.curvature import fisher_factor
from sublora.quantizing.gradual import gradual_quantize
from sublora.quantizing.wrapper import QuantizingWrapper
from sublora.scoring.scores import Scores
from sublora.training.checkpoint import load_checkpoint

RESULTS = Path(__file__).parent / "results" / "quantization.json"
MIXTURE_EXPONENT = 2
BATCH = 8


def reference_bits(quantized: Quantized) -> int:
    """Return what the reference books: 16 bits per centroid, ceil(log2 n) per count, and the arithmetic code's bits.

    The arithmetic code is taken at its best: the symbols' empirical entropy and one bit.
    """
    n = len(quantized.symbols)
    counts = np.bincount(quantized.symbols)
    entropy = -float((counts * np.log2(np.maximum(counts, 1) / n)).sum())
    return len(counts) * (16 + math.ceil(math.log2(n))) + math.ceil(entropy) + 1


Candidate = Callable[[], tuple[Quantized, np.ndarray]]


def candidates(certifier: Certifier, samples: int, iterations: int) -> dict[str, Candidate]:
    """Return, by name, functions that quantize alpha and return it with the gates that belong to it."""
    trained = certifier.trained
    alpha, rms, gates = trained.alpha, trained.rms, trained.gates
    batches = Batches(trained.train, trained.architecture.block_size)

    @functools.cache
    def curvature() -> np.ndarray:
        return fisher_factor(trained.model(gates), batches, seed=0, samples=samples)

    @functools.cache
    def price() -> float:
        return certifier.price_of_a_bit()

    def learned_codebook() -> tuple[Quantized, np.ndarray]:
        wrapper = QuantizingWrapper(trained.model(), levels=11, method="kmeans")
        wrapper.fit(batches, steps=iterations, learning_rate=2e-3, batch_size=BATCH, seed=0)
        return wrapper.quantized(), wrapper.quantized_gates()

    def gradual(multiple: float) -> tuple[Quantized, np.ndarray]:
        step, rate = plan(alpha, curvature(), multiple * price())
        sizes = {"steps": iterations, "batch_size": BATCH}
        model = trained.model(gates)
        return gradual_quantize(model, batches, curvature(), step=step, rate=rate, seed=0, **sizes), gates

    out: dict[str, Candidate] = {}
    for method in ("uniform", "kmeans"):
        out[f"{method}, 11 levels"] = partial(lambda m: (quantize(alpha, levels=11, method=m), gates), method)
    out[f"learned codebook, 11 levels, {iterations} steps"] = learned_codebook
    out["uniform, step 0.4 rms"] = lambda: (quantize_uniform(alpha, 0.4 * rms), gates)
    for k in (0.15, 0.25):
        lagrangian = (k * rms) ** 2 * np.log(4) / 12
        out[f"trellis, step {k} rms"] = partial(
            lambda x: (rate_distortion_quantize(alpha, np.ones(len(alpha)), x), gates), lagrangian
        )
    for k in (0.25, 0.4, 0.6):
        out[f"feedback, step {k} rms"] = partial(lambda k: (feedback_quantize(alpha, curvature(), k * rms), gates), k)
    # Dear bits show how short a message can be at the loss of the reference's.
    for multiple in (1.0, 5.0, 10.0):
        name = f"gradual, {iterations} steps, bits at {multiple:g} times their price"
        out[name] = partial(gradual, multiple)
    return out


def bits_per_byte(scores: Scores) -> float:
    """Return the mean over documents of a document's bits per byte."""
    return float((scores.bits / scores.byte_lengths).mean())


def measure(run: Path, corpus: Corpus, documents: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per quantizer."""
    certifier = Certifier(load_config([]), load_checkpoint(run), corpus)
    certifier.calibration = documents
    header = dataclasses.replace(certifier.header, mixture_exponent=MIXTURE_EXPONENT)
    scores = certifier.score_unquantized("unquantized")
    unquantized = bits_per_byte(scores)
    rows = []

    def add(name: str, bits: int, quantized: Quantized, scores: Scores) -> None:
        bpb = bits_per_byte(scores)
        rows.append(
            {
                "run": run.name,
                "mode": certifier.trained.spec.allocation_mode,
                "quantizer": name,
                "bits": bits,
                "relative_error": float(np.sum((quantized.reconstruction - certifier.trained.alpha) ** 2))
                / float(np.sum(certifier.trained.alpha**2)),
                "bpb": bpb,
                "increase": bpb - unquantized,
                "estimated_bound": certifier.estimate(header, bits, scores),
            }
        )

    chosen = candidates(certifier, options.samples, options.iterations)
    for name in fnmatch.filter(chosen, options.only):
        quantized, gates = chosen[name]()
        data = encode_message(header, quantized, gates).data
        scores = certifier.score(data, name)
        if name.startswith("kmeans"):
            add("reference (kmeans, 11 levels, its own length)", reference_bits(quantized), quantized, scores)
        add(name, 8 * len(data), quantized, scores)
    return rows


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--documents", type=int, default=200, help="training documents that are scored")
    parser.add_argument("--samples", type=int, default=512, help="sequences that the curvature is estimated from")
    parser.add_argument("--iterations", type=int, default=250, help="steps of quantization-aware training")
    parser.add_argument("--only", default="*", help="glob of the quantizers' names")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    corpus = open_corpus(options.data)
    count = min(options.documents, len(corpus.train))
    documents = np.sort(seeds.stream(0, "benchmark").choice(len(corpus.train), count, replace=False))
    rows = [row for run in options.runs for row in measure(run, corpus, documents, options)]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    flags = [word for word in sys.argv[1:] if word.startswith("--") and not word.startswith("--out")]
    result = {
        "command": " ".join(["python benchmarks/quantization.py DATA RUN", *flags]),
        "documents": count,
        "samples": options.samples,
        "iterations": options.iterations,
        "rows": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
