"""What a corpus of the size of OpenWebText costs: time and memory of everything that reads all of its documents.

    python benchmarks/scale.py [--documents 8009762] [--tokens 800000000 4000000000] [--samples 10000] [--out FILE]

writes benchmarks/results/scale.json. For each number of tokens a file as nanoGPT's scripts write it is simulated in a
temporary folder: documents of exponential lengths, tokens uniform over GPT-2's, 2 bytes each. The package reads it:

* index: the corpus is opened, which finds its documents and the SHA-256 of the file
* hash: SHA-256 of the documents
* distinct: how many of them differ
* known code: what each costs in the code that is known beforehand, and the bound on its expectation
* draw: a message of 50,000 coordinates is written, and its hash draws the documents to be measured
* certificate: the claims that follow from (invented) losses of those documents

Every stage is a process of its own. Memory is the largest RssAnon of /proc/PID/status, read every 10 ms: what the
process allocated and touched. Pages of the token file are not in it, mapped or cached: the kernel has them and takes
them back. `start_mb` is what the process has before its stage: the imported modules. The file is read soon after it was
written, from the page cache if that is large enough.
"""

import argparse
import functools
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sublora.certificate.assemble import coded_setting
from sublora.certificate.claims import decompose, earlier_bound, make_claims
from sublora.certificate.draw import draw_units
from sublora.certificate.known import KnownCode, known_code, measure_code
from sublora.certificate.model import Known
from sublora.certificate.terms import bytes_of_a_token, make_terms, min_bytes
from sublora.coding.architecture import Architecture
from sublora.coding.message import Header, encode_message
from sublora.coding.quantizers import quantize_uniform
from sublora.coding.spec import ModelSpec
from sublora.corpus.assumed import GPT2_EOT
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.token_type import NARROW
from sublora.corpus.units import Units, sample_units
from sublora.scoring.scores import Scores
from sublora.seeds import stream

RESULTS = Path(__file__).resolve().parent / "results" / "scale.json"
# Of OpenWebText's training documents in nanoGPT's split.
DOCUMENTS = 8_009_762
SHORTEST, CHUNK_TOKENS, BLOCK = 16, 1 << 24, 1024
DELTA, COORDINATES, STEP = Fraction("0.05"), 50_000, 1.0
POLL_SECONDS = 0.01
FORK = multiprocessing.get_context("fork")
Facts = dict[str, Any]


def write_corpus(path: Path, documents: int, tokens: int) -> None:
    """Write a token file of so many documents and about so many tokens, end-of-text included, a chunk at a time."""
    mean = tokens / documents - 1
    at_once = max(1, round(CHUNK_TOKENS / (mean + 1)))
    with path.open("wb") as file:
        for first in range(0, documents, at_once):
            rng = stream(0, "scale", first)
            longer = rng.standard_exponential(min(at_once, documents - first)) * max(mean - SHORTEST, 0)
            ends = np.cumsum(SHORTEST + np.rint(longer).astype(np.int64) + 1) - 1
            part = rng.integers(0, GPT2_EOT, ends[-1] + 1, dtype=np.uint16)
            part[ends] = GPT2_EOT
            file.write(part.astype(NARROW, copy=False).data)


def opened(folder: Path) -> tuple[Corpus, Units, KnownCode]:
    """Return the corpus, its documents and their code."""
    corpus = open_corpus(folder)
    units = sample_units(corpus, corpus.train, "document_level", BLOCK)
    return corpus, units, known_code(corpus, units, 0)


def header_of(corpus: Corpus, samples: int) -> Header:
    """Return the header of a message about the corpus, of GPT-2 small from random weights."""
    setting = coded_setting(
        corpus, bound_type="document_level", delta=DELTA, joint=False, population=False, prior=False, ngram_order=0
    )
    return Header(
        setting=setting,
        architecture=Architecture("random", 12, 12, 768, BLOCK, corpus.vocab_size),
        spec=ModelSpec(seed=0, intrinsic_dim=COORDINATES),
        mixture_exponent=4,
        samples=samples,
        stride=BLOCK,
    )


def index(folder: Path, facts: Facts) -> Facts:
    """Open the corpus for the first time."""
    split = open_corpus(folder).train
    return {"documents": len(split), "tokens": len(split.tokens)}


def content_hash(folder: Path, facts: Facts) -> Facts:
    """Hash the documents."""
    return {"sha256": opened(folder)[1].content_sha256()}


def distinct(folder: Path, facts: Facts) -> Facts:
    """Count the documents that differ."""
    return {"distinct": opened(folder)[1].split.n_distinct()}


