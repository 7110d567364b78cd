"""From message bytes to losses: decode, rebuild the model, score units.

Issuing a certificate and verifying it both go through here, so that both measure the decoded model and nothing else.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int
from transformers import PreTrainedModel

from sublora.coding.message import Header, Message
from sublora.corpus.corpus import Split
from sublora.corpus.units import Units, window_tokens
from sublora.errors import CertificateError, ConfigError, MessageError
from sublora.files import canonical_json, sha256
from sublora.nn.create_model import build_base, build_model, merge
from sublora.nn.subspace import SubspaceModule
from sublora.scoring.chunks import score_in_chunks
from sublora.scoring.processes import Processes
from sublora.scoring.prompt import prompt_tokens
from sublora.scoring.risk import NO_PROMPT, score_units
from sublora.scoring.scores import Scores


@dataclass(frozen=True)
class Protocol:
    """How losses are measured: context length, new tokens per window, windows per batch, bits of every token kept.

    rank_margin: a token counts as missed if another one's logit is at least its own minus this. Ties may be decided
        otherwise on another machine; an issuer counts near ties against the model, a replay exact ones only.

    Raises:
        ConfigError: a stride outside 1..block_size, or an empty batch.
    """

    block_size: int
    stride: int
    batch_size: int
    keep_tokens: bool
    rank_margin: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.block_size or self.batch_size < 1:
            raise ConfigError(
                f"windows of {self.block_size} tokens in steps of {self.stride}, in batches of {self.batch_size}: "
                "a step is between 1 and the window, and a batch holds at least one"
            )


def protocol_of(header: Header, batch_size: int, rank_margin: float = 0.0) -> Protocol:
    """Return how the losses of a message are measured."""
    keep_tokens = header.setting.bound_type == "token_level"
    return Protocol(header.architecture.block_size, header.stride, batch_size, keep_tokens, rank_margin)


@dataclass(frozen=True)
class Rebuilt:
    """A decoded model with its adapter merged, the hash of its base weights, and the number D of parameters moved.

    prompt: tokens that stand before every unit; see `prompt_tokens`.
    """

    model: PreTrainedModel
    base_sha256: str
    D: int
    prompt: Int[np.ndarray, " p"]


def rebuild(message: Message, source: str, known: Split | None) -> Rebuilt:
    """Return the model that a message describes.

    Args:
        message: decoded.
        source: of the base weights, where they are pretrained; nothing is loaded for a random base.
        known: documents that a prompt may name.

    Raises:
        ConfigError: the base cannot be loaded, or is another one than the message's.
        MessageError: the message does not fit its architecture.
    """
    header = message.header
    tokens = prompt_tokens(header.prompt, known, header.setting.eot_token)
    if message.spec.adapter == "none":
        base = build_base(header.architecture, message.spec.seed, source)
        return Rebuilt(base, str(base.base_sha256), 0, tokens)
    model = decoded_model(message, source)
    return Rebuilt(merge(model), str(model.base_sha256), model.D, tokens)


def decoded_model(message: Message, source: str) -> SubspaceModule:
    """Return the model of a message that has an adapter, which is not merged yet.

    Args:
        message: decoded.
        source: of the base weights, where they are pretrained.

    Raises:
        ConfigError: the base cannot be loaded, or is another one than the message's.
        MessageError: the message does not fit its architecture.
    """
    model = build_model(message.header.architecture, message.spec, source)
    trained = {"subspace_params": message.alpha}
    if len(message.gates):
        # The gates are coded as gammas; the model holds their logits.
        trained["gating_params"] = np.log(message.gates) - np.log1p(-message.gates)
    for name, values in trained.items():
        parameter = getattr(model, name, None)
        if parameter is None or parameter.shape != values.shape:
            raise MessageError(f"the message's {name} do not fit the model that its header describes")
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))
    return model


Lengths = Callable[[Split, Int[np.ndarray, " m"]], Float64[np.ndarray, " m"]]


@dataclass(frozen=True)
class References:
    """What a model is compared with: the known code's lengths of units in bits, and the pretrained base, if any.

    prompted: the base is measured behind the model's prompt too.
    """

    known: Lengths
    base: PreTrainedModel | None
    prompted: bool = False


def score(
    rebuilt: Rebuilt,
    references: References,
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
        references: what it is compared with.
        units: documents or blocks.
        drawn: indices of those that are scored.
        protocol: how they are measured.
        processes: that share the work; all return the same.
        description: shown beside the progress.
        kept: folder of finished chunks, see `score_in_chunks`.

    Raises:
        CertificateError: the model gives a unit no finite probability.
    """
    distinct, rows = np.unique(drawn, return_inverse=True)
    scores = _score_distinct(rebuilt.model, rebuilt.prompt, units, distinct, protocol, processes, description, kept)
    columns: list[Float64[np.ndarray, " m"]] = []
    if references.base is not None:
        columns.append(base_scores(references, units, distinct, protocol, processes, description, kept))
        if references.prompted:
            columns.append(
                base_scores(references, units, distinct, protocol, processes, description, kept, rebuilt.prompt)
            )
    base_bits = np.stack(columns, 1) if columns else np.zeros((len(distinct), 0))
    known = references.known(units.split, distinct)
    return dataclasses.replace(scores, known=known, base_bits=base_bits).take(rows)


def base_scores(
    references: References,
    units: Units,
    distinct: Int[np.ndarray, " m"],
    protocol: Protocol,
    processes: Processes,
    description: str,
    kept: Path | None = None,
    prompt: Int[np.ndarray, " p"] = NO_PROMPT,
) -> Float64[np.ndarray, " m"]:
    """Return the bits of distinct units under the pretrained base, alone or behind a prompt."""
    assert references.base is not None
    name, what = ("prompted", "base and prompt") if len(prompt) else ("base", "base")
    folder, what = None if kept is None else kept.with_name(f"{kept.name}-{name}"), f"{description}, {what}"
    return _score_distinct(references.base, prompt, units, distinct, protocol, processes, what, folder).bits


def _score_distinct(
    model: PreTrainedModel,
    prompt: Int[np.ndarray, " p"],
    units: Units,
    distinct: Int[np.ndarray, " m"],
    protocol: Protocol,
    processes: Processes,
    description: str,
    kept: Path | None,
) -> Scores:
    on_device = model.to(processes.device)  # type: ignore[arg-type]
    scores = score_in_chunks(
        lambda chosen, read: score_units(
            on_device, units, distinct[chosen], prompt=prompt, read=read, **dataclasses.asdict(protocol)
        ),
        window_tokens(units.split.lengths[distinct], protocol.block_size, protocol.stride),
        protocol.block_size if protocol.keep_tokens else 0,
        processes,
        description,
        kept,
    )
    if not np.isfinite(scores.bits).all():
        raise CertificateError("the decoded model gives some text no finite probability: there is nothing to certify")
    return scores


def scoring_key(data: bytes, content_sha256: str, units: Units, drawn: np.ndarray, protocol: Protocol) -> str:
    """Return a name for the scoring of one message, draw and protocol; no other has it."""
    facts = {
        "message": sha256(data),
        "corpus": content_sha256,
        "drawn": sha256(drawn.astype("<i8").tobytes()),
        "unit": [units.min_tokens, units.n_symbols],
        "protocol": dataclasses.asdict(protocol),
        "torch": torch.__version__,
    }
    return sha256(canonical_json(facts))[:16]
