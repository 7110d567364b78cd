"""The report of a suite: its page, its figures, its tables, its best certificate."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from parsed_page import Page
from runs import (
    GAINS,
    make_certificate,
    make_metrics,
    make_run,
    make_suite,
    make_suite_run,
    write_runs,
)
from scipy import stats

from sublora.certificate.model import Certificate
from sublora.certificate.rounding import upward
from sublora.certificate.selection import Selection
from sublora.certificate.wording import DIGITS
from sublora.errors import CertificateError, SubloraError
from sublora.report.analysis import gradients
from sublora.report.analysis.best import best_of
from sublora.report.analysis.curves import frontier
from sublora.report.analysis.hypotheses import (
    gradient,
)
from sublora.report.analysis.runs import Run, load_runs
from sublora.report.analysis.suite import analyse
from sublora.report.pages import suite_figures
from sublora.report.pages.crowd import Mark, crowd, show_crowd
from sublora.report.pages.suite import write_suite_report
from sublora.run_folder import RunFolder

# Modes of the suite that is drawn: few, because every panel takes time.
SHOWN = {mode: GAINS[mode] for mode in ("fixed-equal", "fixed-bheavy", "learned")}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    runs = make_suite(SHOWN)
    runs.append(Run("not certified", "uniform", 200, 26116, 99, None, runs[0].metrics))
    assert write_suite_report(write_runs(folder / "json", runs), folder / "out") == folder / "out"
    return folder / "out"


def test_the_page_of_a_suite(suite):
    page = Page(html := (suite / "index.html").read_text())
    assert page.tags.count("svg") == page.tags.count("figcaption") == 11
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?://|<script|@import", html)
    text = " ".join(page.text)
    assert "fixed-bheavy beats fixed-equal" in text
    assert re.search(r"Without a certificate.*: not certified\.", text)
    places = [html.index(f"<h2>{heading}</h2>") for heading in ("Results", "Figures", "Questions")]
    assert places == sorted(places)


def test_figures_of_a_suite_are_files(suite):
    names = {path.stem for path in (suite / "figures").iterdir()}
    assert len(names) == 11
    assert {path.name for path in (suite / "figures").iterdir()} == {
        f"{n}.{s}" for n in names for s in ("svg", "png", "pdf")
    }


@pytest.mark.parametrize(("steps", "shown"), [(100, [0, 100]), (200, [100, 200])])
def test_the_untrained_model_is_drawn_where_nothing_else_makes_a_curve(steps, shown):
    runs = [Run("r", "uniform", 10, 100, 0, None, make_metrics(steps=steps))]
    (axes,) = suite_figures.training_curves(analyse(runs)).figure.axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [shown]


def test_losses_of_training_are_in_the_unit_that_the_runs_share():
    def unit(runs):
        return suite_figures.training_curves(analyse(runs)).figure.get_supylabel()

    runs = make_suite({"uniform": 0.0}, (200,))
    documents = [replace(run, batching="documents") for run in runs]
    found = [unit(runs), unit(documents), unit([runs[0], *documents[1:]])]
    assert found == ["held-out bits per token", "held-out bits per byte", "held-out bits"]


def test_tables_of_a_suite_are_means_and_standard_errors(suite):
    with (suite / "tables" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SHOWN) * 2
    row = next(r for r in rows if r["mode"] == "learned" and r["d"] == "1000")
    runs = [r for r in make_suite(SHOWN) if r.configuration == ("learned", 1000)]
    for name, values in (
        ("bits", [r.certificate.message.bits for r in runs]),
        ("certified_bpd", [r.certificate.claims[0].bound for r in runs]),
        ("held_out_bpd", [r.certificate.held_out.bpd for r in runs]),
    ):
        assert float(row[name]) == pytest.approx(np.mean(values))
        assert float(row[f"{name}_standard_error"]) == pytest.approx(stats.sem(values))
    latex = (suite / "tables" / "summary.tex").read_text()
    assert latex.count(r"\\") == len(rows) + 1
    certified = [r.certificate.claims[0].bound for r in runs]
    assert rf"{np.mean(certified):.3f} $\pm$ {stats.sem(certified):.3f}" in latex
    with (suite / "tables" / "runs.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + len(SHOWN) * 2 * 3


def test_gates_that_are_not_one_per_layer_are_shown_but_not_set_beside_gradients():
    runs = make_suite({"learned": 0.0}, budgets=(200,))
    runs = [
        replace(r, metrics=[{**m, "gamma": [0.4, 0.5, 0.6]} if m.get("gamma") else m for m in r.metrics]) for r in runs
    ]
    assert not gradients.beside_gammas(runs)
    assert gradient(runs).answer.startswith("Not tested")
    suite = analyse(runs)
    assert suite_figures.gates_and_gradients(suite) is None
    assert suite_figures.gate_map(suite) and suite_figures.gates_by_depth(suite)


def selected(runs, candidates):
    """Return runs whose bound rises by 0.25 when it pays for the choice."""

    def selection(certificate: Certificate) -> Selection:
        claims = tuple(claim.model_copy(update={"bound": claim.bound + 0.25}) for claim in certificate.claims)
        return Selection(certificate=certificate.digest, candidates=candidates, claims=claims)

    return [replace(run, selection=selection(run.certificate)) for run in runs]


def test_the_best_certificate_is_quoted_with_the_bound_that_pays_for_the_choice():
    runs = make_suite({"uniform": 0.0, "learned": 0.1}, budgets=(200,))
    best = best_of(selected(runs, 33))
    lowest = min(runs, key=lambda run: run.claim("bpb", "bound"))
    assert (best.run, best.candidates) == (lowest.name, 33)
    assert best.chosen.bound == pytest.approx(lowest.claim("bpb", "bound") + 0.25)
    assert f"at most {upward(best.chosen.bound, DIGITS)} bits per byte" in best.sentence and "95 %" in best.sentence
    assert f"it claims at most {upward(lowest.claim('bpb', 'bound'), DIGITS)}" in best.sentence


def test_the_confidence_of_the_best_is_not_rounded_up():
    setting = make_certificate().setting.model_copy(update={"delta": "0.00000049"})
    runs = make_suite({"uniform": 0.0}, budgets=(200,))
    runs = [replace(r, certificate=r.certificate.model_copy(update={"setting": setting})) for r in runs]
    assert "at least 99.999951 %," in best_of(selected(runs, 3)).sentence


def test_a_best_certificate_that_did_not_pay_is_not_quoted():
    runs = make_suite({"uniform": 0.0}, budgets=(200,))
    assert "do not say from how many" in best_of(runs)
    assert "do not say from how many" in best_of([*selected(runs[:2], 3), runs[2]])
    assert "different sweeps" in best_of(selected(runs[:1], 3) + selected(runs[1:], 4))
    # More certificates than were paid for.
    assert "different sweeps" in best_of(selected(runs, 2))


points = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1)


@given(points)
def test_the_frontier_is_what_nothing_beats(points):
    points = [(float(x), float(y)) for x, y in points]
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert frontier(points) == sorted(set(points) - beaten)


def test_runs_are_read_from_folders(tmp_path):
    for name, sublora, seed in (
        ("a", "allocation_mode: fixed, allocation_ratio: 0.8, allocation_scope: shared", 1),
        ("b", "allocation_mode: fixed, allocation_ratio: 0.7, allocation_scope: shared", 1),
        ("c", "allocation_mode: learned, allocation_ratio: 0.5, allocation_scope: layer", 2),
    ):
        folder = make_run(tmp_path / name, certificate=None if name == "a" else False)
        RunFolder(folder).config.write_text(f"sublora: {{{sublora}, intrinsic_dim: 500}}\nsystem: {{seed: {seed}}}\n")
    runs = load_runs([tmp_path / name for name in "abc"])
    assert [(r.mode, r.d, r.seed) for r in runs] == [
        ("fixed-bheavy", 500, 1),
        ("fixed-0.7", 500, 1),
        ("learned-layer", 500, 2),
    ]
    assert runs[0].bits == 2512
    assert runs[1].certificate is None


def test_runs_that_cannot_be_analysed_are_named(tmp_path):
    run = make_suite_run("uniform", 200, 1)
    with pytest.raises(SubloraError, match="holds no runs"):
        load_runs(tmp_path)
    with pytest.raises(SubloraError, match="no runs are given"):
        load_runs([])
    folder = write_runs(tmp_path / "twice", [run])
    (folder / "copy.json").write_text((folder / f"{run.name}.json").read_text())
    with pytest.raises(SubloraError, match="same mode, d and seed"):
        load_runs(folder)
    (folder / "copy.json").write_text('{"name": "x"}')
    with pytest.raises(SubloraError, match=r"copy\.json is no run: it lacks 'mode'"):
        load_runs(folder)
    (folder / "copy.json").write_text("{")
    with pytest.raises(SubloraError, match=r"copy\.json is damaged"):
        load_runs(folder)
    record = (folder / f"{run.name}.json").read_text()
    (folder / "copy.json").write_text(record.replace('"delta": "0.05"', '"delta": "0.01"'))
    with pytest.raises(CertificateError, match=r"copy\.json, certificate was changed"):
        load_runs(folder)
    none = write_runs(tmp_path / "none", [Run("x", "uniform", 200, None, 1, None, run.metrics)])
    with pytest.raises(SubloraError, match="none of the runs has a certificate"):
        write_suite_report(none, tmp_path / "out")


def test_a_mode_that_is_far_off_does_not_squash_the_others():
    assert crowd([1.0, 1.1, 1.2, 1.3, 9.0]) == 1.3
    # What is spread evenly is a crowd, and so are few marks however far apart.
    assert crowd([1.0, 2.0, 3.0, 4.0]) == 4.0 and crowd([1.0, 1.1, 9.0]) == 9.0
    figure = Figure()
    axes = figure.subplots()
    marks = [Mark(value, value - 0.05, value + 0.05, "C0") for value in (1.0, 1.1, 1.2, 1.3, 9.0)]
    for mark in marks:
        axes.plot(0, mark.value, "o")
    show_crowd(axes, marks)
    low, high = axes.get_ylim()
    assert low < 0.95 and 1.35 < high < 2
    assert [text.get_text() for text in axes.texts] == ["9.00"]
    show_crowd(axes, marks[:4])
    assert len(axes.texts) == 1
