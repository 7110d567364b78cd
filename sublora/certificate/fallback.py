"""What a bound knows of the fallback code: its longest price, and how long a new unit is in it. Torch-free."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sublora.corpus.units import Units
from sublora.inequalities import betting

# Share of delta that pays for the expected length of a unit in the fallback code.
FALLBACK_SHARE = 0.1


@dataclass(frozen=True)
class Fallback:
    """A code that was known before the corpus, as far as a bound depends on it.

    code: its name.
    limit: the longest price of a token, in bits.
    per_token, per_byte: upper bounds on a new unit's expected length, in bits; per_byte is None where bytes are
        unknown.
    """

    code: str
    limit: float
    per_token: float
    per_byte: float | None


def measure_fallback(units: Units, delta: float) -> Fallback:
    """Return what a certificate says of the fallback code, from all n units.

    Args:
        units: the training units.
        delta: of the certificate; `FALLBACK_SHARE` of it is spent here, once for all claims.
    """
    split, limit = units.split, units.fallback.limit
    bits = units.fallback_bits()
    per_byte = None
    if split.byte_lengths is not None and split.byte_lengths.all():
        per_byte = _expected(bits / split.byte_lengths, limit, delta)
    return Fallback(units.fallback.name, limit, _expected(bits / split.lengths, limit, delta), per_byte)


def _expected(lengths: Float[np.ndarray, " n"], limit: float, delta: float) -> float:
    """An upper bound on the mean that lengths were drawn with. Per token and per byte each get half of the share."""
    return betting(lengths, upper=limit, nats=math.log(2 / (FALLBACK_SHARE * delta)))
