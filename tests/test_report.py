"""The report of one run: its page, its figures and its table."""

import io
import re

import numpy as np
import pytest
from parsed_page import Page
from rich.console import Console
from runs import make_certificate, make_metrics, make_run, write_metrics

from sublora.certificate.certificate import CERTIFICATE
from sublora.errors import CertificateError, SubloraError
from sublora.report import figures
from sublora.report.html import write_report
from sublora.report.metrics import METRICS
from sublora.report.svg import inline_svg, save_figure
from sublora.report.tables import claims_table, upward


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "a run")


@pytest.fixture(scope="module")
def html(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return path.read_text()


def test_every_number_of_the_certificate_is_on_the_page(html):
    certificate = make_certificate()
    text = " ".join(Page(html).text)
    for claim in certificate["claims"]:
        assert claim["name"] in text
        assert f"{claim['empirical']:.4f}" in text
        assert upward(claim["bound"]) in text
    for value in (
        "2,512",
        "314 bytes",
        "0.05",
        "25,000",
        "4.9877",
        "4.5100",
        "4.7124",
        "1,234",
        "61.5",
        "random, seed 42",
    ):
        assert value in text
    for sentence in (certificate["statement"], *certificate["limits"], "sublora verify certificate.json --data DIR"):
        assert sentence in text


def test_one_drawing_for_every_figure(html):
    page = Page(html)
    # decomposition, top-k, ledger; loss, learning rate, gates twice, gradients twice
    assert page.tags.count("svg") == 9
    assert page.tags.count("figcaption") == 9


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
    certificate = make_certificate()
    certificate["claims"][2]["bound"] += 0.1
    changed = write_report(make_run(tmp_path / "a run", certificate)).read_text()
    before, after = " ".join(Page(html).text), " ".join(Page(changed).text)
    old, new = upward(certificate["claims"][2]["bound"] - 0.1), upward(certificate["claims"][2]["bound"])
    assert old in before and new not in before
    assert new in after
    drawing = re.compile(r'<svg[^>]*aria-label="Top-k error.*?</svg>', re.DOTALL)
    assert drawing.search(changed)[0] != drawing.search(html)[0]


def test_without_a_certificate_there_is_only_training(tmp_path):
    html = write_report(make_run(tmp_path / "run", certificate=False)).read_text()
    page = Page(html)
    assert page.tags.count("svg") == 6
    assert "Claims" not in page.text
    assert "sublora verify" not in html


def test_without_gates_layers_or_held_out_text(tmp_path):
    certificate = make_certificate()
    certificate["held_out"] = None
    del certificate["baselines"]
    metrics = [{k: v for k, v in r.items() if not k.startswith("grad_norm_")} for r in make_metrics(gated=False)]
    page = Page(write_report(make_run(tmp_path / "run", certificate, metrics)).read_text())
    assert page.tags.count("svg") == 5
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
    assert not (run / "report.html").exists()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(SubloraError, match=r"cannot read .*metrics\.jsonl"):
        write_report(tmp_path)
    write_metrics(tmp_path, make_metrics())
    with pytest.raises(SubloraError, match=r"cannot read .*config\.yaml"):
        write_report(tmp_path)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"kind": "tr')
    with pytest.raises(SubloraError, match="is damaged"):
        write_report(tmp_path)


def test_a_certificate_that_was_edited_is_not_reported(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / CERTIFICATE
    path.write_text(path.read_text().replace('"delta": 0.05', '"delta": 0.01'))
    with pytest.raises(CertificateError, match="was changed"):
        write_report(run)


def bars(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_width()]


def test_the_stack_is_as_long_as_the_bound():
    certificate = make_certificate()
    drawn = bars(figures.decomposition(certificate))
    assert [p.get_width() for p in drawn] == pytest.approx(list(certificate["decomposition"].values()))
    ends = [p.get_x() + p.get_width() for p in drawn]
    assert [p.get_x() for p in drawn] == pytest.approx([0, *ends[:-1]])
    assert ends[-1] == pytest.approx(certificate["claims"][0]["bound"], abs=1e-6)


def test_the_ledger_is_drawn_in_full():
    assert sum(p.get_width() for p in bars(figures.ledger(make_certificate()))) == pytest.approx(2512)


def test_smoothing_keeps_a_constant_and_forgets_by_half():
    assert figures.smooth(np.full(50, 2.5), 5.0) == pytest.approx(np.full(50, 2.5))
    step = figures.smooth(np.r_[np.zeros(2000), np.ones(5)], 5.0)
    assert step[-1] == pytest.approx(0.5, abs=1e-6)


def test_ids_of_two_drawings_do_not_clash():
    one, two = (inline_svg(figures.ledger(make_certificate()), name, "<label>") for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="(.*?)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    assert 'aria-label="&lt;label&gt;"' in one


def test_figures_are_saved_in_three_formats_with_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        save_figure(figures.top_k(make_certificate()), tmp_path / folder / "top-k_d=0.5")
    for suffix, start in (("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        data = [(tmp_path / folder / f"top-k_d=0.5.{suffix}").read_bytes() for folder in ("a", "b")]
        assert data[0].startswith(start)
        assert data[0] == data[1]


@pytest.mark.parametrize(
    ("value", "shown"), [(3.00001, "3.0001"), (3.0, "3.0000"), (3.1234, "3.1234"), (1e-9, "0.0001")]
)
def test_a_bound_is_never_shown_below_itself(value, shown):
    assert upward(value) == shown


def test_the_table_for_a_terminal(tmp_path):
    console = Console(width=120, record=True, file=io.StringIO())
    certificate = make_certificate()
    console.print(claims_table(certificate, {"certificate.json": tmp_path / CERTIFICATE}))
    text = console.export_text()
    for row in (
        r"held-out bits per byte .* 3\.1200",
        r"empirical bits per byte of the decoded model .* 3\.1123",
        r"K, length of the message .* 2,512 bits \(314 bytes\)",
        r"KL\(Q‖P\) = K ln 2 .* 1,741 nats",
        r"D / d, LoRA parameters per coordinate .* 26\.1",
        r"K / \(32 D\), share of the parameters' float32 bits .* 0\.00301",
        rf"certified bits per byte at 95 % .* {upward(certificate['claims'][1]['bound'])}",
        r"the same message by hoeffding_subsampling, bits per token .* 4\.9877",
        r"uniform coding, bits per token .* 8\.0000",
        r"coded unigram counts, bits per token .* 4\.7124",
        r"top-1 error, and its bound at 95 % .* 0\.6200, 0\.6911",
    ):
        assert re.search(row, text), row
    assert str(tmp_path / CERTIFICATE) in re.sub(r"[\s│]", "", text)


def test_the_table_of_a_certificate_without_bytes_or_held_out_documents():
    certificate = make_certificate()
    certificate["held_out"] = None
    certificate["claims"] = [c for c in certificate["claims"] if c["metric"] != "bpb"]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(claims_table(certificate, {}))
    text = console.export_text()
    assert "certified bits per token" in text
    assert "per byte" not in text and "held-out bits" not in text
