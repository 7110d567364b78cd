"""The operators P: one file a construction, and one table of them."""

from sublora.errors import ConfigError
from sublora.nn.operators.base import LinearOperator, Seed
from sublora.nn.operators.dense import Dense
from sublora.nn.operators.fastfood import Fastfood
from sublora.nn.operators.identity import Identity
from sublora.nn.operators.kronecker import Rdkron, Rdkronqr, Rkron
from sublora.nn.operators.partition import Partition, PartitionSigned
from sublora.nn.operators.sparse import Sparse

__all__ = ["OPERATORS", "LinearOperator", "make_operator"]

OPERATORS: dict[str, type[LinearOperator]] = {
    "dense": Dense,
    "sparse": Sparse,
    "fastfood": Fastfood,
    "rkron": Rkron,
    "rdkron": Rdkron,
    "rdkronqr": Rdkronqr,
    "partition": Partition,
    "partition_signed": PartitionSigned,
    "identity": Identity,
}


def make_operator(kind: str, D: int, d: int, seed: Seed) -> LinearOperator:
    """Return an operator of shape (D, d).

    Args:
        kind: a key of OPERATORS.
        D, d: numbers of parameters and coordinates, 1 <= d <= D.
        seed: root seed and names of its random stream.

    Raises:
        ConfigError: an unknown kind, or sizes that do not fit.
    """
    if kind not in OPERATORS:
        raise ConfigError(f"intrinsic_mode {kind!r} not recognized: {', '.join(OPERATORS)}")
    return OPERATORS[kind](D, d, seed)
