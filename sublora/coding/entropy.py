"""Entropy models of the symbols: which one is shortest is decided per message, and the decision is coded.

Every table of frequencies is made by integer arithmetic alone, so it is the same on every machine. Models:

* Gaussian, Laplace: frequency in proportion to exp(-x^2 / (2 rho^2)) or exp(-|x| / rho), x in steps; rho is coded.
* adaptive: Krichevsky & Trofimov 1981, probability (c + 1/2) / (t + L/2) after c of t symbols; nothing is coded.
* static: the symbols' counts, rounded, are coded.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import constriction
import numpy as np
from jaxtyping import Int32, Int64

from sublora.coding.bits import (
    BitReader,
    BitWriter,
    best_exp_golomb_order,
    exp_golomb_length,
    read_exp_golomb,
    read_signed,
    read_uniform,
    write_exp_golomb,
    write_signed,
    write_uniform,
    zigzag,
)
from sublora.coding.choices import read_choice, write_choice
from sublora.coding.codebooks import MAX_CENTROIDS, Codebook, Grid, TrellisGrid, nearest_scale_index
from sublora.coding.range_coder import PRECISION, TOTAL, frequencies, model, probabilities
from sublora.coding.trellis import NEXT_STATE
from sublora.errors import MessageError

ADAPTIVE_SYMBOLS, ADAPTIVE_LEVELS = 1 << 14, 1 << 10
"""The adaptive model is decoded symbol by symbol in Python, so it is offered for short messages only."""
_FRACTION = 96
_RHO_INDICES = (-24, 128)
_RHO_CENTRE, _RHO_ORDER = 8, 3
_STATIC_BITS = 32


def exp_negative(numerator: int, denominator: int) -> int:
    """Return exp(-numerator / denominator) in fixed point with 96 fractional bits, by integer arithmetic alone.

    The argument is halved until it is below 1, the Taylor series is summed, and the result is squared back; every
    product is rounded down.
    """
    halvings = max(0, (numerator // denominator).bit_length())
    argument = (numerator << _FRACTION) // (denominator << halvings)
    term = total = 1 << _FRACTION
    order = 1
    while term:
        term = (term * argument >> _FRACTION) // order
        total += -term if order % 2 else term
        order += 1
    for _ in range(halvings):
        total = total * total >> _FRACTION
    return total


def _gaussian(largest: int, rho_index: int) -> list[int]:
    """Return exp(-z^2 / (8 rho^2)) for z = 0..largest, with 96 fractional bits."""
    mantissa, exponent = 8 + rho_index % 8, rho_index // 8 - 3  # rho = mantissa * 2**exponent
    base = exp_negative(1 << max(0, -2 * exponent), 8 * mantissa**2 << max(0, 2 * exponent))
    weights, factor = [1 << _FRACTION], base
    square = base * base >> _FRACTION
    for _ in range(largest):
        weights.append(weights[-1] * factor >> _FRACTION)
        factor = factor * square >> _FRACTION
    return weights


def _laplace(largest: int, rho_index: int) -> list[int]:
    """Return exp(-z / (2 rho)) for z = 0..largest, with 96 fractional bits."""
    mantissa, exponent = 8 + rho_index % 8, rho_index // 8 - 3
    factor = exp_negative(1 << max(0, -exponent), 2 * mantissa << max(0, exponent))
    weights = [1 << _FRACTION]
    for _ in range(largest):
        weights.append(weights[-1] * factor >> _FRACTION)
    return weights


SHAPES: dict[str, Callable[[int, int], list[int]]] = {"gaussian": _gaussian, "laplace": _laplace}


class EntropyModel(ABC):
    """Codes sequences of symbols of one codebook with the range coder."""

    @abstractmethod
    def write(self, writer: BitWriter, codebook: Codebook) -> None:
        """Write what the decoder needs to know about the model."""

    @abstractmethod
    def encode(self, symbols: Int32[np.ndarray, " n"], codebook: Codebook) -> constriction.stream.queue.RangeEncoder:
        """Return a range encoder that has encoded the symbols."""

    @abstractmethod
    def decode(
        self, decoder: constriction.stream.queue.RangeDecoder, count: int, codebook: Codebook
    ) -> Int32[np.ndarray, " n"]:
        """Decode `count` symbols."""


class TableModel(EntropyModel):
    """A model with one fixed table of frequencies for every quantizer of the codebook."""

    @abstractmethod
    def tables(self, codebook: Codebook) -> Int64[np.ndarray, "contexts levels"]:
        """Return the frequencies, which add up to 2**24 in every row."""

    def encode(self, symbols: Int32[np.ndarray, " n"], codebook: Codebook) -> constriction.stream.queue.RangeEncoder:
        """Encode with the table of each symbol's quantizer."""
        models = [model(row) for row in self.tables(codebook)]
        encoder = constriction.stream.queue.RangeEncoder()
        if len(models) == 1:
            encoder.encode(symbols, models[0])
        else:
            for symbol, context in zip(symbols.data, codebook.contexts(symbols).data, strict=True):
                encoder.encode(symbol, models[context])
        return encoder

    def decode(
        self, decoder: constriction.stream.queue.RangeDecoder, count: int, codebook: Codebook
    ) -> Int32[np.ndarray, " n"]:
        """Decode with the table of each symbol's quantizer, which on a trellis follows from the symbols before it."""
        models = [model(row) for row in self.tables(codebook)]
        if not isinstance(codebook, TrellisGrid):
            return decoder.decode(models[0], count)
        symbols = np.empty(count, dtype=np.int32)
        half, state = codebook.levels // 2, 0
        for index in range(count):
            symbol = decoder.decode(models[state & 1])
            symbols[index] = symbol
            state = NEXT_STATE[state][(symbol - half) & 1]
        return symbols


