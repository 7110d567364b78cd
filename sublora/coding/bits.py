"""Bits, most significant first, and the universal codes of integers that the header is made of."""

from collections.abc import Sequence

import numpy as np

from sublora.errors import MessageError

MAX_INTEGER_BITS = 64
"""Longest integer that a universal code of this format may hold."""


class BitWriter:
    """Collects bits and books every one of them under the field that is being written."""

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._field = "header"
        self.length = 0
        self.ledger: dict[str, float] = {}

    def field(self, name: str) -> None:
        """Book the bits that follow under `name`."""
        self._field = name
        self.ledger.setdefault(name, 0.0)

    def write(self, value: int, width: int) -> None:
        """Write the `width` lowest bits of `value`; raises ValueError if it does not fit."""
        if width < 0 or not 0 <= value < 1 << width:
            raise ValueError(f"{value} does not fit into {width} bits")
        if width:
            self._chunks.append(f"{value:0{width}b}")
            self.length += width
        self.ledger[self._field] = self.ledger.get(self._field, 0.0) + width

    def value(self) -> int:
        """Return all bits so far as one integer."""
        return int("".join(self._chunks) or "0", 2)

    def to_bytes(self) -> bytes:
        """Return the bits, padded with zeros (booked as `padding`) to whole bytes."""
        self.field("padding")
        self.write(0, -self.length % 8)
        return self.value().to_bytes(self.length // 8, "big")


class BitReader:
    """Reads what a `BitWriter` wrote; raises MessageError where the bits end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        self.length = 8 * len(data)

    def read(self, width: int) -> int:
        """Return the next `width` bits as an integer."""
        start, end = self.position, self.position + width
        if end > self.length:
            raise MessageError("the message ends in the middle of a field")
        self.position = end
        window = int.from_bytes(self._data[start // 8 : (end + 7) // 8], "big")
        return (window >> (-end % 8)) & ((1 << width) - 1)

    def peek(self, width: int) -> int:
        """Return the next `width` bits, zeros where the message has ended, without moving."""
        start = self.position
        available = min(width, self.length - start)
        value = self.read(available) << (width - available)
        self.position = start
        return value


def write_uniform(writer: BitWriter, value: int, count: int) -> None:
    """Write one of `count` equally likely values 0..count-1 in floor or ceil(log2 count) bits (truncated binary)."""
    if not 0 <= value < count:
        raise ValueError(f"{value} is outside 0..{count - 1}")
    width = (count - 1).bit_length()
    short = (1 << width) - count
    if value < short:
        writer.write(value, width - 1)
    else:
        writer.write(value + short, width)


def read_uniform(reader: BitReader, count: int) -> int:
    """Read a value 0..count-1 written by `write_uniform`."""
    width = (count - 1).bit_length()
    short = (1 << width) - count
    if width == 0:
        return 0
    value = reader.read(width - 1)
    return value if value < short else (value << 1 | reader.read(1)) - short


def write_gamma(writer: BitWriter, value: int) -> None:
    """Write an integer >= 1 in 2 floor(log2 value) + 1 bits (Elias 1975, gamma code)."""
    if value < 1 or value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(f"{value} is outside 1..2**{MAX_INTEGER_BITS}-1")
    writer.write(value, 2 * value.bit_length() - 1)


def read_gamma(reader: BitReader) -> int:
    """Read an integer >= 1 written by `write_gamma`."""
    zeros = 0
    while reader.read(1) == 0:
        zeros += 1
        if zeros >= MAX_INTEGER_BITS:
            raise MessageError(f"an integer of more than {MAX_INTEGER_BITS} bits")
    return 1 << zeros | reader.read(zeros)


def write_delta(writer: BitWriter, value: int) -> None:
    """Write an integer >= 1 as the gamma code of its length and its lower bits (Elias 1975, delta code)."""
    if value < 1 or value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(f"{value} is outside 1..2**{MAX_INTEGER_BITS}-1")
    width = value.bit_length() - 1
    write_gamma(writer, width + 1)
    writer.write(value - (1 << width), width)


def read_delta(reader: BitReader) -> int:
    """Read an integer >= 1 written by `write_delta`."""
    width = read_gamma(reader) - 1
    if width >= MAX_INTEGER_BITS:
        raise MessageError(f"an integer of more than {MAX_INTEGER_BITS} bits")
    return 1 << width | reader.read(width)


def write_exp_golomb(writer: BitWriter, value: int, order: int) -> None:
    """Write an integer >= 0: gamma code of (value >> order) + 1, then the `order` lowest bits."""
    write_gamma(writer, (value >> order) + 1)
    writer.write(value & ((1 << order) - 1), order)


def exp_golomb_length(value: int, order: int) -> int:
    """Return the bits that `write_exp_golomb` takes."""
    return 2 * ((value >> order) + 1).bit_length() - 1 + order


def read_exp_golomb(reader: BitReader, order: int) -> int:
    """Read an integer >= 0 written by `write_exp_golomb` of the same order."""
    high = read_gamma(reader) - 1
    return high << order | reader.read(order)


def zigzag(value: int) -> int:
    """Map 0, -1, 1, -2, 2, ... to 0, 1, 2, 3, 4, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(index: int) -> int:
    """Invert `zigzag`."""
    return index // 2 if index % 2 == 0 else -(index + 1) // 2


def write_signed(writer: BitWriter, value: int, order: int) -> None:
    """Write any integer as the Exp-Golomb code of its zigzag index."""
    write_exp_golomb(writer, zigzag(value), order)


def read_signed(reader: BitReader, order: int) -> int:
    """Read an integer written by `write_signed` of the same order."""
    return unzigzag(read_exp_golomb(reader, order))


def write_decimal(writer: BitWriter, value: int) -> None:
    """Write an integer >= 0 that a person chose: gamma(trailing decimal zeros + 1), then delta(rest + 1)."""
    zeros = 0
    while value and value % 10 == 0:
        value //= 10
        zeros += 1
    write_gamma(writer, zeros + 1)
    write_delta(writer, value + 1)


def decimal_length(value: int) -> int:
    """Return how many bits `write_decimal` writes."""
    writer = BitWriter()
    write_decimal(writer, value)
    return writer.length


def read_decimal(reader: BitReader) -> int:
    """Read an integer >= 0 written by `write_decimal`; a rest that ends in 0 is not canonical."""
    zeros = read_gamma(reader) - 1
    rest = read_delta(reader) - 1
    if zeros > 19 or (rest == 0 and zeros) or (rest and rest % 10 == 0):
        raise MessageError("a decimal integer that is not in its canonical form")
    return rest * 10**zeros


def best_exp_golomb_order(values: Sequence[int], orders: int) -> int:
    """Return the order below `orders` that codes `values` (0 <= value < 2**52) in the fewest bits."""
    array = np.array(values, dtype=np.int64)

    def cost(order: int) -> int:
        # frexp's exponent is the bit length, exactly, for integers below 2**53.
        return int((2 * np.frexp((array >> order) + 1.0)[1] - 1 + order).sum())

    return min(range(orders), key=cost)
