"""Questions about a suite of runs, answered from the data: with a test, an effect size, or "no evidence".

Runs of two modes are compared in pairs with the same d and seed. The p-values of one question are adjusted together
(Holm 1979), and an answer is counted as evidence when the adjusted one is below `ALPHA`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from sublora.report.analysis.gradients import beside_gammas
from sublora.report.analysis.runs import Configuration, Run, configurations, mode_order
from sublora.report.analysis.tables import minus

ALPHA = 0.05
# Fewer pairs than this cannot say anything.
MIN_PAIRS = 3
# Fewer layers cannot show an order.
MIN_LAYERS = 3
# A spread below this is rounding.
FLAT = 1e-9

# What modes are compared in; less is better. The first decides.
MEASURES: tuple[tuple[str, Callable[[Run], float]], ...] = (
    ("certified bits per token", lambda run: run.claim("bpd", "bound")),
    ("held-out bits per token", Run.held_out),
)


class Pair(NamedTuple):
    """Two modes that are compared."""

    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.one} minus {self.other}"


@dataclass(frozen=True)
class Finding:
    """One test.

    what: the modes that are compared, or the configuration.
    measure: what is compared or correlated.
    n: pairs, or layers.
    estimate: mean difference, or correlation; NaN where nothing varies.
    detail: the second test or the agreement between seeds, in words.
    p: of the main test, NaN where it does not apply.
    effect: Cohen's d_z of a difference; a correlation is its own effect size.
    low, high: 95 % interval of a difference.
    adjusted: p after Holm's correction over the findings of the question.
    """

    what: Pair | Configuration
    measure: str
    n: int
    estimate: float
    detail: str
    p: float = math.nan
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    adjusted: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether it counts as evidence."""
        return self.adjusted < ALPHA


@dataclass(frozen=True)
class Answer:
    """A question, the answer in a sentence, what was found in the single tests, and the tests."""

    question: str
    answer: str
    sentences: list[str]
    findings: list[Finding]


