"""The message: everything from which a decoder rebuilds the model, as self-delimiting bytes.

docs/message.md specifies the format bit by bit. No message is a prefix of another, so 2**-K with K = 8 * len(data) is a
prior over models (Kraft 1949).
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32

from sublora.coding.architecture import Architecture, read_architecture, write_architecture
from sublora.coding.bits import (
    BitReader,
    BitWriter,
    decimal_length,
    read_decimal,
    read_gamma,
    write_decimal,
    write_gamma,
)
from sublora.coding.codebooks import read_codebook, write_codebook
from sublora.coding.entropy import fit, read_model, write_model
from sublora.coding.gates import read_gates, write_gates
from sublora.coding.prediction import NEUTRAL, Prediction, read_prediction, write_prediction
from sublora.coding.prompt import Prompt, read_prompt, write_prompt
from sublora.coding.quantizers import Quantized
from sublora.coding.range_coder import read_payload, write_payload
from sublora.coding.setting import Setting, read_setting, setting_bits, write_setting
from sublora.coding.spec import ModelSpec, read_spec, write_spec
from sublora.errors import MessageError

__all__ = ["VERSION", "Encoded", "Header", "Message", "ModelSpec", "decode_message", "encode_message"]

VERSION = 3
MAX_SYMBOLS = 1 << 22
MAX_MIXTURE_EXPONENT = 64
DIVISION_BITS = 24
"""Order of the source, share of what is held out or known, number of documents: whatever changes how the seed divides a
population could be changed until the division is a lucky one. All bounds hold for 2^24 divisions at once."""
MAX_DRAWS = 1 << 24
MAX_BYTES = 1 << 26
"""of a message's file: more than MAX_SYMBOLS symbols take"""


@dataclass(frozen=True)
class Header:
    """All that the decoder or the claim depends on and that somebody could choose, coordinates and gates aside."""

    setting: Setting
    architecture: Architecture
    spec: ModelSpec
    mixture_exponent: int
    """the document mixture weight is 2**-mixture_exponent"""
    samples: int
    """documents that are drawn to measure the risk; 0: all are measured"""
    stride: int
    """new tokens per window where a document is longer than the context"""
    prompt: Prompt = field(default_factory=Prompt)
    prediction: Prediction = NEUTRAL
    """of losses, from their price in the known code"""

    def __post_init__(self) -> None:
        if not 1 <= self.mixture_exponent <= MAX_MIXTURE_EXPONENT:
            raise MessageError(f"mixture_exponent must lie in 1..{MAX_MIXTURE_EXPONENT}, not {self.mixture_exponent}")
        if self.samples < 0 or not 1 <= self.stride <= self.architecture.block_size:
            raise MessageError(f"{self.samples} draws, windows in steps of {self.stride}: no scoring is like this")
        if self.samples > MAX_DRAWS:
            raise MessageError(f"{self.samples} draws: at most {MAX_DRAWS} are measured")
        if self.samples and self.setting.bound_type == "token_level":
            raise MessageError("a claim about tokens measures every token, and draws none")
        if self.setting.vocab_size != self.architecture.vocab_size:
            raise MessageError("the model and the corpus have different vocabularies")
        if self.prompt.documents and self.setting.prior_tag is None:
            raise MessageError("a prompt of known documents needs known documents")
        if any(not 0 <= token < self.setting.vocab_size for text in self.prompt.texts for token in text):
            raise MessageError("a prompt has tokens that the vocabulary does not have")
        if self.prediction != NEUTRAL and self.setting.bound_type == "token_level":
            raise MessageError("a claim about tokens predicts no losses of documents")

    @property
    def division_bits(self) -> int:
        """Bits that are paid beside the message where a population was divided by a seed, see `DIVISION_BITS`."""
        return 0 if self.setting.split_seed is None else DIVISION_BITS

    @property
    def compares_prompt(self) -> bool:
        """Whether the claims compare the model with its base behind the same prompt: where it is more than those."""
        adapted = self.architecture.kind == "pretrained" and self.spec.adapter != "none"
        return adapted and self.prompt != Prompt() and self.setting.bound_type != "token_level"

    @property
    def known_bits(self) -> int:
        """Bits that pay for the choice of the code known beforehand and of what it is asked.

        Blocks are asked in a length that stands outside the setting.
        """
        blocks = self.setting.bound_type != "document_level"
        length = decimal_length(self.architecture.block_size) if blocks else 0
        return setting_bits(self.setting) + length + self.division_bits


@dataclass(frozen=True, eq=False)
class Message:
    """A decoded message."""

    header: Header
    alpha: Float32[np.ndarray, " d"]
    """subspace coordinates, or all parameters if spec.intrinsic_dim is 0; none without an adapter"""
    gates: Float[np.ndarray, " g"]
    """gamma of every gate, in (0, 1)"""
    ledger: dict[str, float]
    """bits of every field, as `Encoded.ledger`"""

    @property
    def spec(self) -> ModelSpec:
        """The adapter and its subspace."""
        return self.header.spec


@dataclass(frozen=True)
class Encoded:
    """A message's bytes, and how many bits each field takes; the ledger adds up to 8 * len(data)."""

    data: bytes
    ledger: dict[str, float]


