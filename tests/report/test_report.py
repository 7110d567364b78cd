"""The report of one run: its page, its figures and its table."""

import io
import re

import numpy as np
import pytest
from parsed_page import Page
from rich.console import Console
from runs import make_certificate, make_metrics, make_run, with_base, worded, write_metrics

from sublora.certificate.rounding import upward
from sublora.certificate.wording import DIGITS
from sublora.errors import CertificateError, SubloraError
from sublora.report.analysis.metrics import loss_unit, smooth
from sublora.report.analysis.run_result import read_result
from sublora.report.analysis.samples import keep_sample, read_samples
from sublora.report.analysis.tables import claims_table, rounded
from sublora.report.pages import figures
from sublora.report.pages.html import write_report
from sublora.report.pages.svg import inline_svg, save_figure
from sublora.run_folder import RunFolder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "a run")


@pytest.fixture(scope="module")
def html(run_dir):
    path = write_report(run_dir)
    assert path == RunFolder(run_dir).report
    return path.read_text()


def test_every_number_of_the_certificate_is_on_the_page(html):
    certificate = make_certificate()
    text = " ".join(Page(html).text)
    for claim in certificate.claims:
        assert claim.name in text
        assert f"{claim.empirical:.3f}" in text and f"{claim.model_alone:.3f}" in text
        assert f"at most {upward(claim.bound, DIGITS)}" in text
    for value in (
        "2,512",
        "314 bytes",
        "0.05",
        "25,000",
        "4.988",
        "4.510",
        "4.713",
        "1,234",
        "61.5",
        "980 test documents",
        "letters of <English>",
    ):
        assert value in text
    for sentence in (certificate.statement, *certificate.limits, "sublora verify certificate.json --data DIR"):
        assert sentence in text


def test_one_drawing_for_every_figure(html):
    page = Page(html)
    # where it stands; decomposition, top-k, ledger; loss, learning rate, gates twice, gradients twice
    assert page.tags.count("svg") == 10
    assert page.tags.count("figcaption") == 10


def test_nothing_is_fetched_and_no_id_occurs_twice(html):
    page = Page(html)
    assert not re.search(r"https?://", html)
    assert not re.search(r"<script|@import", html)
    assert len(page.ids) == len(set(page.ids))
    inner = [link for link in page.links if not link.startswith("data:")]
    assert inner
    assert {link.removeprefix("#") for link in inner} <= set(page.ids)


def test_the_drawing_takes_the_colour_of_the_page(html):
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "currentColor" in drawings
    assert "<style" not in drawings
    assert not re.search(r"(fill|stroke): ?(#000|black|#fff)", drawings)


def test_the_same_run_gives_the_same_page(run_dir, html, tmp_path):
    assert write_report(run_dir, tmp_path / "again.html").read_text() == html


def test_a_changed_number_changes_the_page_where_it_stands(html, tmp_path):
    claims = make_certificate().claims
    raised = claims[2].model_copy(update={"bound": claims[2].bound + 0.1})
    changed = write_report(
        make_run(tmp_path / "a run", make_certificate(claims=(*claims[:2], raised, *claims[3:])))
    ).read_text()
    before, after = " ".join(Page(html).text), " ".join(Page(changed).text)
    old, new = (f"at most {upward(claim.bound, DIGITS)}" for claim in (claims[2], raised))
    assert old in before and new not in before
    assert new in after
    drawing = re.compile(r'<svg[^>]*aria-label="Top-k error.*?</svg>', re.DOTALL)
    assert drawing.search(changed)[0] != drawing.search(html)[0]


def test_without_a_certificate_there_is_only_training(tmp_path):
    html = write_report(make_run(tmp_path / "run", certificate=False)).read_text()
    page = Page(html)
    assert page.tags.count("svg") == 6
    assert "Every claim" not in page.text
    assert "sublora verify" not in html


def test_the_page_opens_with_the_first_sentence_of_the_statement(html):
    certificate = make_certificate()
    first = re.search(r'<p class="statement">(.*?)</p>', html)[1]
    assert certificate.statement.startswith(first) and first.endswith("each document weighted equally.")
    body = html.partition("</h1>")[2]
    places = [body.index(part) for part in (first, "<svg", "sublora verify", "<details>", "<table>", "<h2>Training")]
    assert places == sorted(places)


def test_losses_of_training_are_in_their_own_unit(tmp_path):
    """Of documents they are per byte, as a claim is, where their bytes are known: what a certificate shows."""
    run = RunFolder(make_run(tmp_path / "run"))
    assert read_result(run.path).loss_unit == "bits per token"
    run.config.write_text(f"{run.config.read_text()}data:\n  batching: documents\n")
    result = read_result(run.path)
    assert result.loss_unit == "bits per byte"
    (axes,) = figures.training(result.metrics, result.loss_unit).figure.axes
    assert axes.get_ylabel() == "bits per byte"
    unknown = make_certificate(claims=tuple(c for c in make_certificate().claims if c.metric != "bpb"))
    units = [
        loss_unit("documents", unknown),
        loss_unit("documents", None),
        loss_unit("labels", None),
        loss_unit(None, None),
    ]
    assert units == ["bits per token", "bits", "bits per label", "bits per token"]


