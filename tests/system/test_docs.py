"""What the documentation says is executed."""

import dataclasses
import hashlib
import json
import re
import runpy
from pathlib import Path

import pytest
import yaml
from families import write_tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import sublora
from sublora.certificate.model import FORMAT, Certificate
from sublora.certificate.reading import MOST_BYTES, read_certificate
from sublora.certificate.schema import schema_text
from sublora.certificate.verify import verify
from sublora.certificate.wording import beaten_by
from sublora.classification.verify import verify_classifier
from sublora.coding.message import MAX_BYTES, MAX_DRAWS, MAX_SYMBOLS, decode_message
from sublora.config import SECTIONS
from sublora.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
# Folders of results/ that hold a certificate of the present format.
COMMITTED = [
    "demo",
    "demo_scratch",
    "gpt2_small_wide",
    "smollm2_docs",
    "smollm2_prompt",
    "smollm2_share",
    "sotu_before",
]
# Valid, and no better than some simple code: they say so themselves.
UNINTERESTING = set(COMMITTED)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page):
    """The Python that stands in a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    if page.name != "README.md"
    for i, code in enumerate(snippets(page))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code):
    exec(compile(code, "example", "exec"), {})


def test_the_first_page_runs_with_a_base_and_texts(tmp_path, monkeypatch, capsys):
    folder = write_tokenizer(tmp_path / "base")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(AutoTokenizer.from_pretrained(folder)), max_position_embeddings=64, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    texts = [f"Paragraph {i} says that {i} and {i} are {2 * i}." for i in range(300)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    monkeypatch.chdir(tmp_path)
    (code,) = snippets(ROOT / "README.md")
    exec(compile(code, "README.md", "exec"), {})
    certificate, data = read_certificate(RunFolder(tmp_path / "run").certificate), RunFolder(tmp_path / "run").message
    assert certificate.statement in capsys.readouterr().out
    assert certificate.message.bits == 8 * data.stat().st_size < 8 * 200
    assert len(decode_message(data.read_bytes(), max_symbols=200).alpha) == 200


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.py")), ids=lambda p: p.stem)
def test_notebooks_run(notebook, monkeypatch):
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(notebook))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_keys_and_links_exist(page):
    text = page.read_text()
    for section, key in re.findall(rf"\b({'|'.join(SECTIONS)})\.(\w+)=", text):
        assert key in {f.name for f in dataclasses.fields(SECTIONS[section])}, f"{section}.{key}"
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_security_page_states_the_limits_of_the_readers():
    page = " ".join((ROOT / "SECURITY.md").read_text().split())
    assert f"may have {MOST_BYTES >> 20} MiB" in page and MOST_BYTES == 1 << 20
    assert f"{MAX_BYTES >> 20} MiB, {MAX_SYMBOLS:,} symbols and {MAX_DRAWS:,} draws" in page
    for test in re.findall(r"`(test_\w+)`", page):
        assert any(f"def {test}(" in path.read_text() for path in (ROOT / "tests").rglob("*.py")), test


def test_the_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sublora.__version__


def test_every_heading_of_the_log_has_a_date_and_a_verdict():
    headings = re.findall(r"^## (.*)", (ROOT / "docs" / "log.md").read_text(), re.MULTILINE)
    assert [h for h in headings if not re.fullmatch(r"\d{4}-\d\d-\d\d: .+ \(.+\).*", h)] == [] != headings


def committed():
    """The runs in results/ whose certificate is of the present format."""
    runs = [RunFolder(path.parent) for path in sorted((ROOT / "results").glob(f"*/{RunFolder(ROOT).certificate.name}"))]
    return [run for run in runs if json.loads(run.certificate.read_bytes())["format"] == FORMAT]


def test_the_committed_certificates_are_those_that_are_expected():
    assert [run.path.name for run in committed()] == COMMITTED


@pytest.mark.parametrize("run", committed(), ids=lambda run: run.path.name)
def test_the_committed_messages_decode(run):
    certificate, data = read_certificate(run.certificate), run.message.read_bytes()
    assert 8 * len(data) == certificate.message.bits
    message = decode_message(data, max_symbols=max(certificate.message.coordinates, 1))
    assert len(message.alpha) == certificate.message.coordinates


SUITE = [
    RunFolder(path)
    for suite in ("adaptive_pretrained", "frames_smollm2")
    for path in sorted((ROOT / "results" / suite).glob("sublora-*"))
]


@pytest.mark.parametrize("run", SUITE, ids=lambda run: run.path.name)
def test_the_runs_of_the_suite_are_those_that_were_verified(run):
    test_the_committed_messages_decode(run)
    certificate, data = read_certificate(run.certificate), run.message.read_bytes()
    assert certificate.message.sha256 == hashlib.sha256(data).hexdigest()
    assert json.loads(run.verification.read_bytes())["certificate"] == certificate.digest


@pytest.mark.parametrize("run", committed(), ids=lambda run: run.path.name)
def test_the_committed_certificates_follow_from_their_losses(run):
    verified = verify(run.path, None)
    assert verified.certificate == read_certificate(run.certificate)
    assert "arithmetic only" in verified.in_words()


@pytest.mark.parametrize("run", ["classification", "classification_smollm2", "classification_unicode"])
def test_the_committed_classifiers_follow_from_their_predictions(run):
    verified = verify_classifier(ROOT / "results" / run, None)
    assert "arithmetic only" in verified.in_words()


@pytest.mark.parametrize("run", committed(), ids=lambda run: run.path.name)
def test_the_committed_certificates_beat_simple_codes(run):
    certificate = read_certificate(run.certificate)
    better = beaten_by(certificate.headline, certificate.beside)
    assert bool(better) == ("Uninteresting" in certificate.statement) == (run.path.name in UNINTERESTING)


def test_the_committed_schema_is_that_of_the_certificate():
    committed_text = (ROOT / "docs" / "certificate.schema.json").read_text()
    assert committed_text == schema_text(), "run: python -m sublora.certificate.schema > docs/certificate.schema.json"
    schema = json.loads(committed_text)
    assert set(schema["properties"]) == set(Certificate.model_fields)
    assert schema["additionalProperties"] is False
    for name, part in (("Certificate", schema), *schema["$defs"].items()):
        assert all("description" in field for field in part["properties"].values()), name
    assert schema["$defs"]["Claim"]["properties"]["sense"]["enum"] == ["at most", "at least"]


def test_the_operators_page_shows_the_committed_benchmark():
    result = json.loads((ROOT / "benchmarks" / "results" / "operators.json").read_text())
    page = (ROOT / "docs" / "operators.md").read_text()
    for row in result["lora"] + result["large"]:
        medians = [row["threads"][threads]["median_ms"] for threads in ("1", "2")]
        cells = " | ".join(f"{ms:,.1f}" if ms < 1000 else f"{ms:,.0f}" for ms in medians)
        assert f"| {row['operator']} | {cells} |" in page


@pytest.mark.parametrize(
    ("page", "run"),
    [
        ("README.md", "demo"),
        ("docs/tutorial.md", "demo"),
        ("docs/bounds.md", "demo"),
        ("docs/certificate.md", "demo"),
        ("docs/smollm2.md", "smollm2_share"),
        ("docs/prior.md", "smollm2_share"),
        ("docs/allocation.md", None),
        ("docs/classification.md", None),
        ("docs/watch.md", None),
        ("docs/scale.md", None),
        ("docs/import.md", None),
    ],
)
def test_pages_show_the_committed_results(page, run):
    if run and run not in COMMITTED:
        pytest.skip(f"results/{run} is not committed")
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
