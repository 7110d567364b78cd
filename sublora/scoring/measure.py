"""From message bytes to losses: decode, rebuild the model, draw units, score them.

Issuing a certificate and verifying it both go through here, so that both measure the decoded model and nothing else.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from transformers import PreTrainedModel

from sublora.coding.message import Message
from sublora.corpus.units import Units, window_tokens
from sublora.errors import CertificateError, ConfigError, MessageError
from sublora.files import canonical_json, sha256
from sublora.nn.create_model import Architecture, build_model, merge
from sublora.scoring.chunks import score_in_chunks
from sublora.scoring.processes import Processes
from sublora.scoring.risk import score_units
from sublora.scoring.scores import Scores


@dataclass(frozen=True)
class Protocol:
    """How losses are measured: context length, new tokens per window, windows per batch, bits of every token kept.

    Raises:
        ConfigError: a stride outside 1..block_size, or an empty batch.
    """

    block_size: int
    stride: int
    batch_size: int
    keep_tokens: bool

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.block_size or self.batch_size < 1:
            raise ConfigError(
                f"windows of {self.block_size} tokens in steps of {self.stride}, in batches of {self.batch_size}: "
                "a step is between 1 and the window, and a batch holds at least one"
            )


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


def score(
    rebuilt: Rebuilt,
    units: Units,
    drawn: Int[np.ndarray, " m"],
    protocol: Protocol,
    processes: Processes,
    description: str,
    kept: Path | None = None,
) -> Scores:
    """Score units that may repeat; each distinct one is scored once.

    Args:
        rebuilt: the decoded model.
        units: what the indices `drawn` point to.
        protocol: how they are measured.
        processes: that share the work; all return the same.
        description: shown beside the progress.
        kept: folder of finished chunks, see `score_in_chunks`.

    Raises:
        CertificateError: the model gives a unit no finite probability.
    """
    distinct, rows = np.unique(drawn, return_inverse=True)
    lengths = units.split.lengths[distinct]
    model = rebuilt.model.to(processes.device)  # type: ignore[arg-type]
    scores = score_in_chunks(
        lambda chosen: score_units(model, units, distinct[chosen], **dataclasses.asdict(protocol)),
        window_tokens(lengths, protocol.block_size, protocol.stride),
        protocol.block_size if protocol.keep_tokens else 0,
        processes,
        description,
        kept,
    )
    if not np.isfinite(scores.bits).all():
        raise CertificateError("the decoded model gives some text no finite probability: there is nothing to certify")
    return scores.take(rows)


def scoring_key(data: bytes, corpus_sha256: str, units: Units, drawn: np.ndarray, protocol: Protocol) -> str:
    """Return a name for the scoring of one message, draw and protocol; no other has it."""
    facts = {
        "message": sha256(data),
        "corpus": corpus_sha256,
        "drawn": sha256(drawn.astype("<i8").tobytes()),
        "unit": [units.min_tokens, units.n_symbols],
        "protocol": dataclasses.asdict(protocol),
        "torch": torch.__version__,
    }
    return sha256(canonical_json(facts))[:16]
