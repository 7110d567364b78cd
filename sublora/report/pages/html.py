"""One self-contained page for one run: nothing is fetched, and it opens from a folder."""

from pathlib import Path
from typing import Any

from sublora.certificate.model import Certificate
from sublora.certificate.wording import headline_sentence
from sublora.files import write_text
from sublora.report.analysis.metrics import Record
from sublora.report.analysis.run_result import RunResult, read_result
from sublora.report.analysis.tables import (
    compared,
    gains,
    held_out_loss,
    measured,
    rounded,
    sure,
    uninteresting,
    unit_name,
)
from sublora.report.pages import figures
from sublora.report.pages.classifier import classifier_page
from sublora.report.pages.known import known_rows, without_hashes
from sublora.report.pages.panel import present
from sublora.report.pages.standing import standing
from sublora.report.pages.templates import render
from sublora.run_folder import RunFolder


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run; return its path.

    Args:
        run_dir: folder that training wrote, with the certificate once there is one.
        out: the page; in the folder unless given.

    Raises:
        SubloraError: the folder holds no run, or its records are damaged.
        CertificateError: the certificate is damaged or was changed.
    """
    path, result = out or RunFolder(run_dir).report, read_result(run_dir)
    write_text(path, classifier_page(run_dir, result) if RunFolder.holds_classifier(run_dir) else _page(result))
    return path


def _page(result: RunResult) -> str:
    certificate, metrics = result.certificate, result.metrics
    return render(
        "page.html",
        title=f"SubLoRA {'certificate' if certificate else 'run'}: {result.name}",
        certificate=certificate,
        training_panels=figures.of_training(metrics, result.loss_unit),
        samples=result.samples,
        config=result.config,
        **(_certified(certificate, metrics) if certificate else {}),
    )


def _certified(c: Certificate, metrics: list[Record]) -> dict[str, Any]:
    """What only the page of a certified run shows."""
    return {
        "claim": without_hashes(headline_sentence(c.claims, c.setting, c.corpus, c.message.bits)),
        "uninteresting": uninteresting(c),
        "standing": standing(c, metrics),
        "cards": _cards(c),
        "beside": compared(c),
        "known": known_rows(c),
        "panels": present(figures.decomposition(c), figures.ledger(c), figures.top_k(c)),
        "pretrained": c.prior.base.kind == "pretrained",
    }


def _cards(certificate: Certificate) -> list[tuple[str, str]]:
    """What the drawing does not show, each with what it is."""
    main, at, cards = certificate.headline, sure(certificate), []
    for better in gains(certificate):
        cards.append((rounded(better, better.bound), f"certified {better.name}, at {at}: {better.sense} this"))
    cards += [
        (measured(main.empirical), f"measured {main.name} of the decoded model mixed with its fallback"),
        (measured(main.model_alone), f"measured {main.name} of the decoded model alone"),
    ]
    if found := held_out_loss(certificate):
        label = f"{main.name} on {found[1]}, held out"
        # The standard error is in bits per token, which is the unit shown only where a token is a byte.
        if certificate.held_out and found[0] == certificate.held_out.bpd:
            label += f", standard error {certificate.held_out.standard_error:.3f}"
        cards.append((measured(found[0]), label))
    bits, n = certificate.message.bits, certificate.corpus.n
    what = "tokens" if certificate.setting.bound_type == "token_level" else unit_name(certificate)
    return [
        *cards,
        (f"{bits // 8:,} bytes", f"length of the message, K = {bits:,} bits"),
        (certificate.setting.delta, "delta, the probability that the claim may fail"),
        (f"{n:,}", f"training {what}, n"),
    ]
