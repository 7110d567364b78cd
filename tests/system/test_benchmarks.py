"""Every benchmark runs at a small size, and what it says is checked where that can be."""

import json
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from page_tables import suites
from peer_adapters.bench import registered_once
from peer_adapters.suites import SUITES, Effort, Method, Suite
from runs import issue_run
from transformers import GPT2Config, GPT2LMHeadModel

from sublora.certificate.claims import LOSS_MARGIN
from sublora.certificate.reading import read_certificate
from sublora.certificate.terms import make_terms
from sublora.coding.message import decode_message
from sublora.coding.quantizers import quantize
from sublora.config.sections import Sublora
from sublora.nn.projectors import create_intrinsic_model
from sublora.run_folder import RunFolder
from sublora.scoring.scores import read_scores
from sublora.seeds import stream

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
# They measure nothing: their tests compare what they draw from committed results with the pages.
DRAWN = {"overview", "pages"}


def load(name):
    return runpy.run_path(str(BENCHMARKS[0].with_name(f"{name}.py")))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_loads_and_says_how_it_is_run(path):
    names = runpy.run_path(str(path))
    assert callable(names["render" if path.stem in DRAWN else "main"])
    assert f"python benchmarks/{path.name}" in names["__doc__"]


def run(name, monkeypatch, *arguments, **changed):
    """Run a benchmark as its command does, with some of its constants changed; return its names."""
    script = load(name)
    for constant, value in changed.items():
        monkeypatch.setitem(script["main"].__globals__, constant, value)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    script["main"]()
    return script


# What makes each of the others small; those that are called with data have tests of their own.
SMALL = {
    "bounds": ["--toy"],
    "coding": ["--toy"],
    "feedback_model": ["--sizes", 40, "--steps", 6, "--rows", 8, "--few", 40, "--out"],
    "feedback_scale": ["--sizes", 600, "--out"],
    "gap": ["--documents", 3_000, 8_009_762, "--figure", "gap.svg", "--out"],
    "gpu": ["--toy", "--device", "cpu", "--no-compile", "--rounds", 1],
    "operators": ["--toy"],
    "scale": ["--documents", 300, "--tokens", 20_000, "--samples", 150, "--out"],
    "scoring": ["--toy"],
    "top_k_excess": ["--out"],
    "training": ["--toy", "--subjects", "peft lora", "--rounds", 1],
    "watch": ["--watches", 20, "--documents", 60, "--out"],
}
FEWER = {
    "feedback_model": {"DOCUMENTS": 60, "CROPS": 16, "SEEDS": (1, 2), "GRADIENTS": (8, 40)},
    "gap": {"MIXTURE_EXPONENTS": (1, 4)},
}
WITH_DATA = {"baselines", "frames", "peers", "quantization", "tokens"}


def test_every_benchmark_is_run():
    assert {path.stem for path in BENCHMARKS} == SMALL.keys() | WITH_DATA | DRAWN


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_at_a_small_size(name, tmp_path, monkeypatch, capsys):
    """It measures, prints, and leaves the committed results alone."""
    results = BENCHMARKS[0].parent / "results"
    before, threads = {path: path.read_bytes() for path in results.iterdir()}, torch.get_num_threads()
    arguments = [*SMALL[name], *([tmp_path / "out.json"] if SMALL[name][-1] == "--out" else [])]
    monkeypatch.chdir(tmp_path)
    try:
        run(name, monkeypatch, *arguments, **FEWER.get(name, {}))
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    if SMALL[name][-1] == "--out":
        committed = json.loads((results / f"{name}.json").read_bytes())
        assert json.loads((tmp_path / "out.json").read_bytes()).keys() == committed.keys()


@pytest.mark.parametrize("model", ["gpt2", "smollm2"])
@pytest.mark.parametrize("subject", load("training")["SUBJECTS"])
def test_every_subject_of_the_training_benchmark_takes_a_step(subject, model):
    """And those that are compared at equal numbers of trained values have them."""
    script = load("training")
    sizes = script["TOY"][model]
    made = script["make"](sizes, subject, None)
    made.step()
    if not subject.startswith(("peft lora", "floor", "sublora without")):
        assert made.trained == pytest.approx(sizes.d, rel=0.1)


