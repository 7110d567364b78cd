"""The numbers of many runs as CSV and LaTeX tables: mean and standard error over seeds."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence

from sublora.report.analysis.hypotheses import Answer
from sublora.report.analysis.runs import Run, configurations, mean_and_error

# Name in CSV, name in print, decimals, value.
COLUMNS: tuple[tuple[str, str, int, Callable[[Run], float]], ...] = (
    ("bits", "K, bits", 0, lambda run: run.bits),
    ("bytes", "bytes", 0, lambda run: run.bits / 8),
    ("empirical_bpd", "empirical BPD", 3, lambda run: run.claim("bpd", "empirical")),
    ("held_out_bpd", "held-out BPD", 3, Run.held_out),
    ("certified_bpd", "certified BPD", 3, lambda run: run.claim("bpd", "bound")),
    ("certified_bpb", "certified BPB", 3, lambda run: run.claim("bpb", "bound")),
    ("top_1_error", "top-1 error", 3, lambda run: run.claim("top_1_error", "empirical")),
    ("certified_top_1_error", "certified top-1 error", 3, lambda run: run.claim("top_1_error", "bound")),
)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float) -> float | str:
    return "" if math.isnan(value) else value


def runs_csv(runs: Sequence[Run]) -> str:
    """Return one line per run."""
    names = [name for name, _, _, _ in COLUMNS]
    rows = [
        [run.name, run.mode, run.d, run.D or "", run.seed, *(_cell(value(run)) for _, _, _, value in COLUMNS)]
        for run in runs
    ]
    return _csv([["name", "mode", "d", "D", "seed", *names], *rows])


def summary_csv(runs: Sequence[Run]) -> str:
    """Return one line per configuration: mean and standard error over its seeds; no error for one seed."""
    header = [name for column, _, _, _ in COLUMNS for name in (column, f"{column}_standard_error")]
    rows = []
    for (mode, d), group in configurations(runs).items():
        cells = [_cell(v) for _, _, _, value in COLUMNS for v in mean_and_error(map(value, group))]
        rows.append([mode, d, group[0].D or "", len(group), *cells])
    return _csv([["mode", "d", "D", "runs", *header], *rows])


def tests_csv(answers: Sequence[Answer]) -> str:
    """Return one line per test."""
    header = ["question", "what", "measure", "n", "estimate", "low", "high", "effect_size", "p", "p_holm", "detail"]
    rows = [
        [
            answer.question,
            f.what,
            f.measure,
            f.n,
            *(_cell(v) for v in (f.estimate, f.low, f.high, f.effect, f.p, f.adjusted)),
            f.detail,
        ]
        for answer in answers
        for f in answer.findings
    ]
    return _csv([header, *rows])


def summary_rows(runs: Sequence[Run]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Return header and cells of the summary as text: a mean, and its standard error, "" where there is none."""
    header = ["mode", "d", "D/d", "runs", *(text for _, text, _, _ in COLUMNS)]
    rows = []
    for (mode, d), group in configurations(runs).items():
        D = group[0].D
        words = (mode, f"{d:,}", f"{D / d:,.1f}" if D and d else "–", str(len(group)))
        cells = [(word, "") for word in words]
        for _, _, digits, value in COLUMNS:
            mean, error = mean_and_error(map(value, group))
            spread = "" if math.isnan(error) else f"{error:,.{digits}f}"
            cells.append(("–", "") if math.isnan(mean) else (f"{mean:,.{digits}f}", spread))
        rows.append(cells)
    return header, rows


def summary_latex(runs: Sequence[Run]) -> str:
    """Return the summary as a LaTeX table; it needs the package booktabs."""
    header, rows = summary_rows(runs)
    texts = [[rf"{mean} $\pm$ {error}" if error else mean for mean, error in cells] for cells in rows]
    lines = [" & ".join(cells).replace("–", "--").replace("_", r"\_") + r" \\" for cells in (header, *texts)]
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
