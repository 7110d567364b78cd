"""Losses that are predicted from the known code: whether the claim still holds, and what it gains."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sublora.certificate.claims import chain_of, losses_by_metric, make_claims, projected_claim, risk_bound
from sublora.certificate.known import KNOWN_SHARE
from sublora.certificate.model import Known
from sublora.certificate.predicting import TRIED, best_prediction
from sublora.certificate.terms import Terms
from sublora.coding.prediction import CEILINGS, NEUTRAL, Prediction
from sublora.inequalities import betting
from sublora.scoring.scores import Scores
from sublora.seeds import stream

DELTA, WEIGHT, SHORTEST, LIMIT, SAMPLES = 0.2, 0.25, 10, 14.0, 300
PREDICTION = Prediction(missing=8, document=6, ceiling=9)
PREDICTIONS = st.builds(Prediction, *(st.integers(0, 15) for _ in range(3)))


def documents(samples: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, bits in the known code, and bits under a model that needs half of them and 12 bits more, but for luck."""
    rng = stream(3, "prediction", n)
    sizes = rng.integers(SHORTEST, 80, (samples, n))
    known = rng.gamma(8, 0.5, (samples, n)).clip(0.1, LIMIT)
    own = 0.5 * known + 12 / sizes + rng.choice([-0.1, 0.1, 3.0], (samples, n), p=[0.6, 0.35, 0.05])
    return sizes, sizes * known, sizes * own.clip(0.01)


def scores_of(sizes: np.ndarray, known: np.ndarray, model: np.ndarray) -> Scores:
    zeros = Scores.zeros(len(sizes), 0)
    return dataclasses.replace(zeros, bits=model, lengths=sizes, byte_lengths=sizes, known=known)


def expected(known: np.ndarray, sizes: np.ndarray, prediction: Prediction, luck: float) -> float:
    """What the prediction is expected to be at most; `luck` scales what is allowed for chance."""
    predicted = prediction.losses(known / sizes, sizes, 1)
    mean = float(predicted.mean())
    nats = math.log(2 / (KNOWN_SHARE * DELTA))
    bound = betting(predicted, upper=prediction.limit(LIMIT, SHORTEST, 1), nats=nats)
    return mean + luck * (bound - mean)


def terms(n: int, value: float, prediction: Prediction = PREDICTION, bits: int = 0, subsampled: bool = False) -> Terms:
    known = Known(
        code="by hand",
        exact=False, limit=LIMIT, per_token=value, per_byte=value, predicted_per_token=value,
        predicted_per_byte=value,
    )  # fmt: skip
    return Terms(
        "document_level", bits, 0, n, DELTA, False, WEIGHT, 256, SHORTEST, SHORTEST, known, False, subsampled,
        prediction,
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(PREDICTIONS, st.floats(0, LIMIT), st.integers(SHORTEST, 500), st.floats(0, 9000), st.sampled_from([1, 4]))
def test_no_document_can_be_worse_than_predicted_by_more_than_the_limit(prediction, price, size, model, weight):
    scores = scores_of(np.array([size]), np.array([price * size]), np.array([model]))
    t = dataclasses.replace(terms(1, 5.0, prediction), bytes_of_a_token=weight)
    for losses in (losses_by_metric(scores, t)[metric] for metric in ("bpd", "bpb")):
        assert losses.excess[0] <= losses.upper + 1e-9
        assert losses.values[0] == pytest.approx(chain_of(scores, t).model[0] / size)
    predicted = prediction.losses(np.array([price]), np.array([size]), weight)[0]
    assert 0 <= predicted <= prediction.limit(LIMIT, SHORTEST, weight) + 1e-9


def test_without_a_prediction_the_known_price_is_predicted():
    sizes, known, model = (part[0] for part in documents(1, 50))
    losses = losses_by_metric(scores_of(sizes, known, model), terms(50, 5.0, NEUTRAL))["bpb"]
    np.testing.assert_allclose(losses.known, known / sizes)
    assert losses.upper == math.log2(1 / WEIGHT) / SHORTEST


def truth(losses_of) -> float:
    return float(losses_of(*(part[0] for part in documents(1, 200_000))).mean())


def mixed(sizes, known, model):
    return chain_of(scores_of(sizes, known, model), terms(1, 0.0)).model / sizes


def test_coverage():
    real, failed, empirical = truth(mixed), 0, 0
    for sizes, known, model in zip(*documents(SAMPLES, 60), strict=True):
        t = terms(len(sizes), expected(known, sizes, PREDICTION, 1.0))
        failed += risk_bound(losses_by_metric(scores_of(sizes, known, model), t)["bpb"], t) < real
        empirical += mixed(sizes, known, model).mean() < real
    assert failed <= int(binom.isf(1e-6, SAMPLES, DELTA)) < empirical


@pytest.mark.parametrize(("luck", "valid"), [(1.0, True), (0.0, False)])
def test_what_is_predicted_is_a_matter_of_chance_too(luck, valid):
    """A model that is exactly as predicted: all that can fail is what its prediction is expected to be."""

    def predicted(sizes, known, _):
        return PREDICTION.losses(known / sizes, sizes, 1)

    real = truth(predicted)
    failed = sum(
        expected(known, sizes, PREDICTION, luck) < real for sizes, known, _ in zip(*documents(SAMPLES, 60), strict=True)
    )
    most = int(binom.isf(1e-6, SAMPLES, KNOWN_SHARE * DELTA / 2))
    assert failed <= most if valid else failed > most


def test_a_lower_limit_than_the_ceiling_allows_is_not_taken():
    """A document that the model fails on may lie a whole ceiling above its prediction."""
    sizes, known = np.full(100, 50), np.full(100, 50 * 9.0)
    losses = losses_by_metric(scores_of(sizes, known, np.full(100, 5000.0)), terms(100, 5.0))["bpb"]
    without = dataclasses.replace(losses, upper=losses.upper - CEILINGS[PREDICTION.ceiling])
    with pytest.raises(ValueError, match="limit"):
        risk_bound(without, terms(100, 5.0))


def test_it_makes_the_claim_smaller():
    n, drawn = 50_000, 3000
    sizes, known, model = (part[0] for part in documents(1, n))
    scores = scores_of(sizes, known, model).take(np.arange(drawn))
    claims = {}
    for prediction in (NEUTRAL, PREDICTION):
        t = terms(n, expected(known, sizes, prediction, 1.0), prediction, 1000, subsampled=True)
        claims[prediction] = make_claims(scores, t)[1]
    assert claims[NEUTRAL].empirical == claims[PREDICTION].empirical
    gaps = [claim.bound - claim.empirical for claim in claims.values()]
    assert gaps[1] < 0.9 * gaps[0]


def test_the_search_is_no_worse_than_no_prediction():
    sizes, known, model = (part[0] for part in documents(1, 64))
    scores = scores_of(sizes, known, model)

    def cost(prediction: Prediction) -> float:
        t = terms(50_000, expected(known, sizes, prediction, 1.0), prediction, 1000, subsampled=True)
        return projected_claim(losses_by_metric(scores, t)["bpb"], t, 1000)

    found = best_prediction(cost)
    assert cost(found) < cost(NEUTRAL) and cost(found) == min(map(cost, TRIED))


def test_few_predictions_are_tried():
    """The best of thousands on a few dozen documents is worse on others than a usual one."""
    assert NEUTRAL in TRIED and len(set(TRIED)) == len(TRIED) < 20
