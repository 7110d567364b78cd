"""The code known beforehand, and the bound on what a model loses against it."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import binom

from sublora.certificate.claims import Losses, losses_by_metric, plain, projected_bound, risk_bound
from sublora.certificate.known import KNOWN_SHARE, MeasuredCode, known_code, measure_code
from sublora.certificate.model import Known
from sublora.certificate.terms import Terms
from sublora.coding.prediction import Prediction
from sublora.coding.setting import Setting, setting_bits
from sublora.corpus.corpus import BYTES_TOKENIZER, open_corpus
from sublora.corpus.fallback import UNIT, fallback_code
from sublora.corpus.prepare import prepare
from sublora.corpus.units import sample_units
from sublora.inequalities import betting
from sublora.inequalities.smoothing import excess_upper, mixture_excess
from sublora.scoring.scores import Scores
from sublora.seeds import stream

SAMPLES, DELTA, WEIGHT, TOKENS = 400, 0.2, 0.25, 20
MOST_FAILURES = int(binom.isf(1e-6, SAMPLES, DELTA))


@pytest.mark.parametrize(("tokenizer", "vocab_size"), [(BYTES_TOKENIZER, 257), ("GPT-2", 50_257), ("other", 1)])
def test_the_code_can_be_decoded(tokenizer, vocab_size):
    code = fallback_code(tokenizer, vocab_size)
    assert code.prices.shape == (vocab_size,) and code.prices.min() >= 0
    # Kraft, and no more is lost than what rounding up costs.
    assert 2.0**-UNIT <= (2.0 ** (-UNIT * code.prices)).sum() <= 1 + 1e-12
    assert code.limit == code.prices.max() * UNIT


def test_english_is_cheap_and_frequent_tokens_are():
    prices = fallback_code(BYTES_TOKENIZER, 257).prices * UNIT
    assert np.mean([prices[b] for b in b"The quick brown fox jumps over the lazy dog."]) < 6
    assert prices[ord("e")] < 4 < prices[ord("z")] < prices[7] < 14
    assert (np.diff(fallback_code("GPT-2", 50_257).prices) >= 0).all()


def test_what_a_certificate_says_of_it(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join("a document about the sea " * k for k in range(1, 80)))
    prepare("text", tmp_path / "data", paths=[tmp_path / "text.txt"])
    corpus = open_corpus(tmp_path / "data")
    units = sample_units(corpus, corpus.train, "document_level", 8)
    rows = np.array([3, 0, 3])
    by_hand = [sum(int(units.fallback.prices[t]) for t in units.split.document(int(row))) for row in rows]
    assert units.fallback.lengths(units.split, rows).tolist() == by_hand
    code, bits = measure_code(known_code(corpus, units, 0), [units.split], 40, whole=False), setting_bits(Setting())
    measured = code.known(0.1, bits)
    lengths = units.fallback.lengths(units.split, np.arange(len(units))) * UNIT / units.split.lengths
    assert lengths.mean() < measured.per_token < measured.limit
    assert measured.per_byte == measured.per_token
    # A certificate with a smaller delta has to allow for more.
    assert code.known(0.001, bits).per_token > measured.per_token
    # And one that had more to choose from.
    assert code.known(0.1, bits + 40).per_token > measured.per_token


def documents(n: int, samples: int, models: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return bits of documents in the fallback code, and under models that are 0.6 bits a token better but for luck."""
    rng = stream(5, "fallback", models)
    difficulty = rng.normal(4.5, 0.5, (samples, 1, n)).clip(1, 12)
    return TOKENS * difficulty, TOKENS * (
        difficulty - rng.choice([1.4, 0.2, -2.0], (samples, models, n), p=[0.5, 0.4, 0.1])
    )


def risk(n: int = 400_000) -> float:
    known, bits = documents(n, 1)
    return float(
        (mixture_excess(bits.ravel(), known.ravel(), np.full(n, TOKENS), WEIGHT) + known.ravel() / TOKENS).mean()
    )


def bound(known: np.ndarray, bits: np.ndarray, message: int = 0, *, luck: float = 1.0, paid: bool = True) -> float:
    """Return the bound for one sample, all of it measured; `luck` scales what the known part allows for chance."""
    lengths = np.full(len(bits), TOKENS)
    limit = 14.0
    mean = float((known / TOKENS).mean())
    expected = betting(known / TOKENS, upper=limit, nats=math.log(2 / (KNOWN_SHARE * DELTA)))
    upper = excess_upper(WEIGHT, TOKENS)
    excess = mixture_excess(bits, known, lengths, WEIGHT)
    losses = Losses(excess, upper, known / TOKENS, mean + luck * (expected - mean), limit + upper)
    return risk_bound(losses, terms(len(bits), message if paid else 0))


def known_parts(per_token: float, per_byte: float | None) -> Known:
    return Known(
        code="by hand", limit=14.0, exact=False, per_token=per_token, per_byte=per_byte, predicted_per_token=per_token,
        predicted_per_byte=per_byte,
    )  # fmt: skip


def terms(n: int, bits: int) -> Terms:
    known = known_parts(0.0, None)
    return Terms(
        "document_level", bits, 0, n, DELTA, False, WEIGHT, 256, TOKENS, TOKENS, known, has_base=False, subsampled=False
    )


def test_coverage_of_one_model():
    known, bits = documents(60, SAMPLES)
    truth = risk()
    right = sum(bound(k[0], b[0]) < truth for k, b in zip(known, bits, strict=True))
    assert right <= MOST_FAILURES


