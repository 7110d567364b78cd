"""Where a certificate stands: its losses, its base's, and those of simple codes, as rows of one drawing."""

from markupsafe import Markup

from sublora.certificate.model import Baseline, Certificate
from sublora.report.analysis.competitors import base_loss, best_competitor, bound_of
from sublora.report.analysis.metrics import Record
from sublora.report.analysis.tables import at_most, held_out_loss, measured, rounded, sure
from sublora.report.pages.dots import Entry, Mark, Row, Tone, draw_dots


def own_marks(certificate: Certificate) -> tuple[Mark, ...]:
    """Return the held-out loss, where it was measured, and the bound, in the unit of the headline."""
    main = certificate.headline
    certified = Mark(main.bound, f"≤ {rounded(main, main.bound)}", "tick", "own")
    if found := held_out_loss(certificate):
        return Mark(found[0], measured(found[0]), "dot", "own"), certified
    return (certified,)


def base_marks(certificate: Certificate, metrics: list[Record]) -> tuple[Mark, ...]:
    """Return the loss of the base alone where it is known."""
    loss = base_loss(certificate, metrics)
    return () if loss is None else (Mark(loss, measured(loss), "ring", "plain"),)


def standing(certificate: Certificate, metrics: list[Record]) -> Markup:
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
