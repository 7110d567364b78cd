"""The chain of references: known code, base, model. What each link is bounded by, and how often the claims fail."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sublora.certificate.base_bounds import base_alone, base_prompted
from sublora.certificate.claims import BASE_MIXTURE, chain_of, losses_by_metric, make_claims, prompted_of
from sublora.certificate.model import Known
from sublora.certificate.terms import Terms
from sublora.inequalities.smoothing import excess_upper
from sublora.scoring.scores import Scores
from sublora.seeds import stream

TOKENS, DELTA, WEIGHT, SAMPLES = 20, 0.2, 2.0**-3, 300


def terms(n: int, bits: int, *, subsampled: bool = False, known: float = 5.0) -> Terms:
    code = Known(
        code="by hand",
        exact=False,
        limit=14.0,
        per_token=known,
        per_byte=known,
        predicted_per_token=known,
        predicted_per_byte=known,
    )
    return Terms(
        "document_level",
        bits,
        0,
        n,
        DELTA,
        False,
        WEIGHT,
        256,
        TOKENS,
        TOKENS,
        code,
        has_base=True,
        subsampled=subsampled,
    )


def scores_of(known: np.ndarray, base: np.ndarray, model: np.ndarray) -> Scores:
    n = len(known)
    lengths = np.full(n, TOKENS)
    return dataclasses.replace(
        Scores.zeros(n, 0), bits=model, lengths=lengths, byte_lengths=lengths, known=known, base_bits=base[:, None],
        misses=np.zeros((n, 12), np.int64),
    )  # fmt: skip


BITS = st.floats(0, 5000)


@settings(max_examples=200, deadline=None)
@given(BITS, BITS, BITS)
def test_no_link_costs_more_than_its_weight_allows(known, base, model):
    """Whatever the three codes say of a document: each fallback limits what is lost against it."""
    t = terms(1, 0)
    chain = chain_of(scores_of(np.array([known]), np.array([base]), np.array([model])), t)
    assert chain.base[0] - chain.known[0] <= math.log2(1 / BASE_MIXTURE) + 1e-6
    assert chain.model[0] - chain.base[0] <= math.log2(1 / WEIGHT) + 1e-6
    # And each is nearly as good as the code itself.
    assert chain.base[0] <= base + math.log2(1 / (1 - BASE_MIXTURE)) + 1e-6
    assert chain.model[0] <= model + math.log2(1 / (1 - WEIGHT)) + 1e-6


def test_the_mixtures_are_codes():
    """Probabilities of all documents of one length add up to 1 along the chain (three codes over 4^3 documents)."""
    rng = stream(0, "chain")
    codes = [rng.dirichlet(np.ones(64)) for _ in range(3)]
    chain = chain_of(scores_of(*(-np.log2(code) for code in codes)), terms(64, 0))
    for lengths in (chain.known, chain.base, chain.model):
        assert (2.0**-lengths).sum() == pytest.approx(1, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(BITS, BITS, BITS, BITS)
def test_a_model_is_no_further_above_the_base_behind_its_prompt(known, base, prompted, model):
    """The limit of the claimed gain, and that the base which it is a gain over is as good as its parts allow."""
    t = dataclasses.replace(terms(1, 0), prompt_bits=60)
    scores = behind_a_prompt(*(np.array([bits]) for bits in (known, base, prompted, model)))
    chain = chain_of(scores, t)
    found = prompted_of(scores, t, chain)
    assert found.model[0] - found.base[0] <= math.log2(1 / WEIGHT) + 1e-6
    assert found.base[0] <= min(prompted, chain.base[0]) + 1 + 1e-6
    assert found.base[0] - chain.known[0] <= 1 + math.log2(1 / BASE_MIXTURE) + 1e-6
    assert found.base[0] >= min(prompted, chain.base[0]) - 1e-6


def test_the_mixtures_behind_a_prompt_are_codes():
    rng = stream(0, "chain")
    codes = [-np.log2(rng.dirichlet(np.ones(64))) for _ in range(4)]
    scores, t = behind_a_prompt(*codes), dataclasses.replace(terms(64, 0), prompt_bits=60)
    found = prompted_of(scores, t, chain_of(scores, t))
    for lengths in (found.base, found.model):
        assert (2.0**-lengths).sum() == pytest.approx(1, abs=1e-9)


def test_a_base_behind_a_prompt_is_compared_only_where_it_was_measured():
    """What is claimed depends on it; a message without a prompt claims nothing of it."""
    t, codes = terms(300, 200), [part[0] for part in documents(1, 300)]
    known, base, model = codes
    scores = behind_a_prompt(known, base, base - 4, model - 8)
    assert not any("prompted" in metric for metric in losses_by_metric(scores, t))
    assert base_prompted(scores, t) is None
    prompted = dataclasses.replace(t, prompt_bits=60)
    claims = {c.metric: c for c in make_claims(scores, prompted)}
    assert list(claims)[2:8] == [
        "bpd_gain", "bpd_gain_alone", "bpd_gain_prompted", "bpb_gain", "bpb_gain_alone", "bpb_gain_prompted"
    ]  # fmt: skip
    # A base that its prompt makes better leaves less to gain, and is harder to beat.
    better = {c.metric: c for c in make_claims(behind_a_prompt(known, base, base - 8, model - 8), prompted)}
    assert better["bpb_gain_prompted"].bound < claims["bpb_gain_prompted"].bound
    assert better["bpb"] == claims["bpb"] and better["bpb_gain"] == claims["bpb_gain"]
    alone, behind = (of(behind_a_prompt(known, base, base - 20, model), prompted) for of in (base_alone, base_prompted))
    assert behind.bits == alone.bits + 60 and behind.bound < alone.bound
    dear = base_prompted(scores, dataclasses.replace(prompted, prompt_bits=600))
    assert dear.bound > base_prompted(scores, prompted).bound > behind.bound
    assert claims["bpb_gain_prompted"].model_alone == pytest.approx(((base - 4 - (model - 8)) / TOKENS).mean())


def behind_a_prompt(known: np.ndarray, base: np.ndarray, prompted: np.ndarray, model: np.ndarray) -> Scores:
    return dataclasses.replace(scores_of(known, base, model), base_bits=np.stack([base, prompted], 1))


def test_a_random_base_is_the_known_code():
    known, model = np.array([80.0, 90.0]), np.array([60.0, 120.0])
    t = dataclasses.replace(terms(2, 0), has_base=False)
    with_base = losses_by_metric(scores_of(known, known, model), t)["bpd"]
    assert with_base.upper == excess_upper(WEIGHT, TOKENS)
    chain = chain_of(scores_of(known, known, model), t)
    assert chain.base is chain.known


def documents(samples: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits of documents under a known code, a base that is better by luck, and a model that is better still."""
    rng = stream(9, "chain documents", n)
    difficulty = rng.normal(4.5, 0.5, (samples, n)).clip(1, 12)
    base = difficulty - rng.choice([1.2, 0.3, -1.0], (samples, n), p=[0.6, 0.3, 0.1])
    model = base - rng.choice([0.5, 0.1, -0.6], (samples, n), p=[0.5, 0.3, 0.2])
    return TOKENS * difficulty, TOKENS * base, TOKENS * model