@dataclass(frozen=True)
class Parametric(TableModel):
    """A Gaussian or Laplace distribution of scale rho = grid_scale(rho_index) steps, centred on zero."""

    shape: str
    rho_index: int

    def write(self, writer: BitWriter, codebook: Codebook) -> None:
        """Write the scale."""
        write_signed(writer, self.rho_index - _RHO_CENTRE, _RHO_ORDER)

    @classmethod
    def read(cls, reader: BitReader, shape: str) -> "Parametric":
        """Read the scale."""
        index = read_signed(reader, _RHO_ORDER) + _RHO_CENTRE
        if not _RHO_INDICES[0] <= index <= _RHO_INDICES[1]:
            raise MessageError(f"scale index {index} is outside {_RHO_INDICES[0]}..{_RHO_INDICES[1]}")
        return cls(shape, index)

    def tables(self, codebook: Codebook) -> Int64[np.ndarray, "contexts levels"]:
        """Evaluate the density at the positions of the grid."""
        assert isinstance(codebook, Grid)
        return _parametric_tables(self.shape, self.rho_index, type(codebook)(0, codebook.levels))


@lru_cache(maxsize=64)
def _parametric_tables(shape: str, rho_index: int, grid: Grid) -> Int64[np.ndarray, "contexts levels"]:
    """Return the tables on a grid of step 1: they are the same for every step, and a fit tries the same ones often."""
    positions = np.abs(grid.positions())
    weights = SHAPES[shape](int(positions.max()), rho_index)
    tables = np.stack([frequencies([weights[z] for z in row]) for row in positions.tolist()])
    tables.flags.writeable = False
    return tables


