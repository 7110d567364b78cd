"""The pages as a reader sees them: a real browser loads them from a folder, wide and narrow, light and dark."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runs import make_certificate, make_run, make_suite, with_base, write_runs

from sublora.certificate.selection import Selection
from sublora.report.analysis.samples import keep_sample
from sublora.report.pages.html import write_report
from sublora.report.pages.suite import write_suite_report
from sublora.run_folder import RunFolder

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

GAINS = {"uniform": 0.0, "fixed-aheavy": 0.5, "fixed-equal": 0.1, "fixed-bheavy": 0.03, "learned": 0.01}
SHAPES = [(1280, False), (1280, True), (420, False), (420, True)]
OVERVIEW = Path(__file__).parents[2] / "docs" / "figures" / "overview.svg"
# Pairs of labels of one figure whose boxes have more than a pixel in common, and labels that leave their figure.
COLLISIONS = """
[...document.querySelectorAll('figure')].flatMap(figure => {
  const frame = figure.querySelector('svg').getBoundingClientRect();
  const texts = [...figure.querySelectorAll('svg text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const out = texts.filter(([, r]) => r.left < frame.left - 1 || r.right > frame.right + 1
                                   || r.top < frame.top - 1 || r.bottom > frame.bottom + 1);
  const pairs = texts.flatMap(([s, a], i) =>
    texts.slice(i + 1).filter(([, b]) => meet(a, b)).map(([t]) => s + ' | ' + t));
  const title = figure.querySelector('h3')?.textContent ?? 'first';
  return [...out.map(([s]) => s + ' leaves'), ...pairs].map(s => title + ': ' + s);
})
"""
# The ratio of luminances of text and page, over the labels of all figures (WCAG 2.2, 1.4.3): at least 4.5 is readable.
CONTRAST = """
(() => {
  const luminance = colour => colour.match(/[0-9.]+/g).slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const page = luminance(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll('svg text')].map(text => {
    const pair = [luminance(getComputedStyle(text).fill), page].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  }));
})()
"""


# The smallest text of a drawing in pixels of the screen: a figure is scaled, and its text with it.
SMALLEST = """
Math.min(...[...document.querySelectorAll('svg text')].map(
  text => parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)))
"""
SIZES = "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height])"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The page of eleven configurations with three seeds each, as many as the proposal's suite has."""
    folder = tmp_path_factory.mktemp("suite")
    seeds = (42, 123, 999)
    runs = make_suite(GAINS, (1000, 2000), seeds) + make_suite({"learned-layer": 0.4}, (1000,), seeds)
    runs = [
        replace(
            run,
            selection=Selection(
                certificate=run.certificate.digest, candidates=len(runs), claims=run.certificate.claims
            ),
        )
        for run in runs
    ]
    return write_suite_report(write_runs(folder / "json", runs), folder / "report") / "index.html"


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The page of one run, with samples."""
    certificate = with_base(make_certificate())
    held_out = certificate.held_out.model_copy(update={"base_bpb": 3.4})
    certificate = certificate.model_copy(update={"held_out": held_out}).sealed()
    run = make_run(tmp_path_factory.mktemp("single") / "run", certificate)
    keep_sample(
        RunFolder(run), "The state", {"decoded model": "The state of the Union", "base": "The state " + "o" * 90}
    )
    return write_report(run)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The page of a classifier."""
    folder = Path(__file__).parents[2] / "results" / "classification"
    return write_report(folder, tmp_path_factory.mktemp("classifier") / "classifier.html")