def test_kept_samples_are_on_the_page_and_escaped(tmp_path):
    run = make_run(tmp_path / "run")
    assert "What it writes" not in write_report(run).read_text()
    for end in ("never", "<b>mind</b>"):
        keep_sample(RunFolder(run), "It is", {"decoded model": f"It is {end}", "base": "It is it"})
    keep_sample(RunFolder(run), "", {"decoded model": "So"})
    assert [sample.prompt for sample in read_samples(RunFolder(run))] == ["It is", ""]
    shown = write_report(run).read_text()
    assert "<b>It is</b> &lt;b&gt;mind&lt;/b&gt;</p>" in shown and "never" not in shown
    RunFolder(run).samples.write_text('[{"prompt": 1}]')
    with pytest.raises(SubloraError, match="is damaged"):
        write_report(run)


def test_without_gates_layers_or_held_out_text(tmp_path):
    certificate = make_certificate(held_out=None, baselines=())
    metrics = [{k: v for k, v in r.items() if not k.startswith("grad_norm_")} for r in make_metrics(gated=False)]
    page = Page(write_report(make_run(tmp_path / "run", certificate, metrics)).read_text())
    assert page.tags.count("svg") == 6
    assert "standard error" not in " ".join(page.text)


def test_a_run_that_has_only_been_evaluated(tmp_path):
    metrics = make_metrics(steps=0, gated=False)
    assert Page(write_report(make_run(tmp_path / "run", False, metrics)).read_text()).tags.count("svg") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: [], "is empty"),
        (lambda r: [*r[:3], {**r[3], "loss": float("nan")}, *r[4:]], "line 4: loss is nan at step 30"),
        (lambda r: [*r[:3], {**r[3], "grad_norm_b": [0.1, float("inf")]}, *r[4:]], "grad_norm_b is inf"),
        (lambda r: [*r[:3], {**r[3], "grad_norm_a": [0.1]}, *r[4:]], "grad_norm_a has 1 layers, before it had 12"),
        (lambda r: [{"loss": 1.0}], "line 1: not a record"),
    ],
)
def test_damaged_metrics_are_named(tmp_path, change, message):
    run = make_run(tmp_path / "run", metrics=change(make_metrics()))
    with pytest.raises(SubloraError, match=message):
        write_report(run)
    assert not RunFolder(run).report.exists()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(SubloraError, match=r"cannot read .*metrics\.jsonl"):
        write_report(tmp_path)
    write_metrics(tmp_path, make_metrics())
    with pytest.raises(SubloraError, match=r"cannot read .*config\.yaml"):
        write_report(tmp_path)
    with RunFolder(tmp_path).metrics.open("a") as file:
        file.write('{"kind": "tr')
    with pytest.raises(SubloraError, match="is damaged"):
        write_report(tmp_path)


def test_a_certificate_that_was_edited_is_not_reported(tmp_path):
    run = make_run(tmp_path / "run")
    path = RunFolder(run).certificate
    path.write_text(path.read_text().replace('"delta": "0.05"', '"delta": "0.01"'))
    with pytest.raises(CertificateError, match="was changed"):
        write_report(run)


def bars(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_width()]


def test_the_stack_is_as_long_as_the_bound():
    certificate = make_certificate()
    drawn = bars(figures.decomposition(certificate).figure)
    assert [p.get_width() for p in drawn] == pytest.approx(list(certificate.decomposition.model_dump().values()))
    ends = [p.get_x() + p.get_width() for p in drawn]
    assert [p.get_x() for p in drawn] == pytest.approx([0, *ends[:-1]])
    assert ends[-1] == pytest.approx(certificate.claims[0].bound, abs=1e-6)


def test_the_ledger_is_drawn_in_full():
    assert sum(p.get_width() for p in bars(figures.ledger(make_certificate()).figure)) == pytest.approx(2512)


def test_smoothing_keeps_a_constant_and_forgets_by_half():
    assert smooth(np.full(50, 2.5), 5.0) == pytest.approx(np.full(50, 2.5))
    step = smooth(np.r_[np.zeros(2000), np.ones(5)], 5.0)
    assert step[-1] == pytest.approx(0.5, abs=1e-6)