def test_the_baselines_run_on_a_corpus(data_dir, tmp_path, monkeypatch):
    run("baselines", monkeypatch, data_dir, "--out", tmp_path / "out.json", HALF_ORDERS=[2])
    certified = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_bytes())["certified"]}
    # Eight words: how often each letter occurs says more of them than English does.
    assert certified["coded unigram"]["held_out"] < certified["letters of English"]["held_out"] < 8


def test_frames_are_compared_and_finished_runs_are_read(certified, tmp_path, monkeypatch):
    rows = {"few": ["--sublora.intrinsic_dim=20"], "all": ["--sublora.intrinsic_dim=0"]}
    small = ["--config", certified / "config.yaml", "--steps", 3, "--work", tmp_path, "--out", tmp_path / "out.json"]
    written = []
    for _ in range(2):
        run("frames", monkeypatch, *small, ROWS=rows)
        written.append(json.loads((tmp_path / "out.json").read_bytes()))
        (tmp_path / "few" / "last.safetensors").unlink(missing_ok=True)
    assert written[0] == written[1] and not (tmp_path / "few" / "last.safetensors").exists()
    few, every = written[0]["rows"]
    assert few["before"] == every["before"] and few["after"] != every["after"]


def test_peers_are_trained_coded_and_measured_alike(data_dir, tmp_path, monkeypatch):
    """On a base of two layers; a killed run goes on from its messages, and makes the same result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
        GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(r=1, target_modules=["h.1.attn.c_proj"], fan_in_fan_out=True)
    ours = Sublora(targets="linear", linear_head_enable_lora=False, intrinsic_dim=20)
    suite = Suite(
        settings=("--data.block_size=64",), base=str(tmp_path / "base"), framed="", data=str(data_dir), result="tiny",
        methods=(Method("ours", lambda: ours, "sublora"), Method("theirs", lambda: lora, "stand-in")),
        imported=("theirs",), rates=(0.01, 0.1), steps=(1.0, 4.0),
        effort=Effort(steps=4, trial_steps=2, rows=4, batches=1, gradients=8, documents=20, held_out=5),
    )  # fmt: skip
    results = []
    for name in ("first", "second"):
        arguments = ["tiny", "--work", tmp_path / "work", "--out", tmp_path / name]
        run("peers", monkeypatch, *arguments, SUITES={"addresses": suite, "tiny": suite})
        results.append(json.loads((tmp_path / name).read_bytes()))
    assert results[0] == results[1] and sorted(p.name for p in (tmp_path / "work").iterdir()) == ["0.json", "1.json"]
    rows = {(row["method"], row["message"]): row for row in results[0]["rows"]}
    assert rows.keys() == {("ours", "sublora"), ("theirs", "import"), ("theirs", "stand-in")}
    for row in rows.values():
        assert row["bound"] > row["measured"] and row["gain"] < 1
        assert row["rate"] == min((0.01, 0.1), key=lambda rate, trials=row["trials"]: trials[str(rate)])
    # One trained adapter: an import moves no logit, and codes every layer's values.
    theirs, taken = rows["theirs", "stand-in"], rows["theirs", "import"]
    assert taken["held_out_trained"] == pytest.approx(theirs["held_out_trained"], abs=1e-3)
    assert theirs["trained"] == theirs["coded"] == 32 < taken["coded"]


def test_the_quantizers_run_on_a_trained_model(data_dir, certified, tmp_path, monkeypatch):
    small = ["--documents", 20, "--samples", 16, "--iterations", 4]
    run("quantization", monkeypatch, data_dir, certified, *small, "--out", tmp_path / "out.json")
    rows = {row["quantizer"]: row for row in json.loads((tmp_path / "out.json").read_bytes())["rows"]}
    fine, coarse = rows["trellis, step 0.15 rms"], rows["trellis, step 0.25 rms"]
    assert fine["bits"] > coarse["bits"] and fine["relative_error"] < coarse["relative_error"]
    assert len(rows) == 13 and all(0 < row["estimated_bound"] < 8 for row in rows.values())
    # The reference's row is another length of the same coordinates.
    assert rows["reference (kmeans, 11 levels, its own length)"]["bpb"] == rows["kmeans, 11 levels"]["bpb"]


def test_the_bounds_for_tokens_run_on_a_message(data_dir, certified, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    script = run("tokens", monkeypatch, data_dir, certified, "--tokens", 3_000, "--out", out, MANY_TOKENS=2_000_000)
    result = json.loads(out.read_bytes())
    short, long, wide = (row["gaps"] for row in result["rows"])
    assert short.keys() == script["BOUNDS"].keys()
    assert all(long[name] < short[name] and long[name] < wide[name] for name in short)
    afforded = list(result["afforded"].values())
    assert afforded == sorted(afforded) and afforded[0] < afforded[-1]
    # The fixture's own loss, on text that its documents are made of.
    assert 2 < result["mean_bits"] < 8


def dependent_tokens(runs, length):
    """Losses of 0 and 1, and their conditional means: a 1 is likelier after many of them."""
    rng = stream(0, "dependent tokens")
    x, p = np.empty((2, length, runs))
    for k in range(length):
        p[k] = 0.02 + 0.9 * (x[:k].mean(axis=0) if k else 0.5) ** 2
        x[k] = rng.random(runs) < p[k]
    return x.T, p.T


@pytest.mark.parametrize("name", ["azuma", "bernstein", "constant_bets", "running_bets"])
def test_a_bound_for_tokens_holds_where_they_depend_on_each_other(name):
    """And a tenth of its gap is not enough."""
    bound, delta, runs = load("tokens")["BOUNDS"][name], 0.1, 500
    failures = np.zeros(2)
    for x, p in zip(*dependent_tokens(runs, 400), strict=True):
        gap = bound(x, 0.0, 1.0, np.log(1 / delta)) - x.mean()
        failures += [p.mean() > x.mean() + gap, p.mean() > x.mean() + gap / 10]
    assert failures[0] <= runs * delta < failures[1]


def test_the_inequality_behind_bernstein():
    x, t = np.meshgrid(np.linspace(-1, 5, 601), np.linspace(0, 0.99, 100))
    assert (np.exp(t * x - (-np.log1p(-t) - t) * x**2) <= 1 + t * x + 1e-12).all()


def test_the_gap_of_a_committed_run_is_that_of_its_certificate(monkeypatch):
    script, folder = load("gap"), BENCHMARKS[0].parent.parent / "results" / "smollm2_docs"
    certificate, scores = read_certificate(RunFolder(folder).certificate), read_scores(RunFolder(folder).losses)
    header = decode_message(RunFolder(folder).message.read_bytes(), max_symbols=1_000).header
    terms = make_terms(header, certificate.message.bits, certificate.corpus.n, certificate.prior.known)
    names = script["ours"].__globals__
    monkeypatch.setitem(names, "MEASURED", header.samples)
    monkeypatch.setitem(names, "MIXTURE_EXPONENTS", (header.mixture_exponent,))
    # Its bets were chosen on a pilot, so the certificate cannot be lower than the projection by much.
    claim = certificate.claims[0]
    bound, mean = script["ours"](scores, terms)
    assert mean == pytest.approx(claim.empirical) and bound == pytest.approx(claim.bound, abs=0.02)
    bound, mean = script["reference"](scores, terms)
    assert bound == pytest.approx(certificate.comparison.bound, abs=1e-3)


def test_the_committed_gaps_grow_with_d_and_fall_with_n():
    for rows in json.loads((BENCHMARKS[0].parent / "results" / "gap.json").read_bytes())["runs"].values():
        gaps = np.array([[cell["gap"] for cell in row["cells"]] for row in rows])
        assert (np.diff(gaps, axis=0) > -0.01).all() and (np.diff(gaps, axis=1) < 0.01).all()


def test_memory_is_what_a_process_allocates_and_not_the_file_that_it_reads(tmp_path):
    measure, size = load("scale")["measure"], 64 << 20
    (tmp_path / "file").write_bytes(b"1" * size)

    def read():
        return {"sum": int(np.memmap(tmp_path / "file", np.uint8, mode="r").sum(dtype=np.int64))}

    def allocate():
        held = np.ones(size, np.uint8)
        time.sleep(0.1)
        return {"sum": int(held.sum(dtype=np.int64))}

    mapped, answer = measure(read)
    assert answer == {"sum": size * ord("1")}
    held, _ = measure(allocate)
    assert mapped["peak_mb"] - mapped["start_mb"] < 16
    assert 60 < held["peak_mb"] - held["start_mb"] < 90


def test_a_simulated_corpus_is_as_large_as_it_should_be(tmp_path):
    script = load("scale")
    script["write_corpus"].__globals__["CHUNK_TOKENS"] = 5_000
    script["write_corpus"](tmp_path / "train.bin", 1_000, 60_000)
    split = script["open_corpus"](tmp_path).train
    assert len(split) == 1_000 and len(split.tokens) == pytest.approx(60_000, rel=0.1)
    assert split.n_distinct() == 1_000 and split.lengths.min() == script["SHORTEST"]


def test_the_committed_memory_does_not_grow_with_tokens():
    few, many = json.loads((BENCHMARKS[0].parent / "results" / "scale.json").read_bytes())["rows"]
    assert many["documents"] == few["documents"] and many["tokens"] > 4 * few["tokens"]
    for stage, cost in few["stages"].items():
        assert many["stages"][stage]["peak_mb"] < 1.1 * cost["peak_mb"], stage


def test_a_message_of_the_coding_benchmark_decodes_and_its_ledger_adds_up():
    encoded = load("coding")["coded"](quantize(stream(0, "test").standard_normal(100), levels=11, method="kmeans"))
    assert sum(encoded.ledger.values()) == pytest.approx(8 * len(encoded.data))


def test_the_references_length_is_what_it_books():
    quantized = quantize(np.repeat([0.0, 1.0, 2.0, 3.0], 25), levels=4, method="kmeans")
    # 4 centroids of 16 bits, 4 counts of 7 bits, 100 symbols of 2 bits each, and one bit.
    assert load("quantization")["reference_bits"](quantized) == 4 * (16 + 7) + 200 + 1


def test_the_documents_of_the_scoring_benchmark_are_those_that_it_scores(tmp_path):
    script = load("scoring")
    script["write_documents"](tmp_path)
    corpus = script["open_corpus"](tmp_path)
    everything = script["units"].sample_units(corpus, corpus.train, "document_level", script["BLOCK"])
    for length, count, *_ in script["SETTINGS"]:
        assert (everything.split.lengths == length).sum() >= count


@pytest.mark.parametrize("folder", ["SUITE", "SMALL_BUDGET"])
def test_the_suites_are_read_from_their_tables(folder):
    suite = load("pages")[folder]
    groups = suites.read_suite(suite)
    assert all(sorted(run.seed for run in runs) == [42, 123, 999] for runs in groups.values())
    # `learned` is not compared with itself.
    assert suites.differences(suite).count("\n") == 1 + len(groups) - len(
        [mode for mode, _ in groups if mode == "learned"]
    )


def test_the_gaps_of_a_run_end_in_its_claim_and_grow_with_the_message(tmp_path):
    """With the K of the message, the two-stage bound is what the certificate says, but for the margin."""
    script, run = load("bounds"), issue_run(tmp_path / "run")
    gaps = script["demo_gaps"]
    gaps.__globals__["DEMO"] = run
    certificate, scores = read_certificate(run.certificate), read_scores(run.losses)
    terms = script["demo_terms"]()
    assert terms.bits == certificate.message.bits and terms.n == certificate.corpus.n
    here, longer = gaps(terms.bits), gaps(10 * terms.bits)
    own = float((scores.bits / scores.lengths).mean())
    assert here["betting_subsampled_excess"] + own == pytest.approx(certificate.claims[0].bound, abs=2 * LOSS_MARGIN)
    assert here["hoeffding_subsampling"] + own == pytest.approx(certificate.comparison.bound)
    assert set(here) <= set(script["LABELS"])
    assert all(longer[name] > here[name] for name in here)


def test_an_imagined_base_agrees_as_often_as_it_should_and_is_worse():
    imagined = load("top_k_excess")["imagined_base"]
    lengths = np.full(4000, 40)
    misses = stream(0, "misses").binomial(lengths, 0.7)
    for agreement in (0.99, 0.85):
        excess = imagined(misses, lengths, agreement, 0) - misses / lengths
        assert excess.mean() == pytest.approx(0.5 * (1 - agreement), rel=0.1)
        # A token's excess is -1, 0 or 1; its square is 1 where the two disagree.
        assert 40 * excess.var() == pytest.approx(1 - agreement, rel=0.25)


def test_the_committed_ratios_are_those_of_the_curves():
    script, result = (
        load("feedback_model"),
        json.loads((BENCHMARKS[0].parent / "results" / "feedback_model.json").read_bytes()),
    )
    for size in result["sizes"]:
        curves = size["curves"]
        at = next(row for row in curves["feedback"] if row["step"] == 1.0)
        # Between the steps that were tried: nothing is extrapolated.
        losses = [row["loss"] for row in curves["trellis"]]
        assert min(losses) < at["loss"] < max(losses)
        expected = at["bits"] / script["bits_at"](curves["trellis"], at["loss"])
        assert size["over_trellis"] == pytest.approx(expected, abs=1e-3)


def test_feedback_is_measured_against_a_trellis_of_the_same_loss():
    row = load("feedback_scale")["row"](600)
    feedback = row["feedback"]
    assert row["trellis_at_the_loss_on_rows"]["loss"] == pytest.approx(feedback["loss_on_rows"], rel=0.3)
    assert row["trellis_at_the_true_loss"]["loss"] == pytest.approx(feedback["true_loss"], rel=0.3)
    # What no row sees is not free.
    assert feedback["loss_on_rows"] < feedback["true_loss"]
    assert feedback["bits"] < row["trellis_at_the_loss_on_rows"]["bits"]


def test_values_that_layers_of_peft_share_reach_all_of_them():
    """As UniLoRA's do: without the script's detour, torch puts back a tensor of the first call for good."""
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    config = peft.UniLoraConfig(r=2, theta_d_length=20, target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = registered_once(peft.get_peft_model(plain, config))
    model = create_intrinsic_model(adapted, intrinsic_dim=0, seed=0).eval()
    tokens = torch.arange(8)[None]

    def logits(alpha):
        with torch.no_grad():
            model.subspace_params.fill_(alpha)
            return model(tokens).logits

    first, moved = logits(0), logits(1)
    assert model.d == 20 and (moved - first).abs().max() > 1e-3
    assert torch.equal(logits(0), first) and torch.equal(logits(1), moved)
    with torch.no_grad():
        assert torch.equal(model.materialize()(tokens).logits, moved)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_every_peer_has_the_same_effort(suite):
    result = json.loads((BENCHMARKS[0].parent / "results" / f"{suite.result}.json").read_bytes())
    assert {row["method"] for row in result["rows"]} == {method.name for method in suite.methods}
    for row in result["rows"]:
        assert sorted(map(float, row["trials"])) == list(suite.rates)
        assert row["trials"][str(row["rate"])] == min(row["trials"].values()) and row["step"] in suite.steps


def test_the_committed_delays_of_a_watch_are_those_of_the_script():
    script, result = load("watch"), json.loads((BENCHMARKS[0].parent / "results" / "watch.json").read_bytes())
    row = result["rows"][1]
    delay = script["first_alarms"](row["before"], row["gap"], 1.0) - row["before"]
    assert [np.median(delay), np.quantile(delay, 0.9)] == pytest.approx(row["delays"]["1.0"], abs=3)
    assert result["false_alarms"]["share"] <= script["ALPHA"]
    # The farther, the sooner.
    for each in result["rows"]:
        medians = [median for median, _ in each["delays"].values()]
        assert medians == sorted(medians, reverse=True)
