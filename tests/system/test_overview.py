"""Losses on one axis: the drawing, the picture of the first page, and where a certificate stands on its own page."""

import itertools
import json
import math
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import make_certificate, make_metrics, with_base

from sublora.report.analysis.competitors import base_loss, best_competitor
from sublora.report.analysis.tables import at_most
from sublora.report.pages import dots
from sublora.report.pages.dots import Entry, Mark, Row, draw_dots, spread, ticks
from sublora.report.pages.standing import standing

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
OVERVIEW = runpy.run_path(str(ROOT / "benchmarks" / "overview.py"))


def numbers(row):
    """The numbers under a row of the picture by their mark: dot, tick, diamond, ring or arrow."""
    texts = [text for text in row.iter(f"{SVG}text") if "number" in text.get("class").split()]
    return {text.get("class").split()[-1].removesuffix("-text"): text.text for text in texts}


def test_the_picture_is_up_to_date():
    text = OVERVIEW["PICTURE"].read_text()
    assert text == OVERVIEW["render"]() + "\n", "run: python benchmarks/overview.py"
    assert not re.search(r"20\d\d-\d\d|<script|https?://(?!www\.w3\.org/2000/svg)", text)


@pytest.mark.parametrize("name", OVERVIEW["RUNS"])
def test_the_picture_shows_what_the_files_say(name):
    """The committed picture against the committed JSON, neither read by the code that draws."""
    certificate = json.loads((ROOT / "results" / name / "certificate.json").read_text())
    rows = ElementTree.parse(OVERVIEW["PICTURE"]).getroot().findall(f"{SVG}g")
    assert len(rows) == len(OVERVIEW["RUNS"])
    row = rows[list(OVERVIEW["RUNS"]).index(name)]
    shown = numbers(row)
    certified = next(c["bound"] for c in certificate["claims"] if c["metric"] == "bpb")
    competitors = [c["bound_bpb"] for c in [*certificate["baselines"], certificate["base_alone"] or {}] if c]
    base = certificate["held_out"]["base_bpb"]
    if base is None:
        first = json.loads((ROOT / "results" / name / "metrics.jsonl").read_text().partition("\n")[0])
        assert first["iter"] == 0
        base = first["val_bpd"]
    upward = {"tick": certified, "diamond": min(competitors)}
    assert {shape: shown[shape].removeprefix("≤ ") for shape in upward} == {
        shape: f"{math.ceil(value * 1000 - 1e-9) / 1000:.3f}" for shape, value in upward.items()
    }
    assert shown["dot"] == f"{certificate['held_out']['bpb']:.3f}"
    assert shown.get("ring", shown.get("arrow")) == f"{base:.3f}"
    assert f"{certificate['message']['bits'] // 8:,} bytes" in [text.text for text in row]


def test_the_first_page_shows_the_picture():
    said = re.search(r"!\[([^\]]+)\]\(docs/figures/overview\.svg\)", (ROOT / "README.md").read_text())
    assert said and len(said[1]) > 60


def test_the_first_page_says_which_runs_beat_their_base():
    runs = [json.loads((ROOT / "results" / name / "certificate.json").read_text()) for name in OVERVIEW["RUNS"]]
    fitted = [run for run in runs if run["prior"]["base"]["kind"] == "pretrained"]
    gains = [c["bound"] for run in fitted for c in run["claims"] if c["metric"] == "bpb_gain_alone"]
    assert len(gains) == len(fitted) == 4 and min(gains) > 0 and len(runs) == 5


labels = st.lists(st.floats(10, 446), min_size=1, max_size=8).map(sorted)


@given(labels)
def test_labels_do_not_overlap_and_stay_inside(wanted):
    widths = [48.0] * len(wanted)
    found = spread(wanted, widths)
    assert all(b - a >= 48 - 0.2 for a, b in itertools.pairwise(found))
    assert found[0] >= 23.9 and found[-1] <= dots.WIDTH - 23.9


def test_a_label_with_room_stays_where_it_is_wanted():
    assert spread([100.0, 300.0], [48.0, 48.0]) == [100.0, 300.0]
    assert spread([100.0, 100.0], [40.0, 40.0]) == [80.0, 120.0]


@given(st.floats(0.01, 100), st.floats(1.01, 20))
def test_ticks_are_few_round_and_inside(low, factor):
    found = ticks(low, low * factor)
    assert 1 <= len(found) <= dots.MOST_TICKS + 1
    assert all(low * (1 - 1e-9) <= t <= low * factor * (1 + 1e-9) for t in found)


def test_equal_ratios_are_equal_distances_and_what_is_far_is_an_arrow():
    marks = [Mark(value, f"{value:.3f}", "dot", "own") for value in (1.0, 2.0)]
    far = Mark(9.0, "9.000", "ring", "plain")
    svg = draw_dots([Row("a <model>", "", (*marks, Mark(4.0, "4.000", "tick", "own"), far))], (), "bits", "label")
    a, b = (float(x) for x in re.findall(r'<circle class="own" cx="([\d.]+)"', svg))
    c = float(re.search(r'<rect class="own" x="([\d.]+)"', svg)[1]) + 2
    assert c - b == pytest.approx(b - a, abs=0.2)
    assert "arrow-text" in svg and "ring" not in svg.partition("<g>")[2]
    assert "a &lt;model&gt;" in svg and "<style" not in svg


def test_a_picture_of_its_own_has_its_size_and_its_colours():
    row = Row("a", "", (Mark(1.0, "1.000", "dot", "own"), Mark(2.0, "2.000", "tick", "own")))
    svg = ElementTree.fromstring(draw_dots([row], (Entry("dot", "own", "held out"),), "bits", "label", width=600))
    assert svg.get("width") == "600"
    assert "prefers-color-scheme: dark" in svg.find(f"{SVG}style").text


def test_a_certificate_stands_among_what_it_has_to_beat():
    certificate = with_base(make_certificate(), gain=0.25)
    certificate = certificate.model_copy(
        update={"held_out": certificate.held_out.model_copy(update={"base_bpb": 3.987})}
    )
    svg = standing(certificate, make_metrics())
    titles = re.findall(r'class="title[ \w]*"[^>]*>(.*?)<', svg)
    assert titles == ["this certificate", "the base with the same fallback", "the base alone", "coded unigram counts",
                      "uniform coding"]  # fmt: skip
    notes = dict(zip(titles, re.findall(r'class="note (\w+)[ \w]*"[^>]*>(.*?)<', svg), strict=True))
    bound = at_most(certificate.headline.bound)
    assert notes["this certificate"] == ("own", f"{certificate.held_out.bpb:.3f}\u2002≤ {bound}")
    assert notes["the base alone"] == ("plain", "3.987")
    assert notes["the base with the same fallback"] == ("rival", f"≤ {at_most(certificate.base_alone.bound_bpb)}")
    competitor, bound = best_competitor(certificate)
    assert (competitor.name, bound) == ("the base with the same fallback", certificate.base_alone.bound_bpb)


def test_random_weights_are_measured_before_the_first_step():
    certificate, metrics = make_certificate(), make_metrics()
    assert base_loss(certificate, metrics) == metrics[0]["val_bpd"]
    assert base_loss(certificate, [record for record in metrics if record["iter"]]) is None
    # Where a token is no byte, a loss per token is none per byte.
    other = certificate.held_out.model_copy(update={"bpb": 1.0})
    assert base_loss(certificate.model_copy(update={"held_out": other}), metrics) is None
