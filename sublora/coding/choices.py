"""Named choices, and the numbers that a message has for them.

A name's number is its place here, and stays: messages that exist would mean something else. The configuration may list
the same names in any order.
"""

from collections.abc import Sequence
from typing import TypeVar

from sublora.coding.bits import BitReader, BitWriter, read_uniform, write_uniform
from sublora.config import BoundType
from sublora.config.sections.model import Adapter, AllocationMode, AllocationScope, GatingGranularity, Targets

BOUND_TYPES: tuple[BoundType, ...] = ("document_level", "sequence_level", "token_level")
ADAPTERS: tuple[Adapter, ...] = ("none", "lora", "spectral", "weights")
LATER_ADAPTERS: tuple[Adapter, ...] = ("unilora", "vera", "lora", "spectral")
"""What came after the code of `ADAPTERS` was full; lora: on kinds of layers, spectral: tied. A new adapter goes to the
end."""
TARGETS: tuple[Targets, ...] = ("attention", "linear")
INTRINSIC_MODES = (
    "rdkronqr",
    "rdkron",
    "rkron",
    "fastfood",
    "sparse",
    "dense",
    "partition",
    "partition_signed",
    "identity",
)
ALLOCATION_MODES: tuple[AllocationMode, ...] = ("uniform", "fixed", "learned")
ALLOCATION_SCOPES: tuple[AllocationScope, ...] = ("layer", "shared")
LATER_GATES: tuple[GatingGranularity, ...] = ("module",)
"""What may have gates since then, besides every layer. A new one goes to the end."""

_T = TypeVar("_T")


def write_choice(writer: BitWriter, chosen: _T, table: Sequence[_T]) -> None:
    """Write the place of what was chosen; all of a table are equally likely."""
    write_uniform(writer, table.index(chosen), len(table))


def read_choice(reader: BitReader, table: Sequence[_T]) -> _T:
    """Read what `write_choice` wrote."""
    return table[read_uniform(reader, len(table))]
