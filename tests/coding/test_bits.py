"""Universal codes: round trips, lengths, and completeness (Kraft sums over all short words)."""

import itertools
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sublora.coding import bits
from sublora.coding.bits import BitReader, BitWriter
from sublora.errors import MessageError

Write = Callable[[BitWriter, int], None]
Read = Callable[[BitReader], int]

CODES: dict[str, tuple[Write, Read, int]] = {
    "gamma": (bits.write_gamma, bits.read_gamma, 1),
    "delta": (bits.write_delta, bits.read_delta, 1),
    "decimal": (bits.write_decimal, bits.read_decimal, 0),
    **{
        f"exp_golomb_{k}": (
            lambda writer, value, k=k: bits.write_exp_golomb(writer, value, k),
            lambda reader, k=k: bits.read_exp_golomb(reader, k),
            0,
        )
        for k in range(4)
    },
    **{
        f"uniform_{n}": (
            lambda writer, value, n=n: bits.write_uniform(writer, value, n),
            lambda reader, n=n: bits.read_uniform(reader, n),
            0,
        )
        for n in (1, 2, 3, 9, 16, 17)
    },
}


def word(write: Write, value: int) -> str:
    writer = BitWriter()
    write(writer, value)
    return f"{writer.value():0{writer.length}b}" if writer.length else ""


@pytest.mark.parametrize("name", CODES)
def test_small_integers_round_trip_and_are_prefix_free(name: str) -> None:
    write, read, lowest = CODES[name]
    highest = int(name.split("_")[1]) if name.startswith("uniform") else 300
    words = []
    for value in range(lowest, highest):
        code = word(write, value)
        words.append(code)
        reader = BitReader(int((code + "0" * (-len(code) % 8)) or "0", 2).to_bytes((len(code) + 7) // 8, "big"))
        assert read(reader) == value
        assert reader.position == len(code)
    assert sum(Fraction(1, 2 ** len(code)) for code in words) <= 1
    for first, second in itertools.pairwise(sorted(words)):
        assert not second.startswith(first)


@given(st.integers(0, 2**63 - 2), st.integers(0, 20))
def test_large_integers_round_trip(value: int, order: int) -> None:
    writer = BitWriter()
    bits.write_gamma(writer, value + 1)
    bits.write_delta(writer, value + 1)
    bits.write_decimal(writer, value)
    bits.write_signed(writer, -value // 2, order)
    bits.write_uniform(writer, value, 2**63 - 1)
    reader = BitReader(writer.to_bytes())
    assert bits.read_gamma(reader) == value + 1
    assert bits.read_delta(reader) == value + 1
    assert bits.read_decimal(reader) == value
    assert bits.read_signed(reader, order) == -value // 2
    assert bits.read_uniform(reader, 2**63 - 1) == value


def test_published_code_words() -> None:
    # Elias 1975, table I.
    assert [word(bits.write_gamma, n) for n in (1, 2, 3, 4, 8)] == ["1", "010", "011", "00100", "0001000"]
    assert [word(bits.write_delta, n) for n in (1, 2, 3, 4, 8)] == ["1", "0100", "0101", "01100", "00100000"]


def test_uniform_code_is_complete() -> None:
    for count in range(1, 40):
        lengths = [
            len(word(lambda writer, value, n=count: bits.write_uniform(writer, value, n), v)) for v in range(count)
        ]
        assert sum(Fraction(1, 2**length) for length in lengths) == 1
        assert max(lengths) - min(lengths) <= 1


def test_decimal_rejects_a_second_word_for_the_same_integer() -> None:
    writer = BitWriter()
    bits.write_gamma(writer, 1)
    bits.write_delta(writer, 10 + 1)
    with pytest.raises(MessageError, match="canonical"):
        bits.read_decimal(BitReader(writer.to_bytes()))


def test_an_early_end_and_an_endless_integer_are_message_errors() -> None:
    with pytest.raises(MessageError):
        BitReader(b"").read(1)
    with pytest.raises(MessageError):
        bits.read_gamma(BitReader(bytes(100)))


def test_the_ledger_books_every_bit() -> None:
    writer = BitWriter()
    writer.field("a")
    writer.write(5, 3)
    writer.field("b")
    writer.write(0, 0)
    data = writer.to_bytes()
    assert data == bytes([0b10100000])
    assert writer.ledger == {"a": 3.0, "b": 0.0, "padding": 5.0}


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=30))
def test_best_exp_golomb_order_is_the_best(values: list[int]) -> None:
    def length(order: int) -> int:
        writer = BitWriter()
        for value in values:
            bits.write_exp_golomb(writer, value, order)
        return writer.length

    best = bits.best_exp_golomb_order(values, 12)
    assert length(best) == min(length(order) for order in range(12))
