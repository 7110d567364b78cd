"""Where a certificate stands: its losses, its base's, and those of simple codes, as rows of one drawing."""

from typing import Any

from markupsafe import Markup

from sublora.certificate.model import Baseline, Certificate
from sublora.report.analysis.tables import at_most, held_out_loss, measured, rounded, sure
from sublora.report.pages.dots import Entry, Mark, Row, Tone, draw_dots
from sublora.report.pages.figures import column


def own_marks(certificate: Certificate) -> tuple[Mark, ...]:
    """Return the held-out loss, where it was measured, and the bound, in the unit of the headline."""
    main = certificate.headline
    certified = Mark(main.bound, f"≤ {rounded(main, main.bound)}", "tick", "own")
    if found := held_out_loss(certificate):
        return Mark(found[0], measured(found[0]), "dot", "own"), certified
    return (certified,)


def base_loss(certificate: Certificate, metrics: list[dict[str, Any]]) -> float | None:
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


def base_marks(certificate: Certificate, metrics: list[dict[str, Any]]) -> tuple[Mark, ...]:
    """Return the loss of the base alone where it is known."""
    loss = base_loss(certificate, metrics)
    return () if loss is None else (Mark(loss, measured(loss), "ring", "plain"),)


def bound_of(baseline: Baseline, certificate: Certificate) -> float | None:
    """Return a competitor's bound in the unit of the headline; None where it is not known there."""
    return baseline.bound_bpb if certificate.headline.metric == "bpb" else baseline.bound


def best_competitor(certificate: Certificate) -> tuple[Baseline, float] | None:
    """Return what has the lowest bound of all that the certificate has to beat, and that bound; None without any."""
    bounds = [(b, bound) for b in certificate.beside if (bound := bound_of(b, certificate)) is not None]
    return min(bounds, key=lambda pair: pair[1]) if bounds else None


def standing(certificate: Certificate, metrics: list[dict[str, Any]]) -> Markup:
    """Draw a certificate among its base and the simple codes, the lowest bound on top.

    Args:
        certificate: of the run.
        metrics: what its training recorded.
    """
    best = best_competitor(certificate)
    rows = [_row("this certificate", own_marks(certificate))]
    if marks := base_marks(certificate, metrics):
        rows.append(_row("the base alone", marks))
    for baseline in certificate.beside:
        if marks := _marks(baseline, certificate, "rival" if best and baseline == best[0] else "plain"):
            rows.append(_row(baseline.name, marks))
    legend = (
        Entry("dot", "plain", "held out"),
        Entry("tick", "plain", f"certified at {sure(certificate)}"),
        Entry("ring", "plain", "base alone"),
    )
    return draw_dots(
        sorted(rows, key=lambda row: row.marks[-1].value),
        legend,
        f"{certificate.headline.name} (logarithmic)",
        "; ".join(f"{row.title} {row.note}" for row in rows),
    )


def _row(title: str, marks: tuple[Mark, ...]) -> Row:
    """A row whose numbers stand beside its title: it is half as high as one where they stand under their marks."""
    unlabelled = tuple(mark._replace(text="") for mark in marks)
    return Row(title, "\u2002".join(mark.text for mark in marks), unlabelled, marks[-1].tone)


def _marks(baseline: Baseline, certificate: Certificate, tone: Tone) -> tuple[Mark, ...]:
    """Return a competitor's held-out loss and bound, as far as they are known in the unit of the headline."""
    if (bound := bound_of(baseline, certificate)) is None:
        return ()
    certified = Mark(bound, f"≤ {at_most(bound)}", "tick", tone)
    loss = baseline.held_out_bpb if certificate.headline.metric == "bpb" else baseline.held_out
    return (certified,) if loss is None else (Mark(loss, measured(loss), "dot", tone), certified)
