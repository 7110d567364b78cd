"""What a certificate has to beat: its base alone, and simple codes, in the unit of its headline."""

from sublora.certificate.model import Baseline, Certificate
from sublora.report.analysis.metrics import Record, column


def base_loss(certificate: Certificate, metrics: list[Record]) -> float | None:
    """Return the loss of the base alone, without any fallback, in the unit of the headline; None where it is unknown.

    A pretrained base was measured on the held-out documents. Random weights are what training began with; its records
    are in bits per token, and bytes are known to be the tokens where both held-out losses agree.
    """
    held_out, per_byte = certificate.held_out, certificate.headline.metric == "bpb"
    if certificate.prior.base.kind == "pretrained":
        return held_out.base_bpb if held_out and per_byte else None
    steps, losses = column(metrics, "eval", "val_bpd")
    if not len(steps) or steps[0] or (per_byte and not (held_out and held_out.bpb == held_out.bpd)):
        return None
    return float(losses[0])


def bound_of(baseline: Baseline, certificate: Certificate) -> float | None:
    """Return a competitor's bound in the unit of the headline; None where it is not known there."""
    return baseline.bound_bpb if certificate.headline.metric == "bpb" else baseline.bound


def best_competitor(certificate: Certificate) -> tuple[Baseline, float] | None:
    """Return what has the lowest bound of all that the certificate has to beat, and that bound; None without any."""
    bounds = [(b, bound) for b in certificate.beside if (bound := bound_of(b, certificate)) is not None]
    return min(bounds, key=lambda pair: pair[1]) if bounds else None