@dataclass(frozen=True)
class Static(TableModel):
    """Frequencies in proportion to coded integer weights."""

    weights: tuple[int, ...]

    def write(self, writer: BitWriter, codebook: Codebook) -> None:
        """Write an Exp-Golomb order and the weights."""
        order = best_exp_golomb_order(self.weights, _STATIC_BITS)
        write_uniform(writer, order, _STATIC_BITS)
        for weight in self.weights:
            write_exp_golomb(writer, weight, order)

    @classmethod
    def read(cls, reader: BitReader, codebook: Codebook) -> "Static":
        """Read one weight for every level of the codebook."""
        order = read_uniform(reader, _STATIC_BITS)
        weights = tuple(read_exp_golomb(reader, order) for _ in range(codebook.levels))
        if not any(weights) or max(weights) >> _STATIC_BITS:
            raise MessageError("the weights of the static model are all zero or too large")
        if order != best_exp_golomb_order(weights, _STATIC_BITS):
            raise MessageError("the weights of the static model are not coded with the shortest Exp-Golomb code")
        return cls(weights)

    def tables(self, codebook: Codebook) -> Int64[np.ndarray, "1 levels"]:
        """Return the weights, scaled to add up to 2**24."""
        return frequencies(list(self.weights))[None]


@dataclass(frozen=True)
class Adaptive(EntropyModel):
    """The Krichevsky-Trofimov estimator: before each symbol, frequencies in proportion to 2 c + 1."""

    def write(self, writer: BitWriter, codebook: Codebook) -> None:
        """Write nothing: the model learns from the symbols."""

    def _tables(self, symbols: Int32[np.ndarray, " n"], levels: int) -> Iterator[Int64[np.ndarray, "m levels"]]:
        """Yield the tables of the symbols in blocks of bounded size."""
        block = max(1, (1 << 18) // levels)
        seen = np.zeros(levels, dtype=np.int64)
        for start in range(0, len(symbols), block):
            part = symbols[start : start + block]
            ones = np.zeros((len(part), levels), dtype=np.int64)
            ones[np.arange(len(part)), part] = 1
            after = seen + np.cumsum(ones, axis=0)
            yield _adaptive_table(after - ones)
            seen = after[-1]

    def encode(self, symbols: Int32[np.ndarray, " n"], codebook: Codebook) -> constriction.stream.queue.RangeEncoder:
        """Encode each symbol with the table of the symbols before it."""
        encoder = constriction.stream.queue.RangeEncoder()
        family = constriction.stream.model.Categorical(perfect=False)
        start = 0
        for tables in self._tables(symbols, codebook.levels):
            encoder.encode(symbols[start : start + len(tables)], family, probabilities(tables))
            start += len(tables)
        return encoder

    def decode(
        self, decoder: constriction.stream.queue.RangeDecoder, count: int, codebook: Codebook
    ) -> Int32[np.ndarray, " n"]:
        """Decode symbol by symbol."""
        seen = np.zeros(codebook.levels, dtype=np.int64)
        symbols = np.empty(count, dtype=np.int32)
        for index in range(count):
            symbol = decoder.decode(model(_adaptive_table(seen)))
            symbols[index] = symbol
            seen[symbol] += 1
        return symbols


def _adaptive_table(counts: Int64[np.ndarray, "*rows levels"]) -> Int64[np.ndarray, "*rows levels"]:
    """Return `frequencies(2 * counts + 1)` of every row; the products stay below 2**40."""
    levels = counts.shape[-1]
    cumulative = np.cumsum(2 * counts + 1, axis=-1)
    edges = cumulative * (TOTAL - levels) // cumulative[..., -1:]
    return np.diff(edges, axis=-1, prepend=0) + 1


def _cost(counts: Int64[np.ndarray, "contexts levels"], tables: Int64[np.ndarray, "contexts levels"]) -> float:
    """Return the bits that symbols with these counts take under the tables."""
    return float((counts * (PRECISION - np.log2(tables))).sum())


def _adaptive_cost(counts: Int64[np.ndarray, " levels"]) -> float:
    """Return the bits of the Krichevsky-Trofimov code of symbols with these counts."""
    levels, total = len(counts), int(counts.sum())
    nats = math.lgamma(total + levels / 2) - math.lgamma(levels / 2) + levels * math.lgamma(0.5)
    return (nats - sum(math.lgamma(count + 0.5) for count in counts.tolist())) / math.log(2)


def _fit_parametric(counts: Int64[np.ndarray, "contexts levels"], grid: Grid, shape: str) -> tuple[float, Parametric]:
    """Return the scale of least cost: a walk from the scale of equal moments, along which the cost is convex."""
    moment = float((counts * (np.abs(grid.positions()) / 2.0) ** 2).sum() / counts.sum())
    index = min(max(nearest_scale_index(math.sqrt(moment)), _RHO_INDICES[0]), _RHO_INDICES[1]) if moment else 0

    def cost(rho_index: int) -> float:
        if not _RHO_INDICES[0] <= rho_index <= _RHO_INDICES[1]:
            return math.inf
        side = exp_golomb_length(zigzag(rho_index - _RHO_CENTRE), _RHO_ORDER)
        return _cost(counts, Parametric(shape, rho_index).tables(grid)) + side

    best = cost(index)
    for direction in (-1, 1):
        while (neighbour := cost(index + direction)) < best:
            best, index = neighbour, index + direction
    return best, Parametric(shape, index)


def _fit_static(counts: Int64[np.ndarray, " levels"], codebook: Codebook) -> tuple[float, Static]:
    """Return the static model of least cost among the counts divided by powers of two."""
    best: tuple[float, Static] | None = None
    for shift in range(int(counts.max()).bit_length()):
        weights = np.where(counts > 0, np.maximum(counts >> shift, 1), 0)
        candidate = Static(tuple(weights.tolist()))
        side = BitWriter()
        candidate.write(side, codebook)
        cost = _cost(counts[None], candidate.tables(codebook)) + side.length
        if best is None or cost < best[0]:
            best = (cost, candidate)
    assert best is not None
    return best


def offered(codebook: Codebook, count: int) -> list[str]:
    """Return the names of the models that may code `count` symbols of this codebook, in the order of their numbers."""
    names = list(SHAPES) if isinstance(codebook, Grid) else []
    if not isinstance(codebook, TrellisGrid) and codebook.levels <= MAX_CENTROIDS:
        names.append("static")
        if count <= ADAPTIVE_SYMBOLS and codebook.levels <= ADAPTIVE_LEVELS:
            names.append("adaptive")
    return names


def fit(symbols: Int32[np.ndarray, " n"], codebook: Codebook) -> tuple[float, str, EntropyModel]:
    """Return the bits (estimated, its own and the payload's), the name, and the model that codes `symbols` shortest."""
    contexts = len(codebook.positions()) if isinstance(codebook, Grid) else 1
    flat = codebook.contexts(symbols).astype(np.int64) * codebook.levels + symbols
    counts = np.bincount(flat, minlength=contexts * codebook.levels).reshape(contexts, codebook.levels)
    fitted: list[tuple[float, str, EntropyModel]] = []
    for name in offered(codebook, len(symbols)):
        if name in SHAPES:
            assert isinstance(codebook, Grid)
            bits, parametric = _fit_parametric(counts, codebook, name)
            fitted.append((bits, name, parametric))
        elif name == "static":
            bits, static = _fit_static(counts[0], codebook)
            fitted.append((bits, name, static))
        else:
            fitted.append((_adaptive_cost(counts[0]), name, Adaptive()))
    return min(fitted, key=lambda entry: entry[0])


def write_model(writer: BitWriter, name: str, entropy_model: EntropyModel, codebook: Codebook, count: int) -> None:
    """Write which of the offered models it is, then its parameters."""
    names = offered(codebook, count)
    write_choice(writer, name, names)
    entropy_model.write(writer, codebook)


def read_model(reader: BitReader, codebook: Codebook, count: int) -> EntropyModel:
    """Read what `write_model` wrote."""
    names = offered(codebook, count)
    name = read_choice(reader, names)
    if name in SHAPES:
        return Parametric.read(reader, name)
    return Static.read(reader, codebook) if name == "static" else Adaptive()
