"""Codebooks: how a sequence of symbols becomes float32 values, and how the codebook itself is coded.

A grid position is an integer z counted in half steps, so that value = z * step / 2 holds for every grid.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8

from sublora.coding.bits import (
    BitReader,
    BitWriter,
    best_exp_golomb_order,
    read_exp_golomb,
    read_signed,
    read_uniform,
    unzigzag,
    write_exp_golomb,
    write_signed,
    write_uniform,
    zigzag,
)
from sublora.coding.choices import read_choice, write_choice
from sublora.coding.trellis import trellis_states
from sublora.errors import MessageError

MAX_LEVELS = 1 << 16
MAX_CENTROIDS = 1 << 12
"""Also the largest alphabet for which counts are coded."""
STEP_INDICES = (-1240, 1100)
"""From below the smallest float32 to above the largest."""
_CENTROID_BITS = 40
_BLOCK = 1 << 13
_EXPONENTS = (-200, 140)
_LARGEST = float(np.finfo(np.float32).max)


def grid_scale(index: int) -> float:
    """Return (8 + index mod 8) / 8 * 2**floor(index / 8): eight exact binary fractions in every octave."""
    return math.ldexp(8 + index % 8, index // 8 - 3)


def nearest_scale_index(scale: float) -> int:
    """Return the index of the grid scale nearest in ratio to `scale` > 0."""
    start = round(8 * math.log2(scale))
    return min(range(start - 2, start + 3), key=lambda index: abs(math.log(grid_scale(index) / scale)))


def _to_float32(values: Float[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """Round to float32; what lies beyond the largest finite float32 becomes that float32."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


def _in_range(value: int, limits: tuple[int, int], what: str) -> int:
    if not limits[0] <= value <= limits[1]:
        raise MessageError(f"{what} {value} is outside {limits[0]}..{limits[1]}")
    return value


def _read_levels(reader: BitReader) -> int:
    return _in_range(read_exp_golomb(reader, 3) + 1, (1, MAX_LEVELS), "number of levels")


