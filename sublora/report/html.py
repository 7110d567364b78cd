"""One self-contained page for one run: nothing is fetched, and it opens from a folder."""

from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from sublora.certificate.certificate import CERTIFICATE, read_certificate
from sublora.errors import SubloraError
from sublora.files import write_text
from sublora.report import figures
from sublora.report.metrics import METRICS, read_metrics
from sublora.report.svg import inline_svg
from sublora.report.tables import DIGITS, beside, confidence, headline, minus, upward

REPORT, CONFIG = "report.html", "config.yaml"


class Panel(NamedTuple):
    """A figure on a page: its name, what it shows in a few words, how to read it, and the drawing."""

    name: str
    title: str
    caption: str
    figure: Figure


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run; return its path.

    Args:
        run_dir: folder with config.yaml and metrics.jsonl, and certificate.json once it is certified.
        out: the page; run_dir/report.html unless given.

    Raises:
        SubloraError: the folder holds no run, or its records are damaged.
        CertificateError: the certificate is damaged or was changed.
    """
    metrics = read_metrics(run_dir / METRICS)
    try:
        config = (run_dir / CONFIG).read_text()
    except OSError as error:
        raise SubloraError(
            f"cannot read {run_dir / CONFIG}: {error.strerror}; give a folder that `sublora train` wrote"
        ) from error
    certificate = read_certificate(run_dir) if (run_dir / CERTIFICATE).exists() else None
    page = render(
        "page.html",
        title=f"SubLoRA {'certificate' if certificate else 'run'}: {run_dir.resolve().name}",
        certificate=certificate,
        cards=_cards(certificate) if certificate else [],
        beside=[_own(certificate), *beside(certificate)] if certificate else [],
        known=_known(certificate) if certificate else [],
        bound_panels=_bound_panels(certificate) if certificate else [],
        top_k_panels=[_top_k_panel(certificate)] if certificate else [],
        training_panels=_training_panels(metrics),
        config=config,
    )
    path = out or run_dir / REPORT
    write_text(path, page)
    return path


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder; everything but figures is escaped."""
    environment = Environment(
        loader=PackageLoader("sublora.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _svg, "up": upward, "minus": minus, "measured": f"{{:.{DIGITS}f}}".format}
    return environment.get_template(template).render(values)


def _svg(panel: Panel) -> str:
    return inline_svg(panel.figure, panel.name, f"{panel.title}. {panel.caption}")


def _bound_panels(certificate: dict[str, Any]) -> list[Panel]:
    return [
        Panel(
            "decomposition",
            "Where the bound comes from",
            "Bound on bits per token: the empirical risk of the decoded model; the price of making the loss bounded; "
            "the price of K bits and n documents; the price of measuring a draw rather than every document.",
            figures.decomposition(certificate),
        ),
        Panel(
            "ledger",
            "Where the bits of the message go",
            "Every field of the message. Together they are K, the length of the file in bits.",
            figures.ledger(certificate),
        ),
    ]


def _top_k_panel(certificate: dict[str, Any]) -> Panel:
    return Panel(
        "top_k",
        "Top-k error",
        "Share of tokens that are not among the k most probable: measured, and the bound on it.",
        figures.top_k(certificate),
    )


def _training_panels(metrics: list[dict[str, Any]]) -> list[Panel]:
    panels = [
        (
            "training",
            "Loss",
            "Bits per token: of the training batches, and of fixed batches of both splits at every evaluation.",
            figures.training(metrics),
        ),
        ("learning_rate", "Learning rate", "Of the subspace coordinates.", figures.learning_rate(metrics)),
        ("gates_by_step", "Gates over training", "Every layer's share of B.", figures.gates_by_step(metrics)),
        ("gates_by_layer", "Gates by layer", "Share of B, first and last.", figures.gates_by_layer(metrics)),
        (
            "gradients_by_step",
            "Gradients over training",
            "Norm of the gradient that reaches the coordinates through A and through B: mean and range over layers.",
            figures.gradients_by_step(metrics),
        ),
        (
            "gradients_by_layer",
            "Gradients by layer",
            "The same norm, averaged over the second half of training.",
            figures.gradients_by_layer(metrics),
        ),
    ]
    return [Panel(name, title, caption, figure) for name, title, caption, figure in panels if figure is not None]


def _cards(certificate: dict[str, Any]) -> list[tuple[str, str]]:
    main = headline(certificate)
    cards = [(upward(main["bound"], 3), f"certified {main['name']}, at {confidence(certificate)}")]
    if held_out := certificate["held_out"]:
        label = f"{main['name']} on {held_out['documents']:,} held-out documents"
        # The standard error is in bits per token, which is the unit shown only where a token is a byte.
        if held_out[main["metric"]] == held_out["bpd"]:
            label += f", standard error {held_out['standard_error']:.3f}"
        cards.append((f"{held_out[main['metric']]:.3f}", label))
    bits = certificate["message"]["bits"]
    return [
        *cards,
        (f"{bits // 8:,} bytes", f"length of the message, K = {bits:,} bits"),
        (f"{certificate['delta']:g}", "delta, the probability that the claim may fail"),
        (f"{certificate['corpus']['n']:,}", "training documents, n"),
    ]


def _own(certificate: dict[str, Any]) -> tuple[str, int, float | None, float]:
    held_out = certificate["held_out"]
    bpd = next(claim for claim in certificate["claims"] if claim["metric"] == "bpd")
    return "this certificate", certificate["message"]["bits"], held_out["bpd"] if held_out else None, bpd["bound"]


def _known(certificate: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("message sha256", certificate["message"]["sha256"])]
    for section in ("prior", "corpus", "draw", "versions"):
        rows += _flat(section, certificate[section])
    return [*rows, ("digest of the certificate", certificate["digest"])]


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [row for key, item in value.items() for row in _flat(f"{name} {key}", item)]
    return [(name.replace("_", " "), str(value))]
