"""Numbers of a claim in words: always rounded to the side on which the claim stays true. Torch-free."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction

# Bounds are stored with so many decimals.
DIGITS = 6


def store_up(value: float) -> float:
    """Return the smallest number of `DIGITS` decimals that is at least the value."""
    scaled = math.ceil(Fraction(value) * 10**DIGITS)
    return scaled / 10**DIGITS


def store_down(value: float) -> float:
    """Return the largest number of `DIGITS` decimals that is at most the value."""
    return -store_up(-value)


def upward(value: float, digits: int) -> str:
    """Return an upper bound with so many decimals, rounded up."""
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def downward(value: float, digits: int) -> str:
    """Return a lower bound with so many decimals, rounded down."""
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def confidence(delta: Fraction) -> str:
    """Return 1 - delta in per cent, exactly: no digit is rounded away."""
    percent = 100 * (1 - delta)
    digits = next(d for d in range(64) if 10**d % percent.denominator == 0)
    text = f"{int(percent * 10**digits):0{digits + 1}d}"
    return f"{text[:-digits]}.{text[-digits:]} %" if digits else f"{text} %"