def truth() -> tuple[float, float]:
    known, base, model = documents(1, 400_000)
    chain = chain_of(scores_of(known[0], base[0], model[0]), terms(1, 0))
    gain = (chain.base - chain.model) / TOKENS
    return float(((chain.model - chain.known) / TOKENS).mean()), float(gain.mean())


def test_coverage_of_the_gain_over_the_base_behind_a_prompt():
    """As above; the model is the document's own, the base behind the prompt lies half way to it."""
    t = dataclasses.replace(terms(50, 0), prompt_bits=60)

    def measured(known: np.ndarray, base: np.ndarray, model: np.ndarray) -> tuple[Scores, float]:
        scores = behind_a_prompt(known, base, (base + model) / 2 + 3, model)
        found = prompted_of(scores, t, chain_of(scores, t))
        return scores, float(((found.base - found.model) / TOKENS).mean())

    known, base, model = documents(1, 400_000)
    _, truth = measured(known[0], base[0], model[0])
    failed = [0, 0]
    for sample in zip(*documents(SAMPLES, 50), strict=True):
        scores, gain = measured(*sample)
        bound = {c.metric: c for c in make_claims(scores, t)}["bpd_gain_prompted"].bound
        failed[0] += bound > truth
        failed[1] += gain - 0.1 * (gain - bound) > truth
    most = int(binom.isf(1e-6, SAMPLES, DELTA))
    assert failed[0] <= most < failed[1]