def encode_message(header: Header, quantized: Quantized | None, gates: Float[np.ndarray, " g"]) -> Encoded:
    """Code a model into bytes from which `decode_message` returns the same header, reconstruction and gates.

    Args:
        header: everything but coordinates and gates.
        quantized: spec.intrinsic_dim symbols (any number up to 4,194,304 if that is 0); None without an adapter.
        gates: spec.n_gates gates from `quantize_gates`.

    Raises:
        ValueError: these numbers disagree.
    """
    spec = header.spec
    if (quantized is None) != (spec.adapter == "none"):
        raise ValueError("there are symbols exactly where there is an adapter")
    count = 0 if quantized is None else len(quantized.symbols)
    if quantized is not None and (not 1 <= count <= MAX_SYMBOLS or spec.intrinsic_dim not in (0, count)):
        raise ValueError(f"{count} symbols for a subspace of {spec.intrinsic_dim} dimensions (at most {MAX_SYMBOLS})")
    if len(gates) != spec.n_gates:
        raise ValueError(f"{len(gates)} gates where the model has {spec.n_gates}")
    writer = BitWriter()
    writer.field("version")
    write_gamma(writer, VERSION)
    write_setting(writer, header.setting)
    writer.field("scoring")
    write_decimal(writer, header.samples)
    write_architecture(writer, header.architecture)
    writer.field("scoring")
    _write_stride(writer, header)
    writer.field("mixture")
    write_gamma(writer, header.mixture_exponent)
    write_prediction(writer, header.prediction)
    write_prompt(writer, header.prompt, header.setting)
    write_spec(writer, spec)
    if quantized is not None:
        if spec.intrinsic_dim == 0:
            writer.field("n_symbols")
            write_decimal(writer, count)
        writer.field("gates")
        write_gates(writer, gates)
        writer.field("codebook")
        write_codebook(writer, quantized.codebook)
        if quantized.codebook.levels > 1:
            _, name, model = fit(quantized.symbols, quantized.codebook)
            writer.field("entropy_model")
            write_model(writer, name, model, quantized.codebook, count)
            writer.field("payload")
            write_payload(writer, model.encode(quantized.symbols, quantized.codebook))
    data = writer.to_bytes()
    return Encoded(data, writer.ledger)


def _write_stride(writer: BitWriter, header: Header) -> None:
    whole = header.stride == header.architecture.block_size
    writer.write(int(whole), 1)
    if not whole:
        write_decimal(writer, header.stride)


def _read_stride(reader: BitReader, block_size: int) -> int:
    if reader.read(1):
        return block_size
    stride = read_decimal(reader)
    if stride == block_size:
        raise MessageError("a whole window as a step, written out in full")
    return stride


class _Ledger:
    """Books what a reader has read under the fields of `encode_message`."""

    def __init__(self, reader: BitReader) -> None:
        self.reader, self.at, self.bits = reader, 0, dict[str, float]()

    def book(self, name: str) -> None:
        self.bits[name] = self.bits.get(name, 0.0) + self.reader.position - self.at
        self.at = self.reader.position


def decode_message(data: bytes, *, max_symbols: int) -> Message:
    """Rebuild the model from its message.

    `max_symbols` is the largest number of symbols that the caller expects; a message that claims more is refused before
    anything is allocated for it. Raises MessageError for bytes that are not exactly one message.
    """
    reader = BitReader(data)
    ledger = _Ledger(reader)
    if (version := read_gamma(reader)) != VERSION:
        raise MessageError(f"format version {version}; this program reads version {VERSION}")
    ledger.book("version")
    setting = read_setting(reader)
    ledger.book("setting")
    samples = read_decimal(reader)
    ledger.book("scoring")
    architecture = read_architecture(reader, setting.vocab_size)
    ledger.book("base")
    stride = _read_stride(reader, architecture.block_size)
    ledger.book("scoring")
    mixture_exponent = read_gamma(reader)
    ledger.book("mixture")
    prediction = read_prediction(reader)
    ledger.book("prediction")
    prompt = read_prompt(reader, setting)
    ledger.book("prompt")
    spec = read_spec(reader, ledger.book)
    header = Header(setting, architecture, spec, mixture_exponent, samples, stride, prompt, prediction)
    alpha, gates = np.zeros(0, np.float32), np.zeros(0)
    if spec.adapter != "none":
        alpha, gates = _read_symbols(reader, spec, max_symbols, ledger)
    rest = reader.length - reader.position
    if rest >= 8 or reader.read(rest):
        raise MessageError("the message is followed by something else")
    ledger.book("padding")
    return Message(header, alpha, gates, ledger.bits)


def _read_symbols(
    reader: BitReader, spec: ModelSpec, max_symbols: int, ledger: _Ledger
) -> tuple[Float32[np.ndarray, " d"], Float[np.ndarray, " g"]]:
    count = spec.intrinsic_dim or read_decimal(reader)
    if not spec.intrinsic_dim:
        ledger.book("n_symbols")
    if not 1 <= count <= min(max_symbols, MAX_SYMBOLS):
        raise MessageError(f"the message holds {count} symbols where 1..{min(max_symbols, MAX_SYMBOLS)} are expected")
    gates = read_gates(reader, spec.n_gates)
    ledger.book("gates")
    codebook = read_codebook(reader)
    ledger.book("codebook")
    symbols = np.zeros(count, dtype=np.int32)
    if codebook.levels > 1:
        model = read_model(reader, codebook, count)
        ledger.book("entropy_model")
        symbols = read_payload(
            reader,
            count,
            lambda decoder: model.decode(decoder, count, codebook),
            lambda decoded: model.encode(decoded, codebook),
        )
        ledger.book("payload")
    return codebook.reconstruct(symbols), gates
