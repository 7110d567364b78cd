"""What simple codes need for the held-out documents of a corpus, in bits per token. None of it is certified.

    python benchmarks/baselines.py DATA

writes benchmarks/results/baselines.json. Each document is coded on its own, and documents weigh equally. Counts are
those of the training documents; what they would cost to code is part of a certificate's baselines, and not of this.
"""

import json
import sys
from pathlib import Path

import numpy as np

from sublora.corpus.baselines import adaptive_bits, count_tokens, uniform_bits, zlib_bits
from sublora.corpus.corpus import open_corpus

ROOT = Path(__file__).resolve().parent.parent


def main(data: Path) -> None:
    """Measure, write and print."""
    corpus = open_corpus(data)
    split = corpus.val
    if split is None:
        sys.exit(f"{data} has no held-out documents")
    documents, vocab_size = np.arange(len(split)), corpus.vocab_size
    bits = {
        "uniform coding": uniform_bits(split, documents, vocab_size),
        "order-0 adaptive, per document": adaptive_bits(split, documents, vocab_size),
        "zlib, per document": zlib_bits(split, documents, vocab_size),
        "unigram counts of the training text": count_tokens(corpus.train, vocab_size, pairs=False).bits(
            split, documents
        ),
        "bigram counts of the training text": count_tokens(corpus.train, vocab_size, pairs=True).bits(split, documents),
    }
    result = {
        "command": "python benchmarks/baselines.py DATA",
        "source": corpus.meta["source"],
        "documents": len(split),
        "held_out_bits_per_token": {name: round(float((b / split.lengths).mean()), 4) for name, b in bits.items()},
    }
    (ROOT / "benchmarks" / "results" / "baselines.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result["held_out_bits_per_token"].items():
        sys.stdout.write(f"{name}: {value:.3f}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
