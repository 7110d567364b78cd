"""The decoded model's loss on text that had no part in training: beside a claim, never part of it."""

import math

import numpy as np

from sublora.certificate.claims import alone, losses_by_metric
from sublora.certificate.model import HeldOut
from sublora.certificate.terms import Terms
from sublora.corpus.corpus import Corpus
from sublora.corpus.units import held_out_units
from sublora.scoring.measure import Protocol, Rebuilt, References, score
from sublora.scoring.processes import Processes

# A tenth of the units that the claim is measured on, but enough for a standard error of a few hundredths of a bit.
SHARE, LEAST, OF_ALL = 10, 100, 250


def held_out(
    rebuilt: Rebuilt,
    references: References,
    corpus: Corpus,
    terms: Terms,
    protocol: Protocol,
    processes: Processes,
    samples: int,
) -> HeldOut | None:
    """Return mean losses on evenly spaced test units, and the standard error; None where there are none.

    A corpus of another tool may have validation documents only: then these are measured, and the certificate says so.

    Args:
        rebuilt: the decoded model.
        references: what it is compared with.
        corpus: whose test documents are read.
        terms: what a loss is.
        protocol: how units are scored.
        processes: that share the work.
        samples: units that the claim is measured on, 0 for all of them.
    """
    units = held_out_units(corpus, terms.bound_type, protocol.block_size)
    if units is None:
        return None
    part = corpus.val if corpus.test is None else corpus.test
    assert part is not None
    count = max(LEAST, samples // SHARE) if samples else OF_ALL
    chosen = np.unique(np.linspace(0, len(units) - 1, count).astype(int))
    scores = score(rebuilt, references, units, chosen, protocol, processes, "measuring held-out text")
    metrics = losses_by_metric(scores, terms)
    # Tokens of a unit depend on each other, so the error of the mean is that of units.
    per_unit = scores.bits / scores.lengths if terms.about_tokens else metrics["bpd"].values
    bytes_known = "bpb" in metrics
    return HeldOut(
        documents=len(chosen),
        part="validation" if corpus.test is None else "test",
        sha256=part.content_sha256(),
        bpd=float(metrics["bpd"].values.mean()),
        bpb=float(metrics["bpb"].values.mean()) if bytes_known else None,
        base_bpb=float((scores.base_bits[:, 0] / scores.byte_lengths).mean())
        if terms.has_base and bytes_known
        else None,
        top_1_error=alone(scores, terms, "top_1_error"),
        standard_error=float(per_unit.std(ddof=1) / math.sqrt(len(chosen))) if len(chosen) > 1 else 0.0,
    )