def test_ids_of_two_drawings_do_not_clash():
    one, two = (inline_svg(figures.ledger(make_certificate()).figure, name, "<label>") for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="(.*?)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    assert 'aria-label="&lt;label&gt;"' in one


def test_figures_are_saved_in_three_formats_with_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        save_figure(figures.top_k(make_certificate()).figure, tmp_path / folder / "top-k_d=0.5")
    for suffix, start in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        data = [(tmp_path / folder / f"top-k_d=0.5.{suffix}").read_bytes() for folder in ("a", "b")]
        assert data[0].startswith(start)
        assert data[0] == data[1]


@pytest.mark.parametrize(
    ("value", "above", "below"),
    [(3.00001, "3.001", "3.000"), (3.0, "3.000", "3.000"), (3.1234, "3.124", "3.123"), (-0.0004, "0.000", "−0.001")],
)
def test_a_bound_is_shown_on_the_side_where_it_stays_true(value, above, below):
    claim = with_base(make_certificate()).claim("bpb")
    assert rounded(claim, value).removeprefix("−") == above
    assert rounded(claim.model_copy(update={"sense": "at least"}), value) == below


def printed(certificate, files=None):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(claims_table(certificate, files or {}))
    return console.export_text()


def test_the_table_for_a_terminal(tmp_path):
    certificate, path = make_certificate(), RunFolder(tmp_path).certificate
    text = printed(certificate, {path.name: path})
    for row in (
        r"held-out bits per byte, 980 test documents .* 3\.120",
        r"measured bits per byte, mixed with the fallback .* 3\.112",
        r"measured bits per byte, decoded model alone .* 3\.100",
        r"K, length of the message .* 2,512 bits \(314 bytes\)",
        r"KL\(Q‖P\) = K ln 2 .* 1,741 nats",
        r"D / d, parameters per coordinate .* 26\.1",
        r"K / \(32 D\), share of the parameters' float32 bits .* 0\.00301",
        rf"certified bits per byte at 95 % .* at most {upward(certificate.headline.bound, DIGITS)}",
        r"the same message by hoeffding_subsampling, bits per token .* 4\.988",
        r"uniform coding, bits per byte .* 8\.000",
        r"coded unigram counts, bits per byte .* 4\.713",
        r"top-1 error, and its bound at 95 % .* 0\.620, 0\.692",
    ):
        assert re.search(row, text), row
    assert "Uninteresting" not in text and "below the base" not in text
    assert str(path) in re.sub(r"[\s│]", "", text)


def test_the_table_of_a_certificate_without_bytes_or_held_out_documents():
    certificate = make_certificate()
    claims = tuple(claim for claim in certificate.claims if claim.metric != "bpb")
    text = printed(worded(certificate.model_copy(update={"held_out": None, "claims": claims})))
    assert "certified bits per token" in text
    assert "per byte" not in text and "held-out bits" not in text


def test_held_out_text_that_chose_the_checkpoint_is_called_so(tmp_path):
    held_out = make_certificate().held_out.model_copy(update={"part": "validation"})
    certificate = make_certificate(held_out=held_out)
    assert "980 validation documents" in printed(certificate)
    page = write_report(make_run(tmp_path / "run", certificate)).read_text()
    assert "980 validation documents" in page and "test documents" not in page


def test_the_improvement_over_a_pretrained_base_is_a_claim_of_its_own(tmp_path):
    certificate = with_base(make_certificate(), gain=0.2519)
    text = printed(certificate)
    assert re.search(r"certified bits per byte below the base with the same fallback at 95 % .* at least 0\.251 ", text)
    assert re.search(
        rf"the base with the same fallback, bits per byte .* {upward(certificate.base_alone.bound_bpb, DIGITS)}", text
    )
    page = Page(write_report(make_run(tmp_path / "run", certificate)).read_text())
    shown = " ".join(page.text)
    for expected in (
        "at least 0.251",
        "the base with the same fallback",
        "sublora verify certificate.json --data DIR --base",
    ):
        assert expected in shown, expected


def test_what_is_not_worth_having_is_said_so_beside_the_statement(tmp_path, html):
    worse = make_certificate(empirical=4.7)
    assert re.search(r"Uninteresting .* no better than coded unigram counts", printed(worse))
    page = write_report(make_run(tmp_path / "run", worse)).read_text()
    said = re.search(r'<p class="statement">.*?</p>\s*<p class="statement warning">(.*?)</p>', page, re.DOTALL)
    assert said and "no better than coded unigram counts." in said[1]
    assert "statement warning" not in html


def test_a_run_without_an_adapter_has_a_page(run_dir, tmp_path):
    """Nothing was trained, so there are no records; before a certificate, their absence is an error."""
    run = make_run(tmp_path / "prompt")
    RunFolder(run).metrics.unlink()
    text = Page(write_report(run).read_text()).text
    assert "Training" in Page(write_report(run_dir).read_text()).text and "Training" not in text
    assert "Check it yourself" in text
    RunFolder(run).certificate.unlink()
    with pytest.raises(SubloraError, match=r"cannot read .*metrics\.jsonl"):
        write_report(run)
