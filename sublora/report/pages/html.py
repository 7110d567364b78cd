"""One self-contained page for one run: nothing is fetched, and it opens from a folder."""

import re
from pathlib import Path
from typing import Any

from sublora.certificate.model import Certificate
from sublora.certificate.wording import headline_sentence
from sublora.errors import CertificateError
from sublora.files import write_text
from sublora.report.analysis.metrics import Record
from sublora.report.analysis.run_result import read_result
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
from sublora.report.pages.panel import present
from sublora.report.pages.standing import standing
from sublora.report.pages.templates import render
from sublora.run_folder import RunFolder

_HASH = re.compile(r" \(SHA-256 [0-9a-f]{64}\)")


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run; return its path.

    Args:
        run_dir: folder that training wrote, with the certificate once there is one.
        out: the page; in the folder unless given.

    Raises:
        SubloraError: the folder holds no run, or its records are damaged.
        CertificateError: the certificate is damaged or was changed, or it is a classifier's, of which there is no page.
    """
    if RunFolder.holds_classifier(run_dir):
        raise CertificateError(
            f"there is no page of a classifier's certificate: `sublora show {run_dir}` says what it claims"
        )
    result = read_result(run_dir)
    certificate, metrics = result.certificate, result.metrics
    page = render(
        "page.html",
        title=f"SubLoRA {'certificate' if certificate else 'run'}: {result.name}",
        certificate=certificate,
        training_panels=present(
            figures.training(metrics, result.loss_unit),
            figures.learning_rate(metrics),
            figures.gates_by_step(metrics),
            figures.gates_by_layer(metrics),
            figures.gradients_by_step(metrics),
            figures.gradients_by_layer(metrics),
        ),
        samples=result.samples,
        config=result.config,
        **(_certified(certificate, metrics) if certificate else {}),
    )
    path = out or RunFolder(run_dir).report
    write_text(path, page)
    return path


def _certified(c: Certificate, metrics: list[Record]) -> dict[str, Any]:
    """What only the page of a certified run shows."""
    return {
        # Hashes stand further down, in the statement in full.
        "claim": _HASH.sub("", headline_sentence(c.claims, c.setting, c.corpus, c.message.bits)),
        "uninteresting": uninteresting(c),
        "standing": standing(c, metrics),
        "cards": _cards(c),
        "beside": compared(c),
        "known": _known(c),
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


def _known(certificate: Certificate) -> list[tuple[str, str]]:
    rows = [("message sha256", certificate.message.sha256)]
    for section in ("prior", "corpus", "setting", "how"):
        rows += _flat(section, getattr(certificate, section).model_dump())
    return [*rows, ("digest of the certificate", certificate.digest)]


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _flat(f"{name} {key}", item)]
    return [(name.replace("_", " "), "none" if value is None else str(value))]
