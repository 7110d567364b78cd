"""Range coding (Martin 1979; Pasco 1976) by `constriction`, cut to the shortest self-delimiting prefix.

Tables of frequencies are integers that add up to 2**24, constriction's fixed-point precision. From L weights w
constriction makes the cumulative frequencies floor(scale * cumulative w) + index, with scale = (2**24 - L) / sum w. For
w = frequency - 1 the scale is exactly 1 and every sum is an integer below 2**24, exact even in float32: no rounding is
left to chance.
"""

from collections.abc import Callable

import constriction
import numpy as np
from jaxtyping import Float32, Int, Int64

from sublora.coding.bits import BitReader, BitWriter
from sublora.errors import MessageError

PRECISION = 24
TOTAL = 1 << PRECISION
_WORD, _STATE = 32, 64


def frequencies(weights: list[int]) -> Int64[np.ndarray, " L"]:
    """Return L integer frequencies >= 1 that add up to 2**24, in proportion to the integer weights >= 0.

    The cumulative frequency before symbol i is floor(C_i (2**24 - L) / C_L) + i, C_i the sum of the weights before i.
    """
    free, total = TOTAL - len(weights), sum(weights)
    cumulative, edges = 0, [0]
    for index, weight in enumerate(weights, 1):
        cumulative += weight
        edges.append(cumulative * free // total + index)
    return np.diff(np.array(edges, dtype=np.int64))


def probabilities(table: Int[np.ndarray, "*rows L"]) -> Float32[np.ndarray, "*rows L"]:
    """Return the weights from which constriction makes exactly the frequencies in `table`."""
    return (table - 1).astype(np.float32)


def model(table: Int64[np.ndarray, " L"]) -> constriction.stream.model.Categorical:
    """Return constriction's model with exactly the frequencies of `table` (at least two symbols)."""
    return constriction.stream.model.Categorical(probabilities(table), perfect=False)


def write_payload(writer: BitWriter, encoder: constriction.stream.queue.RangeEncoder) -> None:
    """Write the fewest bits b such that b followed by anything decodes to what `encoder` has encoded.

    The coder's final interval is [low, low + range) / 2**length; the bits are the shortest binary fraction whose
    own interval lies inside it (the first such one, if there are two).
    """
    words, (lower, width) = encoder.pos()
    # constriction resolves carries for the point low + 2**32 - 1, so low's leading words are recovered from it.
    mask = (1 << _WORD) - 1
    head = int.from_bytes(encoder.get_compressed()[: words + 1].astype(">u4").tobytes(), "big")
    low = (head << _WORD | (lower + mask) & mask) - mask if len(encoder.get_compressed()) else 0
    length = _WORD * words + _STATE
    drop = width.bit_length()
    while True:
        bits = -(-low >> drop)
        if bits + 1 << drop <= low + width:
            break
        drop -= 1
    writer.write(bits, length - drop)


def read_payload(
    reader: BitReader,
    count: int,
    decode: Callable[[constriction.stream.queue.RangeDecoder], Int[np.ndarray, " n"]],
    encode: Callable[[Int[np.ndarray, " n"]], constriction.stream.queue.RangeEncoder],
) -> Int[np.ndarray, " n"]:
    """Decode `count` symbols and move the reader to the end of their canonical bits.

    The symbols are encoded again; anything but the very bits that this gives raises MessageError.
    """
    # No symbol takes more than PRECISION + 1 bits, so a long tail of foreign bytes is not even copied.
    limit = min(reader.length - reader.position, (PRECISION + 1) * count + 2 * _STATE)
    padded = limit + -limit % _WORD
    data = reader.peek(padded).to_bytes(padded // 8, "big")
    try:
        symbols = decode(constriction.stream.queue.RangeDecoder(np.frombuffer(data, dtype=">u4").astype(np.uint32)))
    except AssertionError as error:  # constriction's word for a point that lies in no symbol's interval
        raise MessageError("the payload is not the code of any symbols") from error
    again = BitWriter()
    write_payload(again, encode(symbols))
    width = again.length
    if again.value() != reader.read(width):
        raise MessageError("the payload is not in its canonical form")
    return symbols
