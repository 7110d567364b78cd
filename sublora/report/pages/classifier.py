"""The page of a classifier's run: its claim, its errors among those of simple classifiers, and how to check them."""

from pathlib import Path

from markupsafe import Markup

from sublora.classification.assemble import BASE_NAME
from sublora.classification.baselines import HALF, KNOWN
from sublora.classification.model import ClassifierCertificate, ErrorBaseline, read_classifier_certificate
from sublora.classification.wording import besides, compared, headline, percent, share, sure, uninteresting
from sublora.report.analysis.run_result import RunResult
from sublora.report.pages import figures
from sublora.report.pages.dots import Entry, Mark, Row, Tone, draw_dots
from sublora.report.pages.known import known_rows, without_hashes
from sublora.report.pages.templates import render

# A row has room for so many letters beside its numbers.
_LONGEST = 36
_TITLES = {
    KNOWN: "naive Bayes, known documents",
    HALF: "naive Bayes, half of the documents",
    BASE_NAME: "the base with the same prompt",
}


def classifier_page(run_dir: Path, result: RunResult) -> str:
    """Return the page of a classifier's run.

    Args:
        run_dir: folder of the run.
        result: what else was left behind there.

    Raises:
        CertificateError: the certificate is damaged or was changed.
    """
    c = read_classifier_certificate(run_dir)
    return render(
        "classifier.html",
        title=f"SubLoRA certificate: {result.name}",
        certificate=c,
        claim=without_hashes(headline(c.claim, c.setting, c.corpus, c.message.bits)),
        uninteresting=uninteresting(c.claims, c.baselines),
        errors=draw_errors(c),
        cards=_cards(c),
        beside=compared(c),
        besides=besides(c),
        share=share,
        sure=sure(c),
        known=known_rows(c),
        panels=[figures.ledger(c)],
        training_panels=figures.of_training(result.metrics, result.loss_unit),
        pretrained=c.prior.base.kind == "pretrained",
        config=result.config,
    )


def draw_errors(certificate: ClassifierCertificate) -> Markup:
    """Draw a classifier's errors and their bound among those of its base and of simple classifiers, the best on top."""
    claim = certificate.claim
    best = min(certificate.baselines, key=lambda baseline: baseline.bound)
    rows = [_row("this classifier", claim.errors, claim.measured, claim.bound, "own")]
    for baseline in certificate.baselines:
        tone: Tone = "rival" if baseline is best else "plain"
        title = _title(baseline)
        if baseline.exact:
            counted = 100 * baseline.errors / baseline.documents
            note = share(baseline.errors, baseline.documents)
            rows.append(Row(title, note, (Mark(counted, "", "diamond", tone),), tone))
        else:
            rows.append(_row(title, baseline.errors, baseline.documents, baseline.bound, tone))
    legend = (
        Entry("dot", "plain", "measured"),
        Entry("tick", "plain", f"certified at {sure(certificate)}"),
        Entry("diamond", "plain", "counted on all"),
    )
    return draw_dots(
        sorted(rows, key=lambda row: row.marks[-1].value),
        legend,
        "wrong labels, per cent of documents",
        "; ".join(f"{row.title} {row.note}" for row in rows),
        from_zero=True,
    )


def _row(title: str, errors: int, documents: int, bound: float, tone: Tone) -> Row:
    """A classifier that was measured on a draw, and its bound."""
    marks = Mark(100 * errors / documents, "", "dot", tone), Mark(100 * bound, "", "tick", tone)
    return Row(title, f"{share(errors, documents)}\u2002≤ {percent(bound)}", marks, tone)


def _title(baseline: ErrorBaseline) -> str:
    name = _TITLES.get(baseline.name, baseline.name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _cards(c: ClassifierCertificate) -> list[tuple[str, str]]:
    """What the drawing does not show, each with what it is."""
    claim, bits, n = c.claim, c.message.bits, c.corpus.n
    drawn = "drawn for it" if c.setting.samples else "certified"
    return [
        (f"{claim.errors:,}", f"errors on {claim.measured:,} documents {drawn}"),
        (f"{bits // 8:,} bytes", f"length of the message, K = {bits:,} bits"),
        (c.setting.delta, "delta, the probability that a claim may fail"),
        (f"{n:,}", f"certified documents, n, of a population of {c.corpus.population:,}"),
    ]
