"""The gates' grid: 2**b equal cells of (0, 1), each represented by its middle.

Equal in gamma, not in its logit: moving a gate by a cell moves the same number gamma * d of coordinates from A to B
wherever the gate stands, so the error of the mask is the same everywhere.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float, Float64

from sublora.coding.bits import (
    BitReader,
    BitWriter,
    best_exp_golomb_order,
    read_exp_golomb,
    read_uniform,
    unzigzag,
    write_exp_golomb,
    write_uniform,
    zigzag,
)
from sublora.errors import MessageError

MAX_GATE_BITS = 16


def quantize_gates(gammas: Float[np.ndarray, " g"], *, bits: int = 5) -> Float64[np.ndarray, " g"]:
    """Return the middles (2 i + 1) / 2**(bits + 1) of the cells in which the gates lie.

    Raises ValueError unless every gate lies in [0, 1] and 1 <= bits <= 16.
    """
    if not 1 <= bits <= MAX_GATE_BITS:
        raise ValueError(f"gates take 1..{MAX_GATE_BITS} bits, not {bits}")
    if not ((gammas >= 0) & (gammas <= 1)).all():
        raise ValueError("gates must lie in [0, 1]")
    cells = np.minimum(np.floor(gammas.astype(np.float64) * 2**bits), 2**bits - 1)
    return (2 * cells + 1) / 2 ** (bits + 1)


def _cells(gates: Float[np.ndarray, " g"]) -> tuple[int, list[int]]:
    """Return the grid's bits, which any of its gates betrays, and the cell of every gate."""
    _, denominator = float(gates[0]).as_integer_ratio()
    bits = denominator.bit_length() - 2
    if not 1 <= bits <= MAX_GATE_BITS or not np.array_equal(quantize_gates(gates, bits=bits), gates):
        raise ValueError("the gates are not on one grid: pass them through quantize_gates first")
    return bits, [math.floor(gate * 2**bits) for gate in gates.tolist()]


def write_gates(writer: BitWriter, gates: Float[np.ndarray, " g"]) -> None:
    """Write the grid, the first gate, and the differences of neighbouring gates, which tend to be small."""
    if gates.size == 0:
        return
    bits, cells = _cells(gates)
    coded = [zigzag(high - low) for low, high in itertools.pairwise(cells)]
    order = best_exp_golomb_order(coded, bits + 1)
    write_uniform(writer, bits - 1, MAX_GATE_BITS)
    write_uniform(writer, cells[0], 2**bits)
    write_uniform(writer, order, bits + 1)
    for value in coded:
        write_exp_golomb(writer, value, order)


def read_gates(reader: BitReader, count: int) -> Float64[np.ndarray, " g"]:
    """Read `count` gates written by `write_gates`."""
    if count == 0:
        return np.zeros(0)
    bits = read_uniform(reader, MAX_GATE_BITS) + 1
    cells = [read_uniform(reader, 2**bits)]
    order = read_uniform(reader, bits + 1)
    coded = [read_exp_golomb(reader, order) for _ in range(count - 1)]
    for value in coded:
        cells.append(cells[-1] + unzigzag(value))
        if not 0 <= cells[-1] < 2**bits:
            raise MessageError("a gate outside (0, 1)")
    if order != best_exp_golomb_order(coded, bits + 1):
        raise MessageError("the gates are not coded with the shortest Exp-Golomb code")
    return (2 * np.array(cells, dtype=np.float64) + 1) / 2 ** (bits + 1)
