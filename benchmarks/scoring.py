"""What it costs to score documents, as multiples of a plain forward pass over the same documents.

    python benchmarks/scoring.py [--toy]

writes benchmarks/results/scoring.json. GPT-2 small with random weights, 50,257 tokens, float32, one thread; documents
of 400, 1,023 and 1,500 random tokens. The plain forward pass reads end-of-text and a document, cut at the context of
1,024 tokens, and computes hidden states and all logits, but no loss. Documents longer than the context are scored in
windows, which read some tokens again: 1,500 tokens in steps of 1,024 or of 100 new tokens. Scoring and plain passes
alternate, and the median over rounds of the ratio of each pair is given. Seconds are the process's own time on its one
thread, which other programs on the machine disturb least.

--toy: two narrow layers, documents and context of a sixteenth, one round, and nothing is written.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from sublora.coding.architecture import Architecture
from sublora.corpus import units
from sublora.corpus.assumed import GPT2_EOT, GPT2_VOCAB
from sublora.corpus.corpus import open_corpus
from sublora.nn.base import create_base
from sublora.scoring.risk import score_units
from sublora.seeds import stream

RESULTS = Path(__file__).resolve().parent / "results" / "scoring.json"
BLOCK = 1024
# Tokens of the documents, their number, new tokens per window, and what Lotfi et al.'s program takes, as a multiple of
# a plain forward pass on the same machine.
Setting = tuple[int, int, int, float]
SETTINGS: tuple[Setting, ...] = (
    (400, 2, BLOCK, 5.5),
    (1023, 1, BLOCK, 4.0),
    (1500, 1, BLOCK, 9.9),
    (1500, 1, 100, 9.9),
)
ROUNDS = 3
TARGET = 1.15
TOY_DIVISOR = 16


def write_documents(folder: Path, settings: Sequence[Setting] = SETTINGS) -> None:
    """Write a token file of the documents that are scored."""
    parts: list[np.ndarray] = []
    for length in sorted({length for length, *_ in settings}):
        count = max(n for tokens, n, *_ in settings if tokens == length)
        for i in range(count):
            parts += [stream(0, "scoring", length, i).integers(0, GPT2_EOT, length), np.array([GPT2_EOT])]
    np.concatenate(parts).astype("<u2").tofile(folder / "train.bin")


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.inference_mode()
def plain(model: PreTrainedModel, documents: list[np.ndarray], block: int) -> None:
    """Compute hidden states and logits of documents of one length, from the end-of-text token on."""
    inputs = np.stack([np.r_[GPT2_EOT, tokens[: block - 1]] for tokens in documents])
    # A last target needs no input of its own: as many inputs as there are tokens, and no more than the context.
    _ = model(input_ids=torch.from_numpy(inputs[:, : len(documents[0])].astype(np.int64))).logits


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a small model, short documents; nothing is written")
    toy = parser.parse_args().toy
    small, rounds = (TOY_DIVISOR, 1) if toy else (1, ROUNDS)
    block, shape = BLOCK // small, (2, 2, 32) if toy else (12, 12, 768)
    settings = [(tokens // small, n, stride // small, multiple) for tokens, n, stride, multiple in SETTINGS]
    torch.set_num_threads(1)
    model = create_base(Architecture("random", *shape, block, GPT2_VOCAB), seed=0).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_documents(Path(folder), settings)
        corpus = open_corpus(Path(folder))
        split = corpus.train
        everything = units.sample_units(corpus, split, "document_level", block)
        for length, count, stride, reference in settings:
            chosen = np.flatnonzero(split.lengths == length)[:count]
            documents = [split.document(int(i)) for i in chosen]
            ours, forward = [], []
            for _ in range(rounds):
                forward.append(seconds(partial(plain, model, documents, block)))
                how: dict[str, Any] = {"block_size": block, "stride": stride, "batch_size": 4}
                ours.append(seconds(partial(score_units, model, everything, chosen, **how)))
            read = int(units.window_tokens(np.array([length]), block, stride)[0])
            multiple = float(np.median(np.array(ours) / forward))
            target = TARGET * max(1.0, read / block)
            rows.append(
                {
                    "tokens": length,
                    "documents": count,
                    "stride": stride,
                    "window_tokens": read,
                    "forward_seconds": round(min(forward) / count, 3),
                    "scoring_seconds": round(min(ours) / count, 3),
                    "multiple": round(multiple, 3),
                    "target": round(target, 3),
                    "reference_multiple": reference,
                }
            )
            sys.stdout.write(
                f"{length} tokens in steps of {stride}: {multiple:.2f} plain forward passes, target {target:.2f}, "
                f"the reference {reference}\n"
            )
    result = {
        "command": "python benchmarks/scoring.py",
        "model": "GPT-2 small, random weights, float32",
        "threads": 1,
        "torch": torch.__version__,
        "rounds": ROUNDS,
        "rows": rows,
    }
    if not toy:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
