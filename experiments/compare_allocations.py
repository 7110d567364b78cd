"""Compare allocation modes at equal d, steps and quantizer: held-out loss and estimated bound.

    python experiments/compare_allocations.py DATA OUT [--dims 1000] [--seeds 42 123 999] [--steps 300] [--part 0/1]

DATA is the demo's corpus, OUT a folder for the runs; finished runs are kept, so that parts can run side by side
DATA is the demo corpus, OUT a folder for the runs; finished runs are kept, so that parts can run side by side
bits per token, K, and the bound that the message would get if all n training documents were like 150 of them. That
estimate leaves out the cost of measuring a draw, which is the same for all modes.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sublora.bounds.certify import Certifier
from sublora.coding.message import decode_message
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.files import write_text
from sublora.training.checkpoint import load_checkpoint
from sublora.training.loop import train

ROOT = Path(__file__).parent.parent
MODES = {
    "uniform": [],
    "fixed-bheavy": ["--sublora.allocation_mode=fixed", "--sublora.allocation_ratio=0.8"],
    "fixed-equal": ["--sublora.allocation_mode=fixed", "--sublora.allocation_ratio=0.5"],
    "fixed-aheavy": ["--sublora.allocation_mode=fixed", "--sublora.allocation_ratio=0.2"],
    "learned-shared": ["--sublora.allocation_mode=learned", "--sublora.allocation_scope=shared"],
    "learned-layer": ["--sublora.allocation_mode=learned", "--sublora.allocation_scope=layer"],
}


def measure(flags: list[str], out_dir: Path, data: str) -> dict[str, float]:
    """Train one run, choose its message, and return what it costs and what it would certify."""
    result = out_dir / "estimate.json"
    if not result.exists():
        config = load_config([*flags, f"--login.out_dir={out_dir}"])
        train(config)
        checkpoint = load_checkpoint(out_dir)
        certifier = Certifier(config, checkpoint, open_corpus(data))
        encoded = certifier.choose()
        exponent = decode_message(encoded.data, max_symbols=len(certifier.alpha)).mixture_exponent
        scores, _ = certifier.score(encoded.data, certifier.corpus.train, certifier.calibration, "estimating")
        values = {
            "held_out_bpd": checkpoint.best_val,
            "bits": 8 * len(encoded.data),
            "estimated_bound": certifier.estimate(encoded, scores, exponent),
        }
        write_text(result, json.dumps(values))
    return json.loads(result.read_text())


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dims", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 123, 999])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--part", default="0/1", help="i/k runs every k-th run from the i-th on")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    rows = []
    for i, (d, seed, mode) in enumerate(itertools.product(options.dims, options.seeds, MODES)):
        if i % parts == part:
            flags = [
                f"--config-file={ROOT / 'config' / 'demo.yaml'}",
                f"--data.dataset_dir={options.data}",
                f"--training.max_iters={options.steps}",
                f"--sublora.intrinsic_dim={d}",
                f"--system.seed={seed}",
                *MODES[mode],
            ]
            out_dir = options.out / f"sublora-d{d}-{mode}-seed{seed}"
            rows.append({"d": d, "mode": mode, "seed": seed, **measure(flags, out_dir, options.data)})
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if parts == 1:
        command = " ".join(["python experiments/compare_allocations.py DATA OUT", *sys.argv[3:]])
        write_text(
            ROOT / "results" / "allocation.json", json.dumps({"command": command, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
