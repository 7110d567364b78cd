"""Where the subspace lives, and how large it is, behind the prompt of `smollm2_docs`: held-out loss after sixty steps.

    python benchmarks/frames.py [--config FILE] [--rows NAME ...] [--work DIR] [--out FILE]

Writes benchmarks/results/frames.json. Every row is one `sublora train` of config/smollm2_docs.yaml with the flags
that are recorded beside its loss, one seed, and validation documents that are the same for all. A run that lies in
--work and is finished is read, not trained again. The rows of the practised frame need its base, docs/smollm2.md.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from sublora.config import load_config
from sublora.files import write_text
from sublora.run_folder import RunFolder
from sublora.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "frames.json"
STEPS = 60
LORA, SPECTRAL = "--sublora.adapter=lora", "--sublora.adapter=spectral"
PRACTISED = "--prior.base=out/smollm2_practised"
ROWS = {
    "own singular vectors": [SPECTRAL, "--optimizer.learning_rate=0.02"],
    "practised, rate .007": [SPECTRAL, PRACTISED, "--optimizer.learning_rate=0.007"],
    "practised, rate .03": [SPECTRAL, PRACTISED, "--optimizer.learning_rate=0.03"],
    "LoRA, rate .3": [LORA, "--optimizer.learning_rate=0.3"],
    "LoRA, rate 1": [LORA, "--optimizer.learning_rate=1.0"],
    "LoRA, d = 2,000": [LORA, "--optimizer.learning_rate=0.3", "--sublora.intrinsic_dim=2000"],
    "all of LoRA": [LORA, "--optimizer.learning_rate=0.001", "--sublora.intrinsic_dim=0"],
}


def measured(name: str, config_file: str, work: Path, steps: int) -> dict[str, Any]:
    """Train a row's run unless it is finished, and return what the results say of it."""
    folder = RunFolder(work / name.translate(str.maketrans("", "", " ,.=")))
    flags = [*ROWS[name], f"--training.max_iters={steps}", f"--training.eval_interval={steps}"]
    evals = evaluations(folder)
    if not evals or evals[-1]["iter"] < steps:
        where = [f"--config-file={config_file}", f"--login.out_dir={folder.path}", "--system.threads=1"]
        train(load_config([*where, *flags]))
        evals = evaluations(folder)
    return {"name": name, "flags": flags, "before": evals[0]["val_bpd"], "after": evals[-1]["val_bpd"]}


def evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the evaluations that a run has recorded."""
    if not folder.metrics.exists():
        return []
    records = (json.loads(line) for line in folder.metrics.read_text().splitlines())
    return [record for record in records if record["kind"] == "eval"]


def main() -> None:
    """Train what is not trained yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "config" / "smollm2_docs.yaml"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--work", type=Path, default=Path("out/frames"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = {
        "command": "python benchmarks/frames.py",
        "unit": "bits per byte of validation documents, before quantization",
        "steps": options.steps,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "rows": [measured(name, options.config, options.work, options.steps) for name in options.rows],
    }
    write_text(options.out, json.dumps(result, indent=2) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
