"""What the documentation says is executed."""

import dataclasses
import json
import re
import runpy
from pathlib import Path

import pytest

from sublora.certificate.certificate import read_certificate
from sublora.certificate.verify import verify
from sublora.coding.message import decode_message
from sublora.config import SECTIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code):
    exec(compile(code, "example", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_keys_and_links_exist(page):
    text = page.read_text()
    for section, key in re.findall(rf"\b({'|'.join(SECTIONS)})\.(\w+)=", text):
        assert key in {f.name for f in dataclasses.fields(SECTIONS[section])}, f"{section}.{key}"
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_committed_message_decodes():
    certificate = read_certificate(ROOT / "results" / "demo")
    data = (ROOT / "results" / "demo" / "message.bin").read_bytes()
    assert 8 * len(data) == certificate["message"]["bits"]
    assert len(decode_message(data, max_symbols=1000).alpha) == 1000


@pytest.mark.parametrize("run", ["demo", "gpt2_small_sotu"])
def test_the_committed_certificates_follow_from_their_losses(run):
    folder = ROOT / "results" / run
    assert verify(folder, None) == read_certificate(folder)


def test_the_operators_page_shows_the_committed_benchmark():
    result = json.loads((ROOT / "benchmarks" / "results" / "operators.json").read_text())
    page = (ROOT / "docs" / "operators.md").read_text()
    for row in result["lora"] + result["large"]:
        medians = [row["threads"][threads]["median_ms"] for threads in ("1", "2")]
        cells = " | ".join(f"{ms:,.1f}" if ms < 1000 else f"{ms:,.0f}" for ms in medians)
        assert f"| {row['operator']} | {cells} |" in page


@pytest.mark.parametrize("page", ["README.md", "docs/bounds.md", "docs/allocation.md", "docs/gpt2_small.md"])
def test_pages_show_the_committed_results(page):
    script = runpy.run_path(str(ROOT / "benchmarks" / "pages.py"))
    assert script["render"](page) == (ROOT / page).read_text(), "run: python benchmarks/pages.py"


@pytest.mark.parametrize(
    ("setting", "bits", "expected"),
    [
        ("drawn", 3_000, {"hoeffding_subsampling": 0.445, "betting_subsampled": 0.049}),
        ("drawn", 30_000, {"hoeffding_subsampling": 0.907, "betting_subsampled": 0.100}),
        ("drawn", 150_000, {"hoeffding_subsampling": 1.744, "betting_subsampled": 0.203}),
        ("all", 300, {"hoeffding": 0.726, "kl_inverse": 0.703, "empirical_bernstein": 0.279, "betting": 0.078}),
        ("all", 1_000, {"hoeffding": 1.319, "empirical_bernstein": 0.833, "betting": 0.219, "betting_mixture": 0.139}),
        ("all", 3_000, {"kl_inverse": 2.266, "empirical_bernstein": 2.356, "betting": 0.607, "betting_mixture": 0.356}),
    ],
)
def test_the_committed_gaps_are_those_that_theory_predicts(setting, bits, expected):
    rows = json.loads((ROOT / "benchmarks" / "results" / "bounds.json").read_bytes())["gaps"][setting]
    row = next(row for row in rows if row["bits"] == bits)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=0.05)


def test_the_committed_demo_beats_coded_counts():
    certificate = read_certificate(ROOT / "results" / "demo")
    assert all(certificate["claims"][0]["bound"] < b["bound"] for b in certificate["baselines"])
    assert not any(limit.startswith("Uninteresting") for limit in certificate["limits"])