def test_the_expected_length_has_to_be_paid_for():
    """A model that is the fallback code loses nothing against it: all that can fail is the known part."""
    known, _ = documents(60, SAMPLES)
    truth = 4.5
    right = sum(bound(k[0], k[0]) < truth for k in known)
    lucky = sum((k[0] / TOKENS).mean() < truth - 1e-9 for k in known)
    assert right <= MOST_FAILURES < lucky


def test_coverage_of_the_luckiest_of_many_models():
    models = 4096
    known, bits = documents(40, SAMPLES // 4, models)
    truth = risk()
    failures = {True: 0, False: 0}
    for k, b in zip(known, bits, strict=True):
        best = b[b.mean(axis=1).argmin()]
        for paid in failures:
            # Nothing is allowed for the known part, so that only the choice of the model matters.
            failures[paid] += bound(k[0], best, int(math.log2(models)), luck=0.0, paid=paid) < truth
    assert failures[True] <= int(binom.isf(1e-6, SAMPLES // 4, DELTA)) < failures[False]


def test_it_is_tighter_than_falling_back_on_uniform_coding():
    known, bits = documents(20_000, 1)
    uniform = np.full(known.shape, 8.0 * TOKENS)
    values = {}
    for name, code, limit, expected in (
        ("uniform", uniform, 8.0, 8.0),
        ("letters", known, 14.0, betting(known[0, 0] / TOKENS, upper=14.0, nats=math.log(40 / DELTA))),
    ):
        excess = mixture_excess(bits[0, 0], code[0, 0], np.full(20_000, TOKENS), WEIGHT)
        upper = excess_upper(WEIGHT, TOKENS)
        values[name] = projected_bound(
            Losses(excess, upper, code[0, 0] / TOKENS, expected, limit + upper), terms(20_000, 1500)
        )
    assert values["letters"] < values["uniform"] - 0.05


def test_losses_are_those_of_the_mixture_and_errors_are_plain():
    scores = dataclasses.replace(
        Scores.zeros(2, 0),
        bits=np.array([40.0, 300.0]),
        lengths=np.array([20, 40]),
        byte_lengths=np.array([40, 40]),
        known=np.array([90.0, 180.0]),
        misses=np.tile([[10], [40]], (1, 12)),
    )
    known = known_parts(4.6, 4.4)
    metrics = losses_by_metric(scores, dataclasses.replace(terms(100, 0), known=known))
    mixed = -np.log2(0.75 * 2.0**-scores.bits + 0.25 * 2.0 ** np.array([-90.0, -180.0]))
    np.testing.assert_allclose(metrics["bpd"].values, mixed / [20, 40])
    np.testing.assert_allclose(metrics["bpb"].values, mixed / 40)
    assert (metrics["bpd"].expected, metrics["bpb"].expected) == (4.6, 4.4)
    assert metrics["bpd"].limit == 14 + 2 / TOKENS
    assert metrics["top_1_error"].values.tolist() == plain(np.array([0.5, 1.0]), 1.0).values.tolist()
    unknown = dataclasses.replace(terms(100, 0), known=known_parts(4.6, None))
    assert "bpb" not in losses_by_metric(scores, unknown)


def test_of_a_population_the_mean_is_a_fact(tmp_path):
    """Every part of the population is read, so that nothing is left to chance and nothing is paid."""
    rng = stream(1, "population")
    texts = [" ".join(rng.choice(["sea", "union", "quartz", "of"], rng.integers(12, 60))) for _ in range(300)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    corpus = open_corpus(prepare("text", tmp_path / "data", paths=[tmp_path / "text.txt"], val_every=4))
    parts = [corpus.train, corpus.val, corpus.test]
    code = known_code(corpus, sample_units(corpus, corpus.train, "document_level", 8), 0)
    whole, sample = measure_code(code, parts, 1, whole=True), measure_code(code, parts[:1], 1, whole=False)
    prices = [
        sum(int(code.fallback.prices[t]) for t in part.document(i)) * UNIT / part.lengths[i]
        for part in parts
        for i in range(len(part))
    ]
    fact = whole.known(DELTA, 100)
    assert fact.exact and len(prices) == corpus.population
    assert fact.per_token == fact.predicted_per_token == pytest.approx(np.mean(prices))
    assert sample.known(DELTA, 100).per_token > fact.per_token
    # All of delta is left for the model.
    exact = dataclasses.replace(terms(len(parts[0]), 500), known=fact)
    assert exact.excess_delta == DELTA > terms(len(parts[0]), 500).excess_delta


def test_the_prediction_of_a_population_is_a_fact_too(tmp_path):
    lengths = np.arange(10, 210)
    known = stream(2, "population").gamma(8, 0.5, 200)
    (tmp_path / "text.txt").write_text("\n\n".join("x" * n for n in lengths))
    corpus = open_corpus(prepare("text", tmp_path / "data", paths=[tmp_path / "text.txt"]))
    code = known_code(corpus, sample_units(corpus, corpus.train, "document_level", 8), 0)
    prediction = Prediction(missing=8, document=6, ceiling=9)
    measured = MeasuredCode(code, known * lengths, lengths, lengths, 1, 200, True).known(DELTA, 0, prediction, 4)
    by_hand = np.maximum(0.5 * known + 12 / lengths, known - 1.5)
    assert measured.predicted_per_byte == pytest.approx(by_hand.mean())
    # A token counts for four bytes, so its ceiling is four times as high.
    assert measured.predicted_per_token == pytest.approx(np.maximum(0.5 * known + 12 / lengths, known - 6).mean())
