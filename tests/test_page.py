"""The page of a suite as a reader sees it: a real browser loads it from a folder, wide and narrow, light and dark."""

from dataclasses import replace

import pytest
from browser import CHROMIUM, Browser
from runs import make_suite, write_runs

from sublora.certificate.selection import Selection
from sublora.report.suite import write_suite_report

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

GAINS = {"uniform": 0.0, "fixed-aheavy": 0.5, "fixed-equal": 0.1, "fixed-bheavy": 0.03, "learned": 0.01}
SHAPES = [(1280, False), (1280, True), (390, False), (390, True)]
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
  return [...out.map(([s]) => s + ' leaves'), ...pairs].map(s => figure.querySelector('h3').textContent + ': ' + s);
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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
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
def browser(tmp_path_factory):
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.mark.parametrize(("width", "dark"), SHAPES, ids=lambda value: str(value))
def test_every_figure_is_there_and_nothing_else_is_asked_for(page, browser, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.messages == []
    assert browser.requests == [page.resolve().as_uri()]
    shown = (
        "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    sizes = browser.run(shown)
    assert len(sizes) == 11
    assert all(0.7 * min(width, 540) < w <= width and h > 60 for w, h in sizes)
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_no_label_covers_another(page, browser, width):
    browser.open(page, width)
    assert browser.run(COLLISIONS) == []


@pytest.mark.parametrize("dark", [False, True])
def test_labels_can_be_read_on_the_page(page, browser, dark):
    browser.open(page, 1280, dark=dark)
    assert browser.run(CONTRAST) >= 4.5


def test_the_browser_sees_what_is_wrong(page, browser, tmp_path):
    """The checks above are not blind: an error, a request and two labels on top of each other are found."""
    broken = tmp_path / "broken.html"
    svg = "<svg viewBox='0 0 10 10'><text y='5'>one</text><text y='5'>two</text></svg>"
    broken.write_text(f"<figure><h3>F</h3>{svg}</figure><img src='missing.png'><script>console.error('no')</script>")
    browser.open(broken, 390)
    assert browser.messages
    assert len(browser.requests) == 2
    assert any("one | two" in collision for collision in browser.run(COLLISIONS))
