"""Hypotheses of a suite, answered from runs with planted effects and from runs without any."""

import math
from dataclasses import replace

import numpy as np
import pytest
from runs import GAINS, make_suite, make_suite_run
from scipy import stats

from sublora.report.analysis import gradients
from sublora.report.analysis.hypotheses import (
    asymmetry,
    depth,
    gradient,
    holm,
    intraclass_correlation,
    learning,
    same_pattern,
)
from sublora.report.analysis.suite import analyse
from sublora.seeds import stream


def test_a_planted_effect_is_found_with_its_size():
    answer = asymmetry(make_suite(seeds=(1, 2, 3, 4)))
    assert answer.answer == "Yes: fixed-bheavy beats fixed-equal; but fixed-aheavy is worse than fixed-equal."
    finding = answer.findings[0]
    assert (str(finding.what), finding.measure) == ("fixed-bheavy minus fixed-equal", "certified bits per token")
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
    answers = analyse(make_suite(dict.fromkeys(GAINS, 0.0))).answers
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
    answers = analyse(make_suite({"uniform": 0.0, "fixed-equal": 0.0}, budgets=(200,), seeds=(1, 2))).answers
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
