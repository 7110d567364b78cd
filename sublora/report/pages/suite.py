"""The report of many runs: figures, tables, and one page with all."""

from collections.abc import Sequence
from pathlib import Path

from sublora.errors import SubloraError
from sublora.files import write_text
from sublora.report.analysis.runs import load_runs
from sublora.report.analysis.suite import Suite, analyse
from sublora.report.analysis.suite_tables import runs_csv, summary_csv, summary_latex, summary_rows, tests_csv
from sublora.report.pages import suite_figures as draw
from sublora.report.pages.panel import Panel, present
from sublora.report.pages.svg import save_figure
from sublora.report.pages.templates import render


def write_suite_report(source: Path | Sequence[Path], out: Path) -> Path:
    """Analyse many runs and return the folder written: index.html, figures/ (svg, png, pdf), tables/ (csv, tex).

    Args:
        source: a folder with one JSON file per run, or the files or folders of the runs (see `load_runs`).
        out: folder to write.

    Raises:
        SubloraError: no runs, a damaged one, two that are the same, or none with a certificate.
    """
    suite = analyse(load_runs(source))
    if not suite.certified:
        raise SubloraError(
            "none of the runs has a certificate of a language model: run `sublora bounds` for them first (a classifier "
            "has its page without --out)"
        )
    panels = _panels(suite)
    header, rows = summary_rows(suite.certified)
    page = render(
        "suite.html",
        title=f"SubLoRA: {len(suite.runs)} runs",
        best=suite.best,
        uncertified=[run.name for run in suite.runs if not run.certificate],
        answers=suite.answers,
        header=header,
        rows=rows,
        panels=panels,
    )
    for panel in panels:
        save_figure(panel.figure, out / "figures" / panel.name)
    for name, text in (
        ("runs.csv", runs_csv(suite.certified)),
        ("summary.csv", summary_csv(suite.certified)),
        ("summary.tex", summary_latex(suite.certified)),
        ("tests.csv", tests_csv(suite.answers)),
    ):
        write_text(out / "tables" / name, text)
    write_text(out / "index.html", page)
    return out


def _panels(suite: Suite) -> list[Panel]:
    return present(
        draw.pareto(suite),
        draw.pareto_by_budget(suite),
        draw.decompositions(suite),
        draw.compression(suite),
        draw.compression_factor(suite),
        draw.top_k_curves(suite),
        draw.training_curves(suite),
        draw.gate_map(suite),
        draw.gates_by_depth(suite),
        draw.gates_and_gradients(suite),
        draw.gradients(suite),
    )
