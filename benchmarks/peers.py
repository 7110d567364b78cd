"""Adapters of a few hundred values, PEFT's and ours: held-out loss and certified bound with the same effort for each.

    python benchmarks/peers.py addresses
    python benchmarks/peers.py smollm2

Writes benchmarks/results/peers.json or peers_smollm2.json; a killed run goes on from the messages in --work. The base
of `addresses` and its corpus are those of docs/prior.md ("A shift in time"), those of `smollm2` are those of
config/frames_smollm2.yaml. peer_adapters/suites.py has the methods. Every one gets the same batches, the same AdamW and
schedule, and of the same learning rates the one with the lowest loss on validation text after a short run on another
seed. No adapter has settings of its own that were searched; one has a frame of practice on known documents, and its
name says so.

Every method is trained as a subspace whose operator is the identity on its trained values: alpha is their distance
from where they start. So all are quantized by the same error feedback from the same number of gradients, at the same
steps, coded by the same entropy code, and the message with the lowest estimated bound is taken.

What is assumed: the messages of `sublora` and those that are imported are real, and `sublora verify` could check
them. For the others, the header of a LoRA whose values are all coded stands in for one that would say kind, sizes and
seed of PEFT's adapter, and the decoder would have to run PEFT with the same seed to make the values where training
starts and the fixed matrices. K is the length of this stand-in. When all messages are written, one hash of all of
them draws the documents that all are measured on. Each bound holds at 95 % on its own; the smallest of them is no
claim.
"""

import argparse
import dataclasses
import json
import logging
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from peer_adapters.bench import Bench
from peer_adapters.messages import Coded, decoded, kept
from peer_adapters.suites import SUITES

from sublora.certificate.base_bounds import base_alone
from sublora.certificate.claims import alone, losses_by_metric, make_claims
from sublora.certificate.draw import draw_units
from sublora.certificate.issue import Certifier
from sublora.certificate.terms import Terms, make_terms
from sublora.scoring.scores import Scores

log = logging.getLogger(__name__)

RESULTS = Path(__file__).resolve().parent / "results"


def measure(bench: Bench, messages: list[Coded]) -> Iterator[dict[str, Any]]:
    """Yield the rows with their bounds: every model is measured on the documents that all messages together draw."""
    certifier = bench.certifier(False)
    everything = b"".join(coded.data for coded in messages)
    drawn = draw_units(everything, certifier.evidence.content_sha256, len(certifier.units), bench.effort.documents)
    base_bits: np.ndarray | None = None
    for coded in messages:
        model = decoded(bench, coded)
        scores = bench.score(model, certifier.units, drawn, base=base_bits is None)
        base_bits = scores.base_bits if base_bits is None else base_bits
        scores = dataclasses.replace(scores, base_bits=base_bits)
        terms = terms_of(bench.certifier(bench.suite.method(coded.row["method"]).framed), coded)
        claims = {claim.metric: claim.bound for claim in make_claims(scores, terms)}
        log.info("%s (%s): certified %.4f", coded.row["method"], coded.row["message"], claims["bpb"])
        yield coded.row | {
            "held_out_decoded": bench.held_out(model),
            "measured": round(float(losses_by_metric(scores, terms)["bpb"].values.mean()), 4),
            "measured_alone": round(alone(scores, terms, "bpb"), 4),
            "bound": claims["bpb"],
            "gain": claims["bpb_gain"],
            "gain_alone": claims["bpb_gain_alone"],
            "base_with_fallback": base_bound(scores, terms),
        }


def base_bound(scores: Scores, terms: Terms) -> float | None:
    """Return the bound of the base with the same fallback."""
    found = base_alone(scores, terms)
    return None if found is None else found.bound_bpb


def terms_of(certifier: Certifier, coded: Coded) -> Terms:
    """Return the terms of a message's claim."""
    header = coded.message.header
    n = certifier.units.sample_size(header.setting.bound_type)
    return make_terms(header, 8 * len(coded.data), n, certifier.evidence.known(header))


def main() -> None:
    """Train, code and measure every method of a suite, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--base", help="in place of the suite's")
    parser.add_argument("--data", help="in place of the suite's")
    for field in dataclasses.fields(SUITES["addresses"].effort):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help="in place of the suite's")
    parser.add_argument("--work", type=Path, help="where messages are kept (out/NAME OF THE RESULT)")
    parser.add_argument("--out", type=Path, help="in place of benchmarks/results/")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = {name: value for name, value in vars(options).items() if value is not None}
    suite = SUITES[options.suite]
    suite = dataclasses.replace(suite, **{name: given[name] for name in ("base", "data") if name in given})
    changed = {f.name: given[f.name] for f in dataclasses.fields(suite.effort) if f.name in given}
    bench = Bench(suite, dataclasses.replace(suite.effort, **changed))
    work = options.work or Path("out", suite.result)
    messages = [coded for method in suite.methods for coded in kept(bench, method, work)]
    untrained = bench.make(suite.methods[0])
    result = {
        "command": f"python benchmarks/peers.py {options.suite}",
        "effort": dataclasses.asdict(bench.effort),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "peft": peft.__version__},
        "base_held_out": bench.held_out(untrained),
        "base_validation": round(bench.validation(untrained), 4),
        "rows": list(measure(bench, messages)),
    }
    out = options.out or RESULTS / f"{suite.result}.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(out.read_text())


if __name__ == "__main__":
    main()
