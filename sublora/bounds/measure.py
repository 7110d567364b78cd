"""From message bytes to losses: decode, rebuild the model, draw documents, score them.

Issuing a certificate and verifying it both go through here, so that both measure the decoded model and nothing else.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from transformers import PreTrainedModel

from sublora.bounds.risk import score_documents
from sublora.bounds.scores import Scores
from sublora.coding.message import Message
from sublora.corpus.corpus import Corpus, Split, uniform_draw
from sublora.errors import CertificateError, MessageError
from sublora.nn.create_model import Architecture, build_model, merge


@dataclass(frozen=True)
class Protocol:
    """How the risk is measured: documents drawn (0: all), new tokens per window, windows per batch, device."""

    samples: int
    stride: int
    batch_size: int
    device: str = "cpu"


@dataclass(frozen=True)
class Rebuilt:
    """A decoded model with LoRA merged, the hash of its base weights, and the number D of parameters moved."""

    model: PreTrainedModel
    base_sha256: str
    D: int


def rebuild(message: Message, architecture: Architecture) -> Rebuilt:
    """Return the model that a message describes.

    Raises:
        MessageError: the message does not fit the architecture.
    """
    spec = dataclasses.asdict(message.spec)
    gates = spec.pop("n_gates")
    model = build_model(architecture, **spec)
    trained = {"subspace_params": message.alpha}
    if gates:
        # The gates are coded as gammas; the model holds their logits.
        trained["gating_params"] = np.log(message.gates) - np.log1p(-message.gates)
    for name, values in trained.items():
        parameter = getattr(model, name, None)
        if parameter is None or parameter.shape != values.shape:
            raise MessageError(f"the message's {name} do not fit the model: is the architecture the certified one?")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))
    return Rebuilt(merge(model), str(model.base_sha256), model.D)


def draw_documents(data: bytes, corpus_sha256: str, n: int, samples: int) -> Int[np.ndarray, " m"]:
    """Return the documents to measure: all n, or uniform draws with replacement.

    The draw follows from the message and the corpus, so that nobody draws again until lucky.
    """
    if not samples:
        return np.arange(n)
    return uniform_draw(n, samples, hashlib.sha256(data + bytes.fromhex(corpus_sha256)).digest())


def score(
    model: PreTrainedModel,
    split: Split,
    documents: Int[np.ndarray, " m"],
    corpus: Corpus,
    block_size: int,
    protocol: Protocol,
    description: str,
) -> Scores:
    """Score documents that may repeat; each distinct one is scored once."""
    distinct, rows = np.unique(documents, return_inverse=True)
    scores = score_documents(
        model.to(protocol.device),  # type: ignore[arg-type]
        split,
        distinct,
        eot_token=corpus.eot_token,
        vocab_size=corpus.vocab_size,
        block_size=block_size,
        stride=protocol.stride,
        batch_size=protocol.batch_size,
        description=description,
    )
    if not np.isfinite(scores.bits).all():
        raise CertificateError(
            "the decoded model gives some document no finite probability: there is nothing to certify"
        )
    return scores.take(rows)
