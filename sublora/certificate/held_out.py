"""The decoded model's loss on text that had no part in training: beside a claim, never part of it."""

import math
from typing import Any

import numpy as np

from sublora.certificate.claims import Terms, losses_by_metric
from sublora.corpus.corpus import Corpus
from sublora.corpus.units import held_out_units
from sublora.scoring.measure import Protocol, Rebuilt, score
from sublora.scoring.processes import Processes

UNITS = 500


def held_out(
    rebuilt: Rebuilt, corpus: Corpus, terms: Terms, protocol: Protocol, processes: Processes
) -> dict[str, Any] | None:
    """Return mean losses on evenly spaced held-out units, and the standard error; None where there are none.

    Args:
        rebuilt: the decoded model.
        corpus: whose held-out documents are read.
        terms: what a loss is.
        protocol: how units are scored.
        processes: that share the work.
    """
    units = held_out_units(corpus, terms.bound_type, protocol.block_size)
    if units is None:
        return None
    chosen = np.unique(np.linspace(0, len(units) - 1, UNITS).astype(int))
    scores = score(rebuilt, units, chosen, protocol, processes, "measuring held-out text")
    metrics = losses_by_metric(scores, terms)
    out: dict[str, Any] = {"documents": len(chosen)}
    for metric in ("bpd", "bpb", "top_1_error"):
        if metric in metrics:
            out[metric] = float(metrics[metric].values.mean())
    # Tokens of a unit depend on each other, so the error of the mean is that of units.
    per_unit = scores.bits / scores.lengths if terms.about_tokens else metrics["bpd"].values
    out["standard_error"] = float(per_unit.std(ddof=1) / math.sqrt(len(chosen))) if len(chosen) > 1 else 0.0
    return out
