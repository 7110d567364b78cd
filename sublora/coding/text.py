"""Tokens that a message writes out, in the code that is fitted to nothing.

Prices of that code are whole multiples of 1/256 bit, and frequencies follow from them by integer arithmetic alone, so
every machine decodes the same tokens.
"""

from functools import lru_cache
from math import isqrt

import constriction
import numpy as np
from jaxtyping import Int64

from sublora.coding.bits import BitReader, BitWriter, read_delta, write_delta
from sublora.coding.range_coder import frequencies, model, read_payload, write_payload
from sublora.coding.setting import Setting
from sublora.corpus.corpus import BYTES_TOKENIZER
from sublora.corpus.fallback import fallback_code
from sublora.errors import MessageError

MAX_TOKENS = 1 << 14
"""of all texts of a message together"""
_FRACTION = 64
_PARTS = 256


def _powers() -> list[int]:
    """Return 2^(-k/256) for k = 0..255 with 64 fractional bits, every product and root rounded down."""
    root = 1 << (_FRACTION - 1)
    for _ in range(8):
        root = isqrt(root << _FRACTION)
    out = [1 << _FRACTION]
    for _ in range(_PARTS - 1):
        out.append(out[-1] * root >> _FRACTION)
    return out


@lru_cache(maxsize=2)
def _table(bytes_: bool, vocab_size: int) -> Int64[np.ndarray, " vocab"]:
    code, powers = fallback_code(BYTES_TOKENIZER if bytes_ else "", vocab_size), _powers()
    return frequencies([powers[price % _PARTS] >> price // _PARTS for price in code.prices.tolist()])


def _model(setting: Setting) -> constriction.stream.model.Categorical:
    return model(_table(setting.tokenizer_tag is None, setting.vocab_size))


def write_texts(writer: BitWriter, texts: tuple[tuple[int, ...], ...], setting: Setting) -> None:
    """Write the length of every text, and the tokens of all.

    Args:
        writer: of the message.
        texts: each of at least one token.
        setting: says which code the tokens have.
    """
    for text in texts:
        write_delta(writer, len(text))
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(np.concatenate(texts).astype(np.int32), _model(setting))
    write_payload(writer, encoder)


def read_texts(reader: BitReader, count: int, setting: Setting) -> tuple[tuple[int, ...], ...]:
    """Read what `write_texts` wrote; raises MessageError where it is not canonical."""
    lengths = []
    for _ in range(count):
        lengths.append(read_delta(reader))
        if sum(lengths) > MAX_TOKENS:
            raise MessageError(f"a message writes out at most {MAX_TOKENS:,} tokens")
    categorical = _model(setting)

    def encode(tokens: np.ndarray) -> constriction.stream.queue.RangeEncoder:
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(tokens, categorical)
        return encoder

    total = sum(lengths)
    tokens = read_payload(reader, total, lambda decoder: decoder.decode(categorical, total), encode)
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    return tuple(tuple(part.tolist()) for part in parts)