def claims_of(known: np.ndarray, base: np.ndarray, model: np.ndarray, bits: int, shrink: float) -> tuple[float, float]:
    """The claims on the excess over the known code and on the gain; `shrink` keeps a part of their gaps."""
    t = terms(len(known), bits, known=0.0)
    claims = {c.metric: c for c in make_claims(scores_of(known, base, model), t)}
    chain = chain_of(scores_of(known, base, model), t)
    excess = float(((chain.model - chain.known) / TOKENS).mean())
    gain = float(((chain.base - chain.model) / TOKENS).mean())
    risk, better = claims["bpd"].bound, claims["bpd_gain"].bound
    return excess + shrink * (risk - excess), gain - shrink * (gain - better)


@pytest.mark.parametrize(("shrink", "valid"), [(1.0, True), (0.1, False)])
def test_coverage_of_the_excess_and_of_the_gain(shrink, valid):
    excess, gain = truth()
    failed = [0, 0]
    for sample in zip(*documents(SAMPLES, 50), strict=True):
        risk, better = claims_of(*sample, 0, shrink)
        failed[0] += risk < excess
        failed[1] += better > gain
    most = int(binom.isf(1e-6, SAMPLES, DELTA))
    assert all(f <= most for f in failed) if valid else all(f > most for f in failed)


LUCK, ODDS = (-10.0, 30.0), (0.25, 0.75)


def lucky_gain() -> float:
    """The gain of a model that is 10 bits better than the base with one chance in four, and else is fallen back
    from."""
    known, base, _ = (part[0] for part in documents(1, 100_000))
    model = base + stream(10, "chain luck").choice(LUCK, len(base), p=ODDS)
    chain = chain_of(scores_of(known, base, model), terms(1, 0))
    return float(((chain.base - chain.model) / TOKENS).mean())


@pytest.mark.parametrize("paid", [True, False])
def test_the_luckiest_of_many_models_must_pay_its_bits(paid):
    """Sixteen thousand models that are equally good: the one that is best on a sample claims too much unless it
    pays."""
    models, n, samples, truth = 2**14, 30, 40, lucky_gain()
    rng = stream(11, "chain luck")
    failures = 0
    for _ in range(samples):
        known, base, _ = (part[0] for part in documents(1, n))
        luck = rng.choice(LUCK, (models, n), p=ODDS)
        best = base + luck[luck.mean(axis=1).argmin()]
        claims = {c.metric: c for c in make_claims(scores_of(known, base, best), terms(n, 14 if paid else 0))}
        failures += claims["bpd_gain"].bound > truth
    most = int(binom.isf(1e-6, samples, DELTA))
    assert failures <= most if paid else failures > most


def test_a_gain_is_what_the_statement_says():
    known, base, model = (part[0] for part in documents(1, 5000))
    claims = {c.metric: c for c in make_claims(scores_of(known, base, model), terms(5000, 100))}
    gain = claims["bpd_gain"]
    assert gain.sense == "at least" and claims["bpd"].sense == "at most"
    assert 0 < gain.bound < gain.empirical
    assert gain.model_alone == pytest.approx(float(((base - model) / TOKENS).mean()))
    # The spread of the gain is smaller than that of the excess: bits are cheaper for it.
    dear = {c.metric: c for c in make_claims(scores_of(known, base, model), terms(5000, 2000))}
    assert gain.bound - dear["bpd_gain"].bound < dear["bpd"].bound - claims["bpd"].bound
