"""The range coder and its tables, against an independent coder on Python integers and against exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sublora.coding import entropy
from sublora.coding.bits import BitReader, BitWriter
from sublora.coding.codebooks import Centroids, Codebook, TrellisGrid, UniformGrid
from sublora.coding.range_coder import TOTAL, frequencies, read_payload, write_payload
from sublora.errors import MessageError
from sublora.seeds import stream


def integer_range_coder(symbols: list[int], tables: list[list[int]]) -> tuple[int, int, int]:
    """Encode by the recurrence in docs/message.md; return low, range and their length in bits."""
    low, width, length = 0, 2**64 - 1, 64
    for symbol, table in zip(symbols, tables, strict=True):
        unit = width >> 24
        low += unit * sum(table[:symbol])
        width = unit * table[symbol]
        if width < 2**32:
            low, width, length = low << 32, width << 32, length + 32
    return low, width, length


def payload(symbols: np.ndarray, model: entropy.EntropyModel, codebook: Codebook) -> BitWriter:
    writer = BitWriter()
    write_payload(writer, model.encode(symbols, codebook))
    return writer


def some_symbols(levels: int, count: int, name: str) -> np.ndarray:
    draws = stream(7, name).normal((levels - 1) / 2, levels / 5, count)
    return np.clip(np.rint(draws), 0, levels - 1).astype(np.int32)


MODELS: list[tuple[str, entropy.EntropyModel, Codebook]] = [
    ("gaussian", entropy.Parametric("gaussian", 8), UniformGrid(0, 11)),
    ("laplace", entropy.Parametric("laplace", 3), UniformGrid(0, 10)),
    ("trellis", entropy.Parametric("gaussian", 8), TrellisGrid(0, 11)),
    ("static", entropy.Static((1, 5, 0, 40, 7)), Centroids(0, (1, 2, 3, 4, 5))),
    ("adaptive", entropy.Adaptive(), UniformGrid(0, 7)),
]


@pytest.mark.parametrize(("name", "model", "codebook"), MODELS)
def test_payload_is_the_shortest_prefix_of_the_integer_coder(
    name: str, model: entropy.EntropyModel, codebook: Codebook
) -> None:
    for count in (1, 2, 37, 600):
        symbols = some_symbols(codebook.levels, count, name)
        if isinstance(model, entropy.TableModel):
            tables = [model.tables(codebook)[context].tolist() for context in codebook.contexts(symbols)]
        else:
            seen = [0] * codebook.levels
            tables = []
            for symbol in symbols.tolist():
                tables.append(frequencies([2 * c + 1 for c in seen]).tolist())
                seen[symbol] += 1
        low, width, length = integer_range_coder(symbols.tolist(), tables)
        writer = payload(symbols, model, codebook)
        written, size = writer.value(), writer.length
        assert low <= written << (length - size)
        assert (written + 1) << (length - size) <= low + width
        # No shorter binary fraction has its whole interval inside.
        shorter = length - size + 1
        first = -(-low >> shorter)
        assert (first + 1) << shorter > low + width

        def decoded(fill: str, bits: str = f"{written:0{size}b}", n: int = count) -> np.ndarray:
            text = bits + fill * 200
            text += "0" * (-len(text) % 32)
            words = np.frombuffer(int(text, 2).to_bytes(len(text) // 8, "big"), dtype=">u4").astype(np.uint32)
            return model.decode(entropy.constriction.stream.queue.RangeDecoder(words), n, codebook)

        for fill in ("0", "1"):
            assert np.array_equal(decoded(fill), symbols)
        reader = BitReader(writer.to_bytes() + b"\xa5")
        again = read_payload(
            reader, count, lambda d, n=count: model.decode(d, n, codebook), lambda s: model.encode(s, codebook)
        )
        assert np.array_equal(again, symbols)
        assert reader.position == size


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=60).filter(any))
def test_frequencies_are_exact_shares(weights: list[int]) -> None:
    table = frequencies(weights)
    assert table.sum() == TOTAL
    assert table.min() >= 1
    share = [Fraction(w, sum(weights)) * (TOTAL - len(weights)) + 1 for w in weights]
    assert all(abs(int(f) - s) < 1 for f, s in zip(table, share, strict=True))


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_exp_negative_matches_the_exponential(numerator: int, denominator: int) -> None:
    value = entropy.exp_negative(numerator, denominator) / 2**96
    assert value == pytest.approx(math.exp(-numerator / denominator), rel=1e-12, abs=2.0**-80)


@pytest.mark.parametrize("levels", [2, 5, 12, 31])
@pytest.mark.parametrize("rho_index", [-10, 0, 8, 21])
def test_parametric_tables_follow_their_densities(levels: int, rho_index: int) -> None:
    grid = UniformGrid(0, levels)
    rho = (8 + rho_index % 8) / 8 * 2.0 ** (rho_index // 8)
    x = np.arange(levels) - (levels - 1) / 2
    for shape, exponent in (("gaussian", x**2 / (2 * rho**2)), ("laplace", np.abs(x) / rho)):
        expected = np.exp(exponent.min() - exponent)
        expected = expected / expected.sum() * (TOTAL - levels) + 1
        assert np.abs(entropy.Parametric(shape, rho_index).tables(grid)[0] - expected).max() <= 1.01


def test_tables_never_change() -> None:
    """A decoder of the future must make these very integers."""
    gaussian = entropy.Parametric("gaussian", 9).tables(UniformGrid(0, 7))
    laplace = entropy.Parametric("laplace", -3).tables(TrellisGrid(0, 5))
    assert gaussian.tolist() == GAUSSIAN_9_7
    assert laplace.tolist() == LAPLACE_M3_5


GAUSSIAN_9_7 = [[1384611, 2268790, 3051225, 3367963, 3051225, 2268790, 1384612]]
LAPLACE_M3_5 = [[815594, 2792480, 9561067, 2792480, 815595], [1835623, 6284921, 6284920, 1835624, 536128]]


def test_adaptive_model_is_krichevsky_trofimov() -> None:
    symbols = some_symbols(5, 400, "kt")
    seen, bits = np.zeros(5), 0.0
    for symbol in symbols:
        bits -= math.log2((seen[symbol] + 0.5) / (seen.sum() + 2.5))
        seen[symbol] += 1
    assert entropy._adaptive_cost(np.bincount(symbols, minlength=5)) == pytest.approx(bits)
    assert bits <= payload(symbols, entropy.Adaptive(), UniformGrid(0, 5)).length <= bits + 3


def test_fit_prefers_the_model_that_fits() -> None:
    grid = UniformGrid(0, 21)
    normal = np.clip(np.rint(stream(1, "normal").normal(10, 3, 2000)), 0, 20).astype(np.int32)
    assert entropy.fit(normal, grid)[1] == "gaussian"
    laplace = np.clip(np.rint(stream(1, "laplace").laplace(10, 2, 2000)), 0, 20).astype(np.int32)
    assert entropy.fit(laplace, grid)[1] == "laplace"
    ends = (20 * stream(1, "ends").integers(0, 2, 2000)).astype(np.int32)
    assert entropy.fit(ends, grid)[1] in ("static", "adaptive")


@pytest.mark.parametrize("count", [1, 30, 3000, 50_000])
@pytest.mark.parametrize("codebook", [UniformGrid(0, 9), TrellisGrid(0, 9), Centroids(0, tuple(range(9)))])
def test_estimated_bits_are_the_written_bits(count: int, codebook: Codebook) -> None:
    symbols = some_symbols(9, count, "estimate")
    bits, name, model = entropy.fit(symbols, codebook)
    writer = BitWriter()
    model.write(writer, codebook)
    written = writer.length + payload(symbols, model, codebook).length
    assert bits - 1e-6 <= written <= bits + 3 + 3e-4 * count, name


def test_payload_is_close_to_the_empirical_entropy() -> None:
    for count in (200, 1000, 100_000):
        symbols = some_symbols(11, count, "entropy")
        share = np.bincount(symbols, minlength=11) / count
        share = share[share > 0]
        floor = -count * float((share * np.log2(share)).sum())
        _, _, model = entropy.fit(symbols, UniformGrid(0, 11))
        assert payload(symbols, model, UniformGrid(0, 11)).length <= 1.005 * floor + 16


@settings(max_examples=60)
@given(st.binary(max_size=40), st.sampled_from(MODELS), st.integers(1, 300))
def test_foreign_payload_decodes_or_is_refused(
    data: bytes, entry: tuple[str, entropy.EntropyModel, Codebook], count: int
) -> None:
    _, model, codebook = entry
    reader = BitReader(data)
    try:
        symbols = read_payload(
            reader, count, lambda d: model.decode(d, count, codebook), lambda s: model.encode(s, codebook)
        )
    except MessageError:
        return
    again = payload(symbols, model, codebook)
    assert again.value() == BitReader(data).read(again.length)
