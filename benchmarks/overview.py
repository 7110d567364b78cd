"""Draw the committed runs on one axis, for the first page:

    python benchmarks/overview.py

writes docs/figures/overview.svg. The tests check that it is up to date, and its numbers against the certificates.
"""

from pathlib import Path

from sublora.certificate.reading import read_certificate
from sublora.report.analysis.competitors import best_competitor
from sublora.report.analysis.metrics import read_metrics
from sublora.report.analysis.tables import at_most
from sublora.report.pages.dots import Entry, Mark, Row, draw_dots
from sublora.report.pages.standing import base_marks, own_marks
from sublora.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "figures" / "overview.svg"
# Pixels. GitHub shows a picture at its own width where there is room, and at that of the screen where there is not.
WIDTH = 600
RUNS = {
    "demo": "SmolLM2, on newer documentation",
    "smollm2_docs": "The same, trained for longer",
    "smollm2_share": "The same, half of the new text known",
    "sotu_before": "A base fitted to older speeches",
    "demo_scratch": "Random weights, on speeches",
}
LEGEND = (
    Entry("dot", "own", "held out"),
    Entry("tick", "own", "certified"),
    Entry("diamond", "rival", "best competitor"),
    Entry("ring", "plain", "base alone"),
)


def row(name: str) -> Row:
    """Return a committed run as a row: its losses, its best competitor's bound, and its base's loss."""
    run = RunFolder(ROOT / "results" / name)
    certificate = read_certificate(run.certificate)
    best = best_competitor(certificate)
    assert best
    rival = Mark(best[1], at_most(best[1]), "diamond", "rival")
    marks = (*own_marks(certificate), rival, *base_marks(certificate, read_metrics(run.metrics)))
    return Row(RUNS[name], f"{certificate.message.bits // 8:,} bytes", marks, "own")


def render() -> str:
    """Return the picture."""
    label = "Held-out and certified losses of five models, with their bases and the best simple codes."
    return draw_dots([row(name) for name in RUNS], LEGEND, "bits per byte (logarithmic)", label, WIDTH)


if __name__ == "__main__":
    PICTURE.write_text(render() + "\n")