def answer_modes(runs: Sequence[Run]) -> list[Answer]:
    """Answer the questions that compare modes; those without data say so."""
    in_frames = [frames(runs)] if {"spectral", "practised"} & {run.mode for run in runs} else []
    return [asymmetry(runs), learning(runs), *in_frames]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values adjusted for testing all of them at once (Holm 1979); NaN stays NaN and is not counted."""
    valid = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    out, highest = [math.nan] * len(ps), 0.0
    for rank, (p, i) in enumerate(valid):
        highest = max(highest, min(1.0, p * (len(valid) - rank)))
        out[i] = highest
    return out


def intraclass_correlation(values: Float[np.ndarray, "seeds layers"]) -> tuple[float, float]:
    """Return ICC(2,1) of layers measured by seeds, and the p-value of its F test.

    Two-way random effects, absolute agreement, one measurement (Shrout & Fleiss 1979). 1 when every seed gives every
    layer the same value, around 0 when layers differ no more than chance. NaN where nothing varies.
    """
    k, n = values.shape
    if np.ptp(values) < FLAT:
        return math.nan, math.nan
    grand = values.mean()
    rows = k * ((values.mean(0) - grand) ** 2).sum() / (n - 1)
    columns = n * ((values.mean(1) - grand) ** 2).sum() / (k - 1)
    residual = ((values - values.mean(0) - values.mean(1)[:, None] + grand) ** 2).sum() / ((n - 1) * (k - 1))
    icc = (rows - residual) / (rows + (k - 1) * residual + k * (columns - residual) / n)
    p = stats.f.sf(rows / residual, n - 1, (n - 1) * (k - 1)) if residual > 0 else 0.0
    return float(icc), float(p)


def asymmetry(runs: Sequence[Run]) -> Answer:
    """Does it help to give B more coordinates than A, or fewer?"""
    question = "Does it help to divide the coordinates unequally between A and B?"
    decisive = [("fixed-bheavy", "fixed-equal"), ("fixed-aheavy", "fixed-equal")]
    return _compare(question, runs, decisive, [("fixed-bheavy", "fixed-aheavy"), ("fixed-bheavy", "uniform")])


def learning(runs: Sequence[Run]) -> Answer:
    """Does it help to learn the division, compared with dividing nothing?"""
    gated = sorted({run.mode for run in runs if run.gamma() is not None}, key=mode_order)
    others = [(mode, other) for other in ("fixed-equal", "fixed-bheavy") for mode in gated]
    return _compare("Does it help to learn the division?", runs, [(mode, "uniform") for mode in gated], others)


def frames(runs: Sequence[Run]) -> Answer:
    """Does it help to put the adapter into a frame: of the base, or learned from known documents?"""
    decisive = [("practised", "uniform"), ("practised", "spectral")]
    return _compare("Does it help to practise?", runs, decisive, [("spectral", "uniform"), ("practised", "learned")])


def _compare(
    question: str, runs: Sequence[Run], decisive: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]
) -> Answer:
    """Compare pairs of modes; whether the certified bound of the decisive pairs differs answers the question."""
    certified = [run for run in runs if run.certificate]
    pairs, findings = [], []
    for pair in itertools.starmap(Pair, (*decisive, *others)):
        for unit, measure in MEASURES:
            values = [{(r.d, r.seed): measure(r) for r in certified if r.mode == mode} for mode in pair]
            shared = sorted(set(values[0]) & set(values[1]))
            differences = np.array([values[0][key] - values[1][key] for key in shared], dtype=np.float64)
            differences = differences[np.isfinite(differences)]
            if len(differences) >= MIN_PAIRS:
                pairs.append(pair)
                findings.append(_paired(pair, unit, differences))
    findings = _adjust(findings)
    compared = list(zip(pairs, findings, strict=True))
    tested = [(p, f) for p, f in compared if p in decisive and f.measure == MEASURES[0][0]]
    deciding = [(p, f) for p, f in tested if f.significant]
    worse = " and ".join(f"{p.one} is worse than {p.other}" for p, f in deciding if f.estimate > 0)
    if not tested:
        answer = f"Not tested: the modes that decide it share fewer than {MIN_PAIRS} pairs of d and seed."
    elif better := [f"{p.one} beats {p.other}" for p, f in deciding if f.estimate < 0]:
        answer = f"Yes: {' and '.join(better)}{f'; but {worse}' if worse else ''}."
    elif worse and len(deciding) == len(tested):
        answer = f"No, it hurts: {worse}."
    elif worse:
        answer = f"No evidence that it helps; {worse}."
    else:
        answer = "No evidence that it helps."
    return Answer(question, answer, [_difference(p, f) for p, f in compared], findings)


def _difference(pair: Pair, finding: Finding) -> str:
    verdict = "is better than" if finding.estimate < 0 else "is worse than"
    if not finding.significant:
        verdict = "against"
    value = minus(f"{finding.estimate:+.4f}")
    end = "" if finding.significant else ", no evidence of a difference"
    if math.isnan(finding.p):
        end = f"; {finding.detail}"
    return f"{pair.one} {verdict} {pair.other}: {value} {finding.measure}{end}."


def _paired(what: Pair, measure: str, differences: Float[np.ndarray, " n"]) -> Finding:
    n, mean, spread = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    if spread < FLAT:
        return Finding(what, measure, n, mean, "the differences do not vary, so no test applies")
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(0.95)
    rank = stats.wilcoxon(differences)
    return Finding(
        what,
        measure,
        n,
        mean,
        f"Wilcoxon p = {rank.pvalue:.3g}",
        p=float(test.pvalue),
        effect=mean / spread,
        low=float(interval.low),
        high=float(interval.high),
    )


def _gated(runs: Sequence[Run]) -> dict[Configuration, Float[np.ndarray, "seeds layers"]]:
    out = {}
    for configuration, group in configurations(runs).items():
        gammas = [gamma for run in group if (gamma := run.gamma()) is not None]
        if gammas and len({len(gamma) for gamma in gammas}) == 1:
            out[configuration] = np.array(gammas)
    return out


def same_pattern(runs: Sequence[Run]) -> Answer:
    """Do the gates of different seeds find the same pattern over layers?"""
    question = "Do the gates find the same pattern over layers in every seed?"
    findings = []
    for what, gammas in _gated(runs).items():
        if len(gammas) < 2 or gammas.shape[1] < MIN_LAYERS:
            continue
        icc, p = intraclass_correlation(gammas)
        pairs = [
            stats.pearsonr(a, b).statistic
            for a, b in itertools.combinations(gammas, 2)
            if min(np.ptp(a), np.ptp(b)) > FLAT
        ]
        agreement = f"mean pairwise correlation {minus(f'{np.mean(pairs):.2f}')}" if pairs else "the gates did not move"
        detail = f"{len(gammas)} seeds, {agreement}"
        measure = "intraclass correlation of gamma"
        findings.append(Finding(what, measure, gammas.shape[1], icc, detail, p=p, effect=icc))
    return _correlations(question, _adjust(findings), "two seeds of a gated configuration", "Evidence that seeds agree")


def depth(runs: Sequence[Run]) -> Answer:
    """Does gamma follow the depth of the layer?"""
    question = "Does gamma follow the depth of the layer?"
    measure = "Spearman correlation of gamma and depth"
    findings = [
        _ranked(what, measure, np.tile(np.arange(gammas.shape[1], dtype=np.float64), (len(gammas), 1)), gammas)
        for what, gammas in _gated(runs).items()
        if gammas.shape[1] >= MIN_LAYERS
    ]
    return _correlations(question, _adjust(findings), "a gated configuration", "Evidence that gamma changes with depth")


def gradient(runs: Sequence[Run]) -> Answer:
    """Does gamma follow the share of B in the gradient?"""
    question = "Do layers with more gradient through B, compared with A, end with a larger gamma?"
    findings = []
    for measure, first in (("at the first record", True), ("over training", False)):
        for configuration, (shares, gammas) in beside_gammas(runs, first=first).items():
            if gammas.shape[1] >= MIN_LAYERS:
                text = f"Spearman correlation of gamma and the share of B in the gradient {measure}"
                findings.append(_ranked(configuration, text, shares, gammas))
    meaning = "Evidence that gamma goes with the gradient"
    return _correlations(question, _adjust(findings), "gates and gradients by layer", meaning, unit="tests")


def _ranked(
    what: Configuration, measure: str, x: Float[np.ndarray, "seeds layers"], gammas: Float[np.ndarray, "seeds layers"]
) -> Finding:
    """Correlate x and gamma over layers, both averaged over seeds: the layers of several seeds are not independent."""
    n = gammas.shape[1]
    if min(np.ptp(x.mean(0)), np.ptp(gammas.mean(0))) <= FLAT:
        return Finding(what, measure, n, math.nan, "the gates did not move")
    test = stats.spearmanr(x.mean(0), gammas.mean(0))
    rho = float(test.statistic)
    # The t approximation goes to 0; no ranking is rarer than one of n!, in either direction.
    p = max(float(test.pvalue), 2 / math.factorial(n))
    pairs = zip(x, gammas, strict=True)
    each = [stats.spearmanr(a, b).statistic for a, b in pairs if min(np.ptp(a), np.ptp(b)) > FLAT]
    detail = (
        f"{len(gammas)} seeds, from {minus(f'{min(each):.2f}')} to {minus(f'{max(each):.2f}')} in single seeds"
        if each
        else ""
    )
    return Finding(what, measure, n, rho, detail, p=p, effect=rho)


def _correlations(
    question: str, findings: list[Finding], needed: str, meaning: str, unit: str = "configurations"
) -> Answer:
    if not findings:
        return Answer(question, f"Not tested: there is no data of {needed}.", [], [])
    found = sum(f.significant for f in findings)
    answer = f"{meaning} in {found} of {len(findings)} {unit}." if found else "No evidence."
    sentences = [
        f"{f.what}: {f.measure} {minus(f'{f.estimate:.2f}')}{'' if f.significant else ', no evidence'}."
        if math.isfinite(f.estimate)
        else f"{f.what}: {f.detail}."
        for f in findings
    ]
    return Answer(question, answer, sentences, findings)


def _adjust(findings: list[Finding]) -> list[Finding]:
    adjusted = holm([finding.p for finding in findings])
    return [replace(finding, adjusted=p) for finding, p in zip(findings, adjusted, strict=True)]