def known(folder: Path, facts: Facts) -> Facts:
    """Measure all documents in the known code."""
    corpus, units, code = opened(folder)
    header = header_of(corpus, facts["samples"])
    measured = measure_code(code, [units.split], min_bytes(header.setting), whole=False)
    bytes_each = bytes_of_a_token(header.setting)
    found = measured.known(float(DELTA), header.known_bits, header.prediction, bytes_each)
    return {"known": found.model_dump(mode="json")}


def draw(folder: Path, facts: Facts) -> Facts:
    """Write a message, and draw the documents that it is measured on."""
    corpus, units, _ = opened(folder)
    alpha = stream(0, "scale", "alpha").standard_normal(COORDINATES)
    header = header_of(corpus, facts["samples"])
    data = encode_message(header, quantize_uniform(alpha, STEP), np.zeros(0)).data
    drawn = draw_units(data, facts["sha256"], len(units), facts["samples"])
    return {"bits": 8 * len(data), "drawn": drawn.tolist()}


def certificate(folder: Path, facts: Facts) -> Facts:
    """Bound what losses of the drawn documents say, for a model that needs about a fifth less than the known code."""
    corpus, units, code = opened(folder)
    drawn = np.array(facts["drawn"])
    prices, lengths = code.bits(units.split, drawn), units.split.lengths[drawn]
    bits = prices * stream(0, "scale", "losses").normal(0.8, 0.02, len(drawn))
    empty = Scores.zeros(len(drawn), 0)
    smoothed = np.broadcast_to((bits / lengths)[:, None], empty.smoothed.shape).astype(np.float32)
    misses = np.broadcast_to((0.9 * lengths).astype(np.int64)[:, None], empty.misses.shape)
    scores = Scores(bits, lengths, empty.byte_lengths, prices, empty.base_bits, smoothed, misses, empty.token_bits)
    header = header_of(corpus, facts["samples"])
    terms = make_terms(header, facts["bits"], len(units), Known.model_validate(facts["known"]))
    claims = make_claims(scores, terms)
    parts = decompose(scores, terms, claims[0].bound)
    compared = earlier_bound(scores, terms)
    return {"bound": claims[0].bound, "empirical": parts.empirical, "reference": compared.bound}


STAGES: dict[str, Callable[[Path, Facts], Facts]] = {
    "index": index,
    "hash": content_hash,
    "distinct": distinct,
    "known code": known,
    "draw": draw,
    "certificate": certificate,
}


def anonymous_mb(pid: int) -> float:
    """Return the anonymous resident memory of a process in megabytes; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def measure(call: Callable[[], Facts]) -> tuple[dict[str, float], Facts]:
    """Run a call in a process of its own; return its time and memory, and its answer."""
    ours, theirs = FORK.Pipe(duplex=False)

    def work() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = call()
        times = time.perf_counter() - wall, time.process_time() - cpu
        theirs.send_bytes(json.dumps([*times, answer]).encode())

    process = FORK.Process(target=work)
    process.start()
    theirs.close()
    assert process.pid is not None
    before = peak = anonymous_mb(process.pid)
    while not ours.poll(POLL_SECONDS):
        peak = max(peak, anonymous_mb(process.pid))
    seconds, cpu, answer = json.loads(ours.recv_bytes())
    process.join()
    cost = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "start_mb": round(before),
        "peak_mb": round(peak),
    }
    return cost, answer


def row(documents: int, tokens: int, samples: int) -> dict[str, Any]:
    """Return what every stage costs for a corpus of so many documents and tokens."""
    facts: Facts = {"samples": samples}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        write_corpus(folder / "train.bin", documents, tokens)
        written = time.perf_counter() - start
        size = (folder / "train.bin").stat().st_size
        stages = {}
        for stage, call in STAGES.items():
            stages[stage], found = measure(functools.partial(call, folder, facts))
            facts |= found
    counted = {
        name: facts[name] for name in ("documents", "tokens", "distinct", "bits", "bound", "empirical", "reference")
    }
    return counted | {"bytes": size, "seconds_to_simulate": round(written, 1), "stages": stages}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--tokens", type=int, nargs="+", default=[800_000_000, 4_000_000_000])
    parser.add_argument("--samples", type=int, default=10_000, help="documents that are drawn")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = {
        "command": " ".join(["python benchmarks/scale.py", *sys.argv[1:]]),
        "samples": options.samples,
        "rows": [row(options.documents, tokens, options.samples) for tokens in options.tokens],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
