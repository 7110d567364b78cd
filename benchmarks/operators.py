"""What a product with P and one with its transpose cost in a training step, for every operator.

    python benchmarks/operators.py [--toy]

writes benchmarks/results/operators.json. Timed is what a step does: theta = P(alpha) with autograd, then the gradient
of alpha from a gradient of theta, with one thread and with two (on a machine with other work to do, two threads wait
for each other). `tables` is what an operator keeps, in bytes per parameter.

* lora: D = 351,744 and d = 1,000, rank 4 on the query, value and head projections of a GPT-2 small with 50,304 tokens.
  Next to the operators stand torch's product with a stored D x d matrix, and PEFT's own shared-coordinate adapter
  (Uni-LoRA) on linear layers of the same shapes. "Made again" is the dense operator without room for its matrix.
* large: D = 20,000,000 and d = 50,000.
* scaling: time against D and d.

--toy: small layers, and nothing is written.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn

from sublora.nn.operators import OPERATORS, LinearOperator, make_operator
from sublora.nn.operators.dense import DenseOperator
from sublora.seeds import stream

RESULT = Path(__file__).resolve().parent / "results" / "operators.json"
THREADS = (1, 2)
RANK = 4


@dataclass(frozen=True)
class Sizes:
    """What is timed.

    shapes: of linear layers (inputs, outputs); the entries of their LoRA factors are D.
    d: coordinates beside them.
    large: D and d of a large model.
    scaling: pairs of D and d.
    """

    shapes: Sequence[tuple[int, int]]
    d: int
    large: tuple[int, int]
    scaling: Sequence[tuple[int, int]]

    @property
    def D(self) -> int:
        """Entries of the factors of all layers."""
        return RANK * sum(inputs + outputs for inputs, outputs in self.shapes)


# 351,744 entries.
FULL = Sizes(
    [(768, 768)] * 24 + [(768, 50_304)],
    1_000,
    (20_000_000, 50_000),
    [(D, d) for D in (10**5, 10**6) for d in (100, 1_000, 10_000)],
)
TOY = Sizes([(16, 16)] * 2 + [(16, 64)], 20, (2_000, 50), [(1_000, 10)])


def milliseconds(step: Callable[[], Any], repeats: int) -> dict[str, dict[str, float]]:
    """Return, per number of threads, the median and the minimum time of a step, after one that is not counted."""
    result = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        step()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - start))
        result[str(threads)] = {"median_ms": round(statistics.median(times), 3), "min_ms": round(min(times), 3)}
    return result


def normals(name: str, size: int) -> Tensor:
    """Return a standard normal vector."""
    return torch.from_numpy(stream(0, "benchmark", name).standard_normal(size, dtype=np.float32))


def time_step(theta: Callable[[Tensor], Tensor], D: int, d: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time theta(alpha) and the gradient of alpha."""
    alpha, grad = normals("alpha", d).requires_grad_(), normals("grad", D)
    return milliseconds(lambda: torch.autograd.grad(theta(alpha), alpha, grad), repeats)


def row(name: str, make: Callable[[], LinearOperator], repeats: int) -> dict[str, Any]:
    """Return a line of the result: the construction of an operator and a step with it."""
    start = time.perf_counter()
    operator = make()
    built = time.perf_counter() - start
    D, d = operator.shape
    tables = sum(table.numel() * table.element_size() for table in operator.buffers()) / D
    step = time_step(operator, D, d, repeats)
    return {"operator": name, "D": D, "d": d, "threads": step, "build_s": round(built, 3), "tables": round(tables, 2)}


def kind_row(kind: str, D: int, d: int, repeats: int) -> dict[str, Any]:
    """Return the line of a kind."""
    return row(kind, lambda: make_operator(kind, D, d, (0, "benchmark")), repeats)


class Linears(nn.Module):
    """Linear layers, for an adapter to be put on."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*shape, bias=False, device="meta") for shape in shapes)


def time_peft(sizes: Sizes, repeats: int) -> dict[str, Any]:
    """Time the matrices that PEFT's Uni-LoRA adapter makes of its coordinates, and their gradient."""
    config = peft.UniLoraConfig(r=RANK, theta_d_length=sizes.d, target_modules=r"layers\.\d+", proj_seed=0)
    model = peft.get_peft_model(Linears(sizes.shapes).to_empty(device="cpu"), config)
    layers: list[Any] = [m for m in model.modules() if isinstance(m, peft.tuners.unilora.layer.UniLoraLayer)]
    coordinates = layers[0].unilora_theta_d["default"]
    matrices = [matrix for layer in layers for matrix in layer._get_lora_matrices("default")]
    gradients = normals("grad", sizes.D).split([matrix.numel() for matrix in matrices])
    shaped = [g.view(m.shape) for g, m in zip(gradients, matrices, strict=True)]

    def step() -> None:
        made = [matrix for layer in layers for matrix in layer._get_lora_matrices("default")]
        torch.autograd.grad(made, coordinates, shaped)

    tables = sum(b.numel() * b.element_size() for layer in layers for b in layer.buffers()) / sizes.D
    return {
        "operator": "PEFT Uni-LoRA",
        "D": sizes.D,
        "d": coordinates.numel(),
        "threads": milliseconds(step, repeats),
        "tables": round(tables, 2),
    }


def dense_rows(D: int, d: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time the dense operator, and torch's product with its matrix; both are gone before more are made."""
    dense = DenseOperator(D, d, (0, "benchmark"))
    product = partial(torch.mv, dense.get_buffer("entries"))
    kept = row("dense", lambda: dense, 5)
    del kept["build_s"]
    return kept, {"operator": "stored matrix", "D": D, "d": d, "threads": time_step(product, D, d, 5)}


def lora_rows(sizes: Sizes) -> list[dict[str, Any]]:
    """Time every kind, and what it is compared with, at the size of a small model's LoRA parameters."""
    D, d = sizes.D, sizes.d
    fast = [kind_row(kind, D, D if kind == "identity" else d, 41) for kind in OPERATORS if kind != "dense"]
    kept, matrix = dense_rows(D, d)
    made = row("dense, made again", lambda: DenseOperator(D, d, (0, "benchmark"), memory_budget=0), 2)
    return [*fast, kept, made, matrix, time_peft(sizes, 21)]


def main() -> None:
    """Measure, write and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small layers; nothing is written")
    toy = parser.parse_args().toy
    sizes = TOY if toy else FULL
    result: dict[str, Any] = {
        "command": "python benchmarks/operators.py",
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "peft": peft.__version__},
        "unit": "milliseconds for theta = P(alpha) and the gradient of alpha; tables in bytes per parameter",
        "lora": lora_rows(sizes),
        "large": [kind_row(kind, *sizes.large, 5) for kind in ("partition", "fastfood", "rdkronqr")],
        "scaling": [
            kind_row(kind, D, d, 7)
            for kind in ("partition", "fastfood", "rdkronqr", "sparse")
            for D, d in sizes.scaling
            if kind != "sparse" or d * D**0.5 < 2e7
        ],
    }
    if not toy:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for part in ("lora", "large", "scaling"):
        for line in result[part]:
            times = "  ".join(
                f"{threads} threads: median {t['median_ms']:8.2f} min {t['min_ms']:8.2f} ms"
                for threads, t in line["threads"].items()
            )
            sys.stdout.write(f"{part:8} {line['operator']:17} D={line['D']:>10,} d={line['d']:>7,}  {times}\n")


if __name__ == "__main__":
    main()