@pytest.fixture(params=["suite", "single", "classifier"])
def page(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Open a file at a width; return the page, what its console said, and what it asked for."""
    contexts = []

    def load(path, width, dark=False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", is_mobile=width < 600
        )
        contexts.append(context)
        tab, messages, requests = context.new_page(), [], []
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.resolve().as_uri())
        return tab, messages, requests

    yield load
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("width", "dark"), SHAPES, ids=lambda value: str(value))
def test_every_figure_is_there_and_nothing_else_is_asked_for(page, opened, width, dark):
    tab, messages, requests = opened(page, width, dark)
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    sizes = tab.evaluate(SIZES)
    assert len(sizes) == {"index.html": 11, "report.html": 10, "classifier.html": 6}[page.name]
    assert all(0.7 * min(width, 540) < w <= width and h > 60 for w, h in sizes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 420, 390])
def test_no_label_covers_another(page, opened, width):
    assert opened(page, width)[0].evaluate(COLLISIONS) == []


@pytest.mark.parametrize("dark", [False, True])
def test_labels_can_be_read_on_the_page(page, opened, dark):
    assert opened(page, 1280, dark)[0].evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize(
    "path", ["suite", "single", "classifier", OVERVIEW], ids=["suite", "single", "classifier", "overview"]
)
def test_text_of_figures_is_large_enough_on_a_phone(path, opened, request):
    if path != OVERVIEW:
        assert opened(request.getfixturevalue(path), 420)[0].evaluate(SMALLEST) >= 11
        return
    # As GitHub shows it: at its own width, or the screen's.
    shown = "document.documentElement.setAttribute('width', '420'); document.documentElement.removeAttribute('height')"
    tab, _, _ = opened(path, 420)
    tab.evaluate(shown)
    assert tab.evaluate(SMALLEST) >= 11


@pytest.mark.parametrize("kind", ["single", "classifier"])
def test_a_page_begins_with_the_claim_and_one_figure(kind, opened, request):
    tab, _, _ = opened(request.getfixturevalue(kind), 1280)
    top = "s => document.querySelector(s).getBoundingClientRect().top"
    order = ["p.statement", "figure.first", *([".sample"] if kind == "single" else []), "pre", "details", "table"]
    assert (found := [tab.evaluate(top, selector) for selector in order]) == sorted(found)
    assert tab.evaluate("document.querySelector('figure.first svg').getBoundingClientRect().bottom") < 900


def test_the_table_of_a_suite_fits_or_says_that_it_goes_on(suite, opened):
    sizes = "(() => { const t = document.querySelector('.summary'); return [t.scrollWidth, t.clientWidth]; })()"
    whole, shown = opened(suite, 1024)[0].evaluate(sizes)
    assert whole <= shown
    tab, _, _ = opened(suite, 420)
    whole, shown = tab.evaluate(sizes)
    assert whole > shown
    # A shadow at the edge, which what is at the table's end covers.
    style = tab.evaluate(
        "(({backgroundImage, backgroundAttachment}) => [backgroundImage, backgroundAttachment])"
        "(getComputedStyle(document.querySelector('.summary')))"
    )
    assert style[0].count("linear-gradient") == 2 and style[1] == "local, scroll"


def test_a_question_is_answered_in_a_line_and_its_evidence_is_folded(suite, opened):
    tab, _, _ = opened(suite, 1280)
    shown = tab.evaluate("[...document.querySelectorAll('h3 + p')].map(p => p.getClientRects().length)")
    assert len(shown) >= 5 and set(shown) == {1}
    assert tab.evaluate("[...document.querySelectorAll('details li')].every(li => !li.checkVisibility())")


def test_the_browser_sees_what_is_wrong(opened, tmp_path):
    """The checks above are not blind: an error, a request and two labels on top of each other are found."""
    broken = tmp_path / "broken.html"
    svg = "<svg viewBox='0 0 10 10'><text y='5'>one</text><text y='5'>two</text></svg>"
    broken.write_text(f"<figure><h3>F</h3>{svg}</figure><img src='missing.png'><script>console.error('no')</script>")
    tab, messages, requests = opened(broken, 390)
    assert messages
    assert len(requests) == 2
    assert any("one | two" in collision for collision in tab.evaluate(COLLISIONS))
