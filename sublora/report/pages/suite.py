"""The analysis of many runs: figures, tables, answers to the questions they were made for, and one page with all."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sublora.errors import SubloraError
from sublora.files import write_text
from sublora.report.analysis.best import best_of
from sublora.report.analysis.hypotheses import answer_all
from sublora.report.analysis.runs import Run, load_runs
from sublora.report.analysis.suite_tables import runs_csv, summary_csv, summary_latex, summary_rows, tests_csv
from sublora.report.pages import suite_figures as draw
from sublora.report.pages.svg import save_figure
from sublora.report.pages.templates import Panel, render


def write_suite_report(source: Path | Sequence[Path], out: Path) -> Path:
    """Analyse many runs and return the folder written: index.html, figures/ (svg, png, pdf), tables/ (csv, tex).

    Args:
        source: a folder with one JSON file per run, or the files or folders of the runs (see `load_runs`).
        out: folder to write.

    Raises:
        SubloraError: no runs, a damaged one, two that are the same, or none with a certificate.
    """
    runs = load_runs(source)
    certified = draw.certified(runs)
    if not certified:
        raise SubloraError("none of the runs has a certificate: run `sublora bounds` for them first")
    panels = [Panel(name, title, text, figure) for name, title, text, figure in _figures(runs, certified) if figure]
    answers = answer_all(runs)
    header, rows = summary_rows(certified)
    page = render(
        "suite.html",
        title=f"SubLoRA: {len(runs)} runs",
        best=best_of(certified),
        uncertified=[run.name for run in runs if not run.certificate],
        answers=answers,
        header=header,
        rows=rows,
        panels=panels,
    )
    for panel in panels:
        save_figure(panel.figure, out / "figures" / panel.name)
    for name, text in (
        ("runs.csv", runs_csv(certified)),
        ("summary.csv", summary_csv(certified)),
        ("summary.tex", summary_latex(certified)),
        ("tests.csv", tests_csv(answers)),
    ):
        write_text(out / "tables" / name, text)
    write_text(out / "index.html", page)
    return out


def _figures(runs: Sequence[Run], certified: Sequence[Run]) -> list[tuple[str, str, str, Figure | None]]:
    return [
        (
            "pareto",
            "Pareto frontier",
            "Empirical risk of the decoded model against the information in its message. One mark per configuration: "
            "mean and standard error over seeds. No configuration lies below and left of the dashed line. "
            "A triangle names what is far above the axis.",
            draw.pareto(certified),
        ),
        ("pareto_by_budget", "Pareto frontier for every d", "The same, apart.", draw.pareto_by_budget(certified)),
        (
            "decomposition",
            "Where the bounds come from",
            "Bound on bits per token, mean over seeds: empirical risk, the price of a bounded loss, of K bits and n "
            "documents, and of measuring a draw.",
            draw.decompositions(certified),
        ),
        (
            "compression",
            "Bound and length of the message",
            "Certified bits per token against the length of the message, in bytes and in bits (K).",
            draw.compression(certified),
        ),
        (
            "compression_factor",
            "Bound and compression of the parameters",
            "Certified bits per token against D/d.",
            draw.compression_factor(certified),
        ),
        (
            "top_k",
            "Top-k error",
            "Share of tokens that are not among the k most probable: bound, and measured.",
            draw.top_k_curves(certified),
        ),
        (
            "training",
            "Training",
            "Held-out bits per token before quantization; bands are standard errors over seeds.",
            draw.training_curves(runs),
        ),
        ("gates", "Gates by layer and seed", "Share of B at the end of training.", draw.gate_map(runs)),
        (
            "gates_by_depth",
            "Gates and depth",
            "Faint lines are seeds; marks are their mean and standard error. p is adjusted for the number of panels.",
            draw.gates_by_depth(runs),
        ),
        (
            "gates_and_gradients",
            "Gates and gradients",
            "Final gamma of every layer against how much more of the gradient came through B than through A, mean over "
            "training; markers are seeds. The gradient passes the gate, so what is seen may be the gate's own doing.",
            draw.gates_and_gradients(runs),
        ),
        (
            "gradients",
            "Gradients",
            "Norm of the gradient that reaches the coordinates through A and through B, mean over layers.",
            draw.gradients(runs),
        ),
    ]