class Codebook(ABC):
    """Symbols 0..levels-1 and the float32 values they stand for."""

    levels: int

    @abstractmethod
    def reconstruct(self, symbols: Int32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the value of every symbol of the sequence."""

    @abstractmethod
    def write(self, writer: BitWriter) -> None:
        """Write the codebook."""

    @classmethod
    @abstractmethod
    def read(cls, reader: BitReader) -> "Codebook":
        """Read what `write` wrote; raises MessageError if it is illegal."""

    def contexts(self, symbols: Int32[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Return which of the codebook's quantizers each symbol belongs to (0 where there is only one)."""
        return np.zeros(len(symbols), dtype=np.uint8)


@dataclass(frozen=True)
class Grid(Codebook):
    """A codebook whose values are multiples of half a step `grid_scale(step_index)`."""

    step_index: int
    levels: int

    def __post_init__(self) -> None:
        _in_range(self.step_index, STEP_INDICES, "step index")
        _in_range(self.levels, (1, MAX_LEVELS), "number of levels")

    @property
    def step(self) -> float:
        """The distance of neighbouring values of one quantizer."""
        return grid_scale(self.step_index)

    @abstractmethod
    def positions(self) -> Int64[np.ndarray, "contexts levels"]:
        """Return the position z, in half steps, of every symbol in every quantizer of the codebook."""

    def reconstruct(self, symbols: Int32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return z * step / 2 of every symbol, as float32."""
        table, contexts = _to_float32(self.positions() * (self.step / 2)), self.contexts(symbols)
        values = np.empty(len(symbols), dtype=np.float32)
        for start in range(0, len(symbols), _BLOCK):  # numpy copies indices to 64 bits
            part = slice(start, start + _BLOCK)
            values[part] = table[contexts[part], symbols[part]]
        return values


class UniformGrid(Grid):
    """`levels` values around zero, one step apart: with 0 if `levels` is odd, at half steps if it is even."""

    def positions(self) -> Int64[np.ndarray, "1 levels"]:
        """Return 2 s - (levels - 1)."""
        return (2 * np.arange(self.levels, dtype=np.int64) - (self.levels - 1))[None]

    def write(self, writer: BitWriter) -> None:
        """Write the step and the number of levels."""
        write_signed(writer, self.step_index, 4)
        write_exp_golomb(writer, self.levels - 1, 3)

    @classmethod
    def read(cls, reader: BitReader) -> "UniformGrid":
        """Read the step and the number of levels."""
        return cls(read_signed(reader, 4), _read_levels(reader))


class TrellisGrid(Grid):
    """Two interleaved grids; the parities of the earlier symbols say which one the next symbol belongs to.

    With k = s - (levels - 1) / 2, grid 0 has z = 2 k and grid 1 has z = 2 k + 1. This is entropy-coded trellis-coded
    quantization (Fischer & Wang 1992, "Entropy-constrained trellis-coded quantization").
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels % 2 == 0:
            raise MessageError("a trellis grid has an odd number of levels")

    def positions(self) -> Int64[np.ndarray, "2 levels"]:
        """Return 2 k and 2 k + 1."""
        k = np.arange(self.levels, dtype=np.int64) - self.levels // 2
        return np.stack([2 * k, 2 * k + 1])

    def contexts(self, symbols: Int32[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Return the grid of every symbol: the lowest bit of the trellis state."""
        return trellis_states((symbols & 1).astype(np.uint8) ^ (self.levels // 2 & 1)) & 1

    def write(self, writer: BitWriter) -> None:
        """Write the step and half the number of levels."""
        write_signed(writer, self.step_index, 4)
        write_exp_golomb(writer, self.levels // 2, 2)

    @classmethod
    def read(cls, reader: BitReader) -> "TrellisGrid":
        """Read the step and half the number of levels."""
        return cls(read_signed(reader, 4), 2 * read_exp_golomb(reader, 2) + 1)


@dataclass(frozen=True)
class Centroids(Codebook):
    """Increasing values integer * 2**exponent."""

    exponent: int
    integers: tuple[int, ...]

    def __post_init__(self) -> None:
        _in_range(self.exponent, _EXPONENTS, "centroid exponent")
        _in_range(self.levels, (1, MAX_CENTROIDS), "number of centroids")
        if max(map(abs, self.integers)) >> _CENTROID_BITS:
            raise MessageError(f"a centroid of more than {_CENTROID_BITS} bits")

    @property
    def levels(self) -> int:  # type: ignore[override]
        """The number of centroids."""
        return len(self.integers)

    def values(self) -> Float32[np.ndarray, " levels"]:
        """Return the centroids."""
        return _to_float32(np.ldexp(np.array(self.integers, dtype=np.float64), self.exponent))

    def reconstruct(self, symbols: Int32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the centroid of every symbol."""
        return self.values()[symbols]

    def _coded(self) -> list[int]:
        gaps = [high - low - 1 for low, high in zip(self.integers, self.integers[1:], strict=False)]
        return [zigzag(self.integers[0]), *gaps]

    def write(self, writer: BitWriter) -> None:
        """Write the resolution, the lowest centroid and the gaps between centroids."""
        coded = self._coded()
        order = best_exp_golomb_order(coded, 32)
        write_signed(writer, self.exponent, 4)
        write_exp_golomb(writer, self.levels - 1, 3)
        write_uniform(writer, order, 32)
        for value in coded:
            write_exp_golomb(writer, value, order)

    @classmethod
    def read(cls, reader: BitReader) -> "Centroids":
        """Read the centroids."""
        exponent = read_signed(reader, 4)
        levels = _read_levels(reader)
        order = read_uniform(reader, 32)
        coded = [read_exp_golomb(reader, order) for _ in range(levels)]
        if max(coded) >> _CENTROID_BITS + 1:
            raise MessageError(f"a centroid of more than {_CENTROID_BITS} bits")
        if order != best_exp_golomb_order(coded, 32):
            raise MessageError("the centroids are not coded with the shortest Exp-Golomb code")
        integers = [unzigzag(coded[0])]
        for gap in coded[1:]:
            integers.append(integers[-1] + gap + 1)
        return cls(exponent, tuple(integers))


CODEBOOKS: tuple[type[Codebook], ...] = (TrellisGrid, UniformGrid, Centroids)
"""Position in this tuple = number in the message."""


def write_codebook(writer: BitWriter, codebook: Codebook) -> None:
    """Write which codebook it is, then the codebook."""
    write_choice(writer, type(codebook), CODEBOOKS)
    codebook.write(writer)


def read_codebook(reader: BitReader) -> Codebook:
    """Read what `write_codebook` wrote."""
    return read_choice(reader, CODEBOOKS).read(reader)
