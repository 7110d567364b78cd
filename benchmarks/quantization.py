"""Message length against loss for every quantizer, on a trained checkpoint.

    python benchmarks/quantization.py RUN DATA [--documents 50]

RUN is a folder that `sublora train` wrote, DATA its corpus. Writes benchmarks/results/quantization.json: for every
quantizer and step the message's bits, the squared error relative to that of sending zeros, the decoded model's bits per
token on training documents, and the bound they would give if all n documents were like them.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sublora.bounds.certify import Certifier
from sublora.bounds.curvature import fisher
from sublora.coding.feedback import feedback_quantize
from sublora.coding.message import encode_message
from sublora.coding.quantizers import Quantized, quantize, quantize_uniform
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.training.checkpoint import load_checkpoint

RESULTS = Path(__file__).parent / "results" / "quantization.json"
MIXTURE_EXPONENT = 4


def candidates(certifier: Certifier, samples: int) -> list[tuple[str, Quantized]]:
    """Return named quantizations of the checkpoint, from fine to coarse."""
    alpha = certifier.alpha
    rms = float(np.sqrt(np.mean(alpha.astype(np.float64) ** 2)))
    model = certifier.trained_model()
    block_size = certifier.architecture.block_size
    curvature = fisher(model, certifier.corpus.train, seed=0, samples=samples, block_size=block_size)
    out = [(f"{method}, 11 levels", quantize(alpha, levels=11, method=method)) for method in ("uniform", "kmeans")]
    out += [(f"uniform, step {k} rms", quantize_uniform(alpha, k * rms)) for k in (0.15, 0.25, 0.4, 0.6)]
    for k in (0.15, 0.25, 0.4, 0.6):
        lagrangian = (k * rms) ** 2 * np.log(4) / 12
        out.append((f"trellis, step {k} rms", rate_distortion_quantize(alpha, np.ones(len(alpha)), lagrangian)))
    out += [(f"feedback, step {k} rms", feedback_quantize(alpha, curvature, k * rms)) for k in (0.4, 0.6, 0.8, 1.0)]
    return out


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--documents", type=int, default=50, help="training documents that are scored")
    parser.add_argument("--samples", type=int, default=512, help="sequences that the curvature is estimated from")
    options = parser.parse_args()
    certifier = Certifier(load_config([]), load_checkpoint(options.run), open_corpus(options.data))
    certifier.calibration = certifier.calibration[:: max(1, len(certifier.calibration) // options.documents)]
    rows = []
    for name, quantized in candidates(certifier, options.samples):
        encoded = encode_message(certifier.spec, MIXTURE_EXPONENT, quantized, certifier.gates)
        scores = certifier.calibrate(encoded.data)
        error = float(np.mean((quantized.reconstruction - certifier.alpha) ** 2) / np.mean(certifier.alpha**2))
        rows.append(
            {
                "quantizer": name,
                "bits": 8 * len(encoded.data),
                "relative_error": error,
                "bpd": float((scores.bits / scores.lengths).mean()),
                "estimated_bound": certifier.estimate(encoded, scores, MIXTURE_EXPONENT),
            }
        )
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    command = f"python benchmarks/quantization.py RUN DATA {' '.join(sys.argv[3:])}".strip()
    result = {"command": command, "documents": len(certifier.calibration), "samples": options.samples, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
