"""Random linear maps from d coordinates to D parameters: one table, one file per construction."""

from sublora.errors import ConfigError
from sublora.nn.operators.base import LinearOperator, Seed
from sublora.nn.operators.dense import DenseOperator
from sublora.nn.operators.fastfood import FastfoodOperator
from sublora.nn.operators.identity import IdentityOperator
from sublora.nn.operators.partition import PartitionOperator, SignedPartitionOperator
from sublora.nn.operators.rdkronqr import RDKronQROperator
from sublora.nn.operators.rkron import RDKronOperator, RKronOperator
from sublora.nn.operators.sparse import SparseOperator

__all__ = ["OPERATORS", "LinearOperator", "make_operator"]

OPERATORS: dict[str, type[LinearOperator]] = {
    "identity": IdentityOperator,
    "dense": DenseOperator,
    "sparse": SparseOperator,
    "fastfood": FastfoodOperator,
    "rkron": RKronOperator,
    "rdkron": RDKronOperator,
    "rdkronqr": RDKronQROperator,
    "partition": PartitionOperator,
    "partition_signed": SignedPartitionOperator,
}


def make_operator(kind: str, D: int, d: int, seed: Seed) -> LinearOperator:
    """Return the operator of a kind.

    Args:
        kind: a key of `OPERATORS`.
        D: number of parameters.
        d: number of coordinates, 1 <= d <= D (d = D for `identity`).
        seed: root seed followed by the names of the stream, as for `sublora.seeds.stream`. Operators with different
            names are independent.

    Raises:
        ConfigError: an unknown kind, or sizes that the kind does not allow.
    """
    if kind not in OPERATORS:
        raise ConfigError(f"operator {kind!r} not recognized: use one of {', '.join(OPERATORS)}")
    return OPERATORS[kind](D, d, seed)
