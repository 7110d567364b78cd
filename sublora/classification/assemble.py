"""The certificate of a classifier, from what it follows from. Issuing and verifying both build it here. Torch-free."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from sublora.certificate.assemble import decimal, message_part
from sublora.certificate.model import Beforehand, CorpusPart, How
from sublora.classification.claims import Terms, claimed, error_bound, make_claims
from sublora.classification.model import (
    FORMAT,
    ClassifierCertificate,
    ClassPart,
    ErrorBaseline,
    ErrorSetting,
)
from sublora.classification.predictions import Predictions
from sublora.classification.wording import limits, statement
from sublora.coding.message import encode_message
from sublora.coding.spec import ModelSpec
from sublora.coding.verbalizer import Classifier, encode_classifier
from sublora.files import sha256
from sublora.scoring.decisions import RANK_MARGIN, label_errors

BASE_NAME = "the base with the same prompt and label tokens"


@dataclass(frozen=True)
class Measured:
    """What a certificate is assembled from, besides its message.

    Attributes:
        predictions: of the documents that were measured.
        classes: name of every class, and its documents in the population.
        simple: classifiers that need no network.
        corpus, prior, how: parts of the certificate.
        prompt_tokens: that stand before every document.
    """

    predictions: Predictions
    classes: Sequence[tuple[str, int]]
    simple: Sequence[ErrorBaseline]
    corpus: CorpusPart
    prior: Beforehand
    how: How
    prompt_tokens: int


def base_of(classifier: Classifier) -> Classifier:
    """Return the classifier that a message describes without its adapter."""
    spec = ModelSpec(seed=classifier.model.spec.seed, intrinsic_dim=0, adapter="none")
    model = dataclasses.replace(
        classifier.model,
        header=dataclasses.replace(classifier.model.header, spec=spec),
        alpha=np.zeros(0, np.float32),
        gates=np.zeros(0),
    )
    return dataclasses.replace(classifier, model=model)


def assemble(
    data: bytes, classifier: Classifier, measured: Measured, margin: float = RANK_MARGIN
) -> ClassifierCertificate:
    """Return the certificate that follows from a message and what was measured of it.

    Args:
        data: bytes of the message.
        classifier: what they decode to.
        measured: predictions, corpus, what was known beforehand.
        margin: near ties of so much count as errors, and as none of the base that it is compared with.
    """
    header, predictions, n = classifier.model.header, measured.predictions, measured.corpus.n
    claims = make_claims(predictions, _terms(8 * len(data), classifier, n), margin)
    baselines = (*measured.simple, _base(predictions, classifier, n))
    setting = ErrorSetting(
        delta=decimal(header.setting.delta),
        samples=header.samples,
        most_characters=classifier.verbalizer.most_characters,
        cue=classifier.verbalizer.cue,
        prompt_tokens=measured.prompt_tokens,
    )
    message = message_part(data, classifier.model).model_copy(update={"ledger": classifier.ledger})
    return ClassifierCertificate(
        format=FORMAT,
        statement=statement(claims, baselines, setting, measured.corpus, message.bits),
        limits=limits(setting, measured.corpus, measured.prior),
        claims=claims,
        baselines=baselines,
        classes=_classes(classifier, measured, label_errors(predictions.logits, predictions.classes, margin)),
        setting=setting,
        message=message,
        prior=measured.prior,
        corpus=measured.corpus,
        how=measured.how,
        predictions_sha256=sha256(predictions.to_bytes()),
    )


def _terms(bits: int, classifier: Classifier, n: int) -> Terms:
    header = classifier.model.header
    return Terms(n, bits + header.division_bits, float(header.setting.delta), drawn=header.samples > 0)


def _base(predictions: Predictions, classifier: Classifier, n: int) -> ErrorBaseline:
    """The base has a message too: everything that was chosen but the adapter."""
    own = encode_message(base_of(classifier).model.header, None, np.zeros(0)).data
    bits = 8 * len(encode_classifier(classifier.verbalizer, own))
    errors = label_errors(predictions.base_logits, predictions.classes, 0.0)
    bound = claimed(error_bound(errors, errors, _terms(bits, classifier, n)))
    return ErrorBaseline(
        name=BASE_NAME, bits=bits, documents=len(errors), errors=int(errors.sum()), exact=False, bound=bound
    )


def _classes(classifier: Classifier, measured: Measured, errors: Bool[np.ndarray, " m"]) -> tuple[ClassPart, ...]:
    found, tokens = measured.predictions.classes, classifier.verbalizer.labels
    return tuple(
        ClassPart(
            name=name,
            token=token,
            documents=documents,
            measured=int((found == i).sum()),
            errors=int(errors[found == i].sum()),
        )
        for i, ((name, documents), token) in enumerate(zip(measured.classes, tokens, strict=True))
    )
