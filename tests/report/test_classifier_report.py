"""The page of a classifier's run: its claim, one drawing of errors, and how to check them."""

import re
import shutil
from pathlib import Path

import pytest
from parsed_page import Page

from sublora.certificate.reading import write_certificate
from sublora.classification.assemble import BASE_NAME
from sublora.classification.model import read_classifier_certificate
from sublora.classification.wording import percent, points
from sublora.errors import CertificateError
from sublora.report.pages.classifier import draw_errors
from sublora.report.pages.dots import LEFT, RIGHT
from sublora.report.pages.html import write_report
from sublora.run_folder import RunFolder

COMMITTED = Path(__file__).parents[2] / "results" / "classification"


@pytest.fixture
def run(tmp_path):
    shutil.copytree(COMMITTED, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return write_report(COMMITTED, tmp_path_factory.mktemp("page") / "report.html").read_text()


def marks(drawing, row):
    """Where the marks of a row stand, from left to right, in units of the drawing."""
    group = next(g for g in re.findall(r"<g>(.*?)</g>", drawing, re.DOTALL) if f">{row}<" in g)
    found = re.findall(r'<circle class="\w+" cx="([\d.]+)"|<rect class="\w+" x="([\d.]+)" y="[\d.]+" width="4"', group)
    return [float(dot or float(tick) + 2) for dot, tick in found]


def changed(certificate, gain=None, **claim):
    found = certificate.claims
    parts = {"error": found.error.model_copy(update=claim), "gain": gain or found.gain}
    claims = found.model_copy(update=parts)
    return certificate.model_copy(update={"claims": claims}).sealed()


def test_every_number_of_the_certificate_is_on_the_page(html):
    certificate, text = read_classifier_certificate(COMMITTED), " ".join(Page(html).text)
    for part in (*certificate.baselines, certificate.claim, *certificate.classes):
        assert f"{part.errors:,}" in text
    for value in ("14.3 %", "≤ 21.8 %", "28.5 %", "57 bytes", "456", "0.05", "55,350", "60,164", certificate.digest):
        assert value in text
    for sentence in (certificate.statement, *certificate.limits, "sublora verify classifier.json --data DIR"):
        assert sentence in text
    assert "Uninteresting:" in text and "certified no better than naive Bayes" in text


def test_it_opens_with_the_claim_and_is_self_contained(html):
    page = Page(html)
    assert html.index("With probability at least 95 %") < html.index("<svg") < html.index("Check it yourself")
    assert not re.search(r"https?://|<script|@import", html) and len(page.ids) == len(set(page.ids))
    # errors, ledger; loss, learning rate, gradients twice
    assert page.tags.count("svg") == page.tags.count("figcaption") == 6


def test_errors_stand_where_they_are_on_an_axis_from_zero():
    certificate = read_classifier_certificate(COMMITTED)
    drawing = str(draw_errors(certificate))
    (always, *_), claim = certificate.baselines, certificate.claim
    per_share = (RIGHT - LEFT) / (1.03 * always.errors / always.documents)
    expected = [LEFT + per_share * share for share in (claim.errors / claim.measured, claim.bound)]
    assert marks(drawing, "this classifier") == pytest.approx(expected, abs=0.1)
    # The lowest on top: of what is bounded, by the bound.
    titles = re.findall(r'class="title[^>]*>([^<]*)', drawing)
    assert titles[0] == "naive Bayes, half of the documents" and titles[-1] == "always &#39;member&#39;"
    better = str(draw_errors(changed(certificate, bound=0.1, errors=0)))
    assert marks(better, "this classifier")[0] == LEFT and titles[0] not in better[: better.index("this classifier")]
    assert "0.0 %\u2002≤ 10.0 %" in better


def test_a_long_label_is_cut():
    certificate = read_classifier_certificate(COMMITTED)
    always, *others = certificate.baselines
    named = always.model_copy(update={"name": f"always '{'x' * 60}'"})
    drawing = str(draw_errors(certificate.model_copy(update={"baselines": (named, *others)})))
    (shown,) = re.findall(r'class="title[^>]*>(always[^<]*)', drawing)
    assert shown.endswith("xx…") and len(shown.replace("&#39;", "'")) == 36


def test_a_claim_that_beats_everything_is_not_called_uninteresting(run):
    certificate = read_classifier_certificate(run.path)
    write_certificate(run, changed(certificate, bound=0.15))
    # The improvement over the base is still not certified.
    assert f"certified no better than {BASE_NAME}." in " ".join(Page(write_report(run.path).read_text()).text)
    gain = certificate.claims.gain.model_copy(update={"bound": 0.001})
    write_certificate(run, changed(certificate, gain, bound=0.15))
    page = write_report(run.path).read_text()
    assert "at most 15.0 %" in page and "Uninteresting:</b>" not in page


def test_the_claims_besides_have_a_table(html):
    claims = read_classifier_certificate(COMMITTED).claims
    text = " ".join(Page(html).text)
    table = text[text.index("Claimed besides") : text.index("Every class")]
    for top in claims.top:
        assert f"label not among the {top.k} likeliest" in table and f"at most {percent(top.bound)}" in table
    assert f"{claims.gain.mended:,} mended, {claims.gain.spoiled:,} spoiled" in table
    assert f"at least {points(claims.gain.bound)} points" in table and "-" in points(claims.gain.bound)


def test_a_changed_certificate_has_no_page(run):
    text = run.classifier_certificate.read_text()
    run.classifier_certificate.write_text(text.replace('"errors": 1432', '"errors": 1431', 1))
    with pytest.raises(CertificateError, match="digest"):
        write_report(run.path)
    assert not run.report.exists()
