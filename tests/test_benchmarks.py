"""Every benchmark at least loads: what it imports exists. The fast ones take a step."""

import json
import runpy
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from runs import issue_run
from transformers import GPT2Config, GPT2LMHeadModel

from sublora.certificate.claims import LOSS_MARGIN
from sublora.certificate.reading import read_certificate
from sublora.coding.quantizers import quantize
from sublora.nn.projectors import create_intrinsic_model
from sublora.scoring.scores import read_scores
from sublora.seeds import stream

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


def load(name):
    return runpy.run_path(str(BENCHMARKS[0].with_name(f"{name}.py")))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_loads_and_says_how_it_is_run(path):
    names = runpy.run_path(str(path))
    assert callable(names["main" if path.stem != "pages" else "render"])
    assert f"python benchmarks/{path.name}" in names["__doc__"]


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
    for length, count, _ in script["SETTINGS"]:
        assert (everything.split.lengths == length).sum() >= count


@pytest.mark.parametrize("folder", ["SUITE", "SMALL_BUDGET"])
def test_the_suites_are_read_from_their_tables(folder):
    script = load("pages")
    groups = script["read_suite"](script[folder])
    assert all(sorted(run.seed for run in runs) == [42, 123, 999] for runs in groups.values())
    # `learned` is not compared with itself.
    assert script["differences"](script[folder]).count("\n") == 1 + len(groups) - len(
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
    adapted = load("peers")["registered_once"](peft.get_peft_model(plain, config))
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


def test_every_peer_has_the_same_effort():
    result = json.loads((BENCHMARKS[0].parent / "results" / "peers.json").read_bytes())
    script = load("peers")
    assert {row["method"] for row in result["rows"]} == {method.name for method in script["METHODS"]}
    for row in result["rows"]:
        assert sorted(map(float, row["trials"])) == list(script["RATES"])
        assert row["trials"][str(row["rate"])] == min(row["trials"].values()) and row["step"] in script["STEPS"]


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
