"""The message: everything from which a decoder rebuilds the model, as self-delimiting bytes.

docs/message.md specifies the format bit by bit. No message is a prefix of another, so 2**-K with K = 8 * len(data) is a
prior over models (Kraft 1949).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from sublora.coding.bits import BitReader, BitWriter, read_decimal, read_gamma, write_decimal, write_gamma
from sublora.coding.codebooks import read_codebook, write_codebook
from sublora.coding.entropy import fit, read_model, write_model
from sublora.coding.gates import read_gates, write_gates
from sublora.coding.quantizers import Quantized
from sublora.coding.range_coder import read_payload, write_payload
from sublora.coding.spec import ModelSpec, read_spec, write_spec
from sublora.errors import MessageError

__all__ = ["VERSION", "Encoded", "Message", "ModelSpec", "decode_message", "encode_message"]

VERSION = 1
MAX_SYMBOLS = 1 << 22
MAX_MIXTURE_EXPONENT = 64


@dataclass(frozen=True, eq=False)
class Message:
    """A decoded message."""

    spec: ModelSpec
    mixture_exponent: int
    """the document mixture weight is 2**-mixture_exponent"""
    alpha: Float32[np.ndarray, " d"]
    """subspace coordinates, or all parameters if spec.intrinsic_dim is 0"""
    gates: Float[np.ndarray, " g"]
    """gamma of every gate, in (0, 1)"""


@dataclass(frozen=True)
class Encoded:
    """A message's bytes, and how many bits each field takes; the ledger adds up to 8 * len(data)."""

    data: bytes
    ledger: dict[str, float]


def encode_message(
    spec: ModelSpec, mixture_exponent: int, quantized: Quantized, gates: Float[np.ndarray, " g"]
) -> Encoded:
    """Code a model into bytes from which `decode_message` returns the same spec, exponent, reconstruction and gates.

    `quantized` holds spec.intrinsic_dim symbols (any number up to 4,194,304 if that is 0); `gates` holds spec.n_gates
    gates from `quantize_gates`. Raises ValueError where these numbers disagree.
    """
    count = len(quantized.symbols)
    if not 1 <= count <= MAX_SYMBOLS or spec.intrinsic_dim not in (0, count):
        raise ValueError(f"{count} symbols for a subspace of {spec.intrinsic_dim} dimensions (at most {MAX_SYMBOLS})")
    if len(gates) != spec.n_gates:
        raise ValueError(f"{len(gates)} gates where the model has {spec.n_gates}")
    if not 1 <= mixture_exponent <= MAX_MIXTURE_EXPONENT:
        raise ValueError(f"mixture_exponent must lie in 1..{MAX_MIXTURE_EXPONENT}, not {mixture_exponent}")
    writer = BitWriter()
    writer.field("version")
    write_gamma(writer, VERSION)
    writer.field("mixture")
    write_gamma(writer, mixture_exponent)
    write_spec(writer, spec)
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


def decode_message(data: bytes, *, max_symbols: int) -> Message:
    """Rebuild the model from its message.

    `max_symbols` is the largest number of symbols that the caller expects; a message that claims more is refused before
    anything is allocated for it. Raises MessageError for bytes that are not exactly one message.
    """
    reader = BitReader(data)
    if (version := read_gamma(reader)) != VERSION:
        raise MessageError(f"format version {version}; this program reads version {VERSION}")
    mixture_exponent = read_gamma(reader)
    if mixture_exponent > MAX_MIXTURE_EXPONENT:
        raise MessageError(f"mixture exponent {mixture_exponent} is larger than {MAX_MIXTURE_EXPONENT}")
    spec = read_spec(reader)
    count = spec.intrinsic_dim or read_decimal(reader)
    if not 1 <= count <= min(max_symbols, MAX_SYMBOLS):
        raise MessageError(f"the message holds {count} symbols where 1..{min(max_symbols, MAX_SYMBOLS)} are expected")
    gates = read_gates(reader, spec.n_gates)
    codebook = read_codebook(reader)
    symbols = np.zeros(count, dtype=np.int32)
    if codebook.levels > 1:
        model = read_model(reader, codebook, count)
        symbols = read_payload(
            reader,
            count,
            lambda decoder: model.decode(decoder, count, codebook),
            lambda decoded: model.encode(decoded, codebook),
        )
    rest = reader.length - reader.position
    if rest >= 8 or reader.read(rest):
        raise MessageError("the message is followed by something else")
    return Message(spec, mixture_exponent, codebook.reconstruct(symbols), gates)
