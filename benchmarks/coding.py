"""Measure the code: bits at given errors, distance from the empirical entropy, and speed. Writes results/coding.json.

    python benchmarks/coding.py [--toy]

--toy: few and short vectors, and nothing is written.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sublora.coding.architecture import Architecture
from sublora.coding.codebooks import TrellisGrid
from sublora.coding.message import Encoded, Header, ModelSpec, decode_message, encode_message
from sublora.coding.quantizers import QUANTIZERS, Quantized, quantize, quantize_uniform
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.coding.setting import BYTES_VOCABULARY, Setting
from sublora.seeds import stream

RESULTS = Path(__file__).parent / "results" / "coding.json"


def coded(quantized: Quantized) -> Encoded:
    """Return the message of a standard model with these coordinates, checked by decoding it."""
    header = Header(
        setting=Setting(),
        architecture=Architecture("random", 12, 4, 128, 256, BYTES_VOCABULARY),
        spec=ModelSpec(seed=0, intrinsic_dim=len(quantized.symbols)),
        mixture_exponent=1,
        samples=0,
        stride=256,
    )
    encoded = encode_message(header, quantized, np.zeros(0))
    decoded = decode_message(encoded.data, max_symbols=len(quantized.symbols)).alpha
    assert np.array_equal(decoded.view(np.uint32), quantized.reconstruction.view(np.uint32))
    return encoded


def measured(quantizer: Callable[[np.ndarray], Quantized], dim: int, seeds: int) -> dict[str, float]:
    """Return means over seeds of the message, its payload, the squared error and the time, for Gaussian coordinates."""
    rows = []
    for seed in range(seeds):
        alpha = stream(seed, "benchmark", dim).standard_normal(dim)
        start = time.perf_counter()
        quantized = quantizer(alpha)
        seconds = time.perf_counter() - start
        encoded = coded(quantized)
        error = float(np.mean((quantized.reconstruction - alpha) ** 2))
        floor = dim / 2 * math.log2(float(np.mean(alpha**2)) / error)
        rows.append((8 * len(encoded.data), encoded.ledger["payload"], error, floor, seconds))
    names = ("message_bits", "payload_bits", "mean_squared_error", "rate_distortion_function_bits", "quantize_seconds")
    return {name: round(float(value), 5) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def at_error(dim: int, target: float, grid: str, seeds: int) -> dict[str, float]:
    """Bisect the lagrangian until the mean squared error is at most `target`, and as near to it as 9 steps bring it."""

    def row(lagrangian: float) -> dict[str, float]:
        return measured(lambda alpha: rate_distortion_quantize(alpha, np.ones(dim), lagrangian, grid=grid), dim, seeds)

    low, high = math.log(target / 5), math.log(5 * target)
    best: dict[str, float] = {}
    for _ in range(9):
        middle = (low + high) / 2
        tried = row(math.exp(middle))
        if tried["mean_squared_error"] <= target:
            best, low = tried | {"lagrangian": round(math.exp(middle), 6)}, middle
        else:
            high = middle
    return best


def entropy_distance(dim: int) -> dict[str, float]:
    """Return how far the payload is from the empirical entropy of its symbols."""
    quantized = quantize(stream(0, "entropy", dim).standard_normal(dim), levels=11, method="uniform")
    share = np.bincount(quantized.symbols) / dim
    share = share[share > 0]
    entropy = -dim * float((share * np.log2(share)).sum())
    encoded = coded(quantized)
    payload = encoded.ledger["payload"]
    return {
        "empirical_entropy_bits": round(entropy, 1),
        "payload_bits": payload,
        "limit_bits": round(1.005 * entropy + 16, 1),
        "header_bits": 8 * len(encoded.data) - payload - encoded.ledger["padding"],
    }


def speed(quantized: Quantized) -> dict[str, float]:
    """Return the seconds that encoding and decoding a message take."""
    start = time.perf_counter()
    data = coded(quantized).data
    both = time.perf_counter() - start
    start = time.perf_counter()
    decode_message(data, max_symbols=len(quantized.symbols))
    decode = time.perf_counter() - start
    return {"encode_seconds": round(both - decode, 3), "decode_seconds": round(decode, 3)}


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="few and short vectors; nothing is written")
    toy = parser.parse_args().toy
    seeds, errors, many = (1, ((50, 0.1),), 1_000) if toy else (10, ((200, 0.0153), (1000, 0.0418)), 1_000_000)
    dims = [dim for dim, _ in errors]
    long = stream(0, "speed").standard_normal(many)
    k = np.clip(np.rint(long / 0.5), -8, 8)
    results = {
        "command": "python benchmarks/coding.py",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "constriction", "kmeans1d")},
        "gaussian_coordinates": {
            f"d={dim}, mean squared error <= {target}": {
                grid: at_error(dim, target, grid, seeds) for grid in ("trellis", "scalar")
            }
            for dim, target in errors
        },
        "least_squares_11_levels": {
            f"d={dim}": {m: measured(partial(quantize, levels=11, method=m), dim, seeds) for m in QUANTIZERS}
            for dim in dims
        },
        "payload_against_entropy": {f"d={dim}": entropy_distance(dim) for dim in (*dims, many // 100, many)},
        "long_message": {
            "parametric": speed(quantize_uniform(long, 0.5)),
            "static": speed(quantize(long, levels=11, method="kmeans")),
            "trellis": speed(Quantized((k + 8).astype(np.int32), TrellisGrid(0, 17))),
        },
    }
    text = json.dumps(results, indent=1) + "\n"
    if not toy:
        RESULTS.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
