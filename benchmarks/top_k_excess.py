"""Top-k errors bounded as they are, or as the base's errors and the excess over them: which is smaller?

    python benchmarks/top_k_excess.py [--run RUN DATA BASE] [--out FILE]

Writes benchmarks/results/top_k_excess.json. Direct: betting on err_h with K and delta. Through the base: betting on
err_h - err_b, in [-1, 1], with K and 0.9 delta, plus betting on err_b with the 24 bits that name the base and 0.1
delta; both pay for the division and for 2^40 draws. No certificate holds the errors of its base. So base errors are
made from the recorded errors of the committed certificates: every token changes between hit and miss with the chance
that makes so many tokens agree, and three of four changes are tokens that only the base misses. With RUN, the base's
errors are measured on the run's own draw instead.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sublora import seeds
from sublora.certificate.draw import DRAW_BITS
from sublora.certificate.model import Certificate
from sublora.certificate.reading import read_certificate
from sublora.coding.architecture import TAG_BITS
from sublora.coding.message import MAX_SYMBOLS, decode_message
from sublora.inequalities import betting, betting_subsampled, nats
from sublora.run_folder import RunFolder
from sublora.scoring.scores import TOP_K, read_scores

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "top_k_excess.json"
RUNS = ("demo", "smollm2_docs", "smollm2_share")
SHOWN = (1, 10, 100)
AGREEMENTS = (0.99, 0.95, 0.85)
# By how much the base's error is above the model's, as a share of the tokens on which they disagree.
GAIN = 0.5
BASE_SHARE = 0.1


def bound(losses: np.ndarray, bits: int, delta: float, certificate: Certificate, every: bool) -> float:
    """Return the betting bound of losses of at most 1, in two stages, or as if all n documents were like them."""
    c = certificate
    paid, n = bits + c.message.division_bits, c.corpus.n
    if every:
        whole = np.resize(losses, n)
        return betting(whole, upper=1.0, nats=nats(paid, delta))
    return betting_subsampled(
        losses, upper=1.0, n=n, message_nats=paid * math.log(2), delta=delta, claims=2**DRAW_BITS
    ).value


def row(model: np.ndarray, base: np.ndarray, certificate: Certificate, every: bool) -> dict[str, float]:
    """Return both bounds on the model's error.

    Args:
        model, base: shares of a document's tokens that are missed.
        certificate: K, n and delta.
        every: as if all documents were measured.
    """
    delta, bits = float(certificate.setting.delta), certificate.message.bits
    excess = bound(model - base, bits, (1 - BASE_SHARE) * delta, certificate, every)
    of_base = bound(base, TAG_BITS, BASE_SHARE * delta, certificate, every)
    return {
        "error": float(model.mean()),
        "spread": float(model.std()),
        "spread_of_excess": float((model - base).std()),
        "direct": bound(model, bits, delta, certificate, every),
        "through_the_base": min(excess + of_base, 1.0),
        "excess_gap": excess - float((model - base).mean()),
        "base_gap": of_base - float(base.mean()),
    }


def imagined_base(misses: np.ndarray, lengths: np.ndarray, agreement: float, seed: int) -> np.ndarray:
    """Return the errors of a base that agrees with a model on so many tokens and misses more of them."""
    rng = seeds.stream(seed, "base errors")
    wrong, total = misses.sum() / lengths.sum(), 1 - agreement
    # Tokens that only the base misses, and those that only the model misses, as shares of all tokens.
    lost, won = (1 + GAIN) / 2 * total, (1 - GAIN) / 2 * total
    lost, won = min(lost, 1 - wrong), min(won, wrong)
    more = rng.binomial(lengths - misses, lost / (1 - wrong))
    return (misses + more - rng.binomial(misses, won / wrong)) / lengths


def measured_base(run: RunFolder, data: Path, base: str) -> np.ndarray:
    """Return the tokens that a run's base misses in the documents of the run's draw, per k of TOP_K."""
    from sublora.certificate.evidence import Evidence
    from sublora.corpus.corpus import open_corpus
    from sublora.scoring.decisions import RANK_MARGIN
    from sublora.scoring.measure import protocol_of
    from sublora.scoring.processes import Processes
    from sublora.scoring.risk import score_units

    certificate, message = read_certificate(run.certificate), run.message.read_bytes()
    header = decode_message(message, max_symbols=MAX_SYMBOLS).header
    evidence = Evidence(header, open_corpus(data), base, "", Processes("cpu"))
    assert evidence.pretrained is not None, "the run's base is random"
    protocol = protocol_of(header, certificate.how.batch_size, RANK_MARGIN)
    drawn = evidence.draw(message, header.samples)
    return score_units(evidence.pretrained, evidence.units, drawn, **dataclasses.asdict(protocol)).misses


def rows_of(run: RunFolder, base_misses: np.ndarray | None) -> list[dict[str, Any]]:
    """Return the rows of one run, with a base that was measured or with imagined ones."""
    certificate, scores = read_certificate(run.certificate), read_scores(run.losses)
    out = []
    for k in SHOWN:
        i = TOP_K.index(k)
        misses, model = scores.misses[:, i], scores.errors[:, i]
        if base_misses is None:
            bases = [(a, imagined_base(misses, scores.lengths, a, k)) for a in AGREEMENTS]
        else:
            bases = [(math.nan, base_misses[:, i] / scores.lengths)]
        for agreement, base in bases:
            for every in (False, True):
                facts = {"run": run.path.name, "bits": certificate.message.bits, "k": k, "every_document": every}
                if base_misses is None:
                    facts["agreement"] = agreement
                out.append(facts | row(model, base, certificate, every))
    return out


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs=3, metavar=("RUN", "DATA", "BASE"), help="measure the errors of a run's base")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.run:
        run = RunFolder(Path(options.run[0]))
        rows = rows_of(run, measured_base(run, Path(options.run[1]), options.run[2]))
    else:
        rows = [row for name in RUNS for row in rows_of(RunFolder(ROOT.parent / "results" / name), None)]
    options.out.write_text(json.dumps({"command": "python benchmarks/top_k_excess.py", "rows": rows}, indent=2) + "\n")
    for r in rows:
        sys.stdout.write(" ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in r.values()) + "\n")


if __name__ == "__main__":
    main()
