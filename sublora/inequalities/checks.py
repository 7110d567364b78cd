"""What every inequality needs first: losses that obey their limits, and the price of a message in nats."""

import math

import numpy as np
from jaxtyping import Float

# float32 losses of up to 16 bits are off by less than this; so far may a loss lie outside its limits by rounding.
ROUNDING = 1e-6


def nats(bits: int, delta: float) -> float:
    """Return K ln 2 + ln(1/delta), the exponent that covers all messages of a prefix-free code at once.

    If a bound fails for one fixed model with probability at most e^-nats, then the probability that it fails for any
    model is at most delta times the sum of 2^-K over all messages, and that sum is at most 1 (Kraft's inequality).

    Args:
        bits: K, length of the message in bits.
        delta: probability that the claim may fail, in (0, 1).

    Raises:
        ValueError: delta outside (0, 1), or a negative length.
    """
    check_delta(delta)
    if bits < 0:
        raise ValueError(f"a message cannot have {bits} bits")
    return bits * math.log(2) + math.log(1 / delta)


def check_delta(delta: float) -> None:
    """Raise ValueError unless delta is inside (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}, but must lie inside (0, 1)")


def check_nats(value: float) -> None:
    """Raise ValueError unless the exponent is a number that is not negative."""
    if not 0 <= value < math.inf:
        raise ValueError(f"the exponent is {value} nats, but must be finite and not negative")


def checked_losses(losses: Float[np.ndarray, " n"], upper: float, lower: float = -math.inf) -> Float[np.ndarray, " n"]:
    """Return the losses as float64 inside [lower, upper]; losses of lower precision are rounded up by `ROUNDING`.

    Raises:
        ValueError: no losses, a loss that is not a finite number or lies outside its limits by more than `ROUNDING`.
    """
    if not (lower < upper < math.inf):
        raise ValueError(
            f"the limits of the loss are {lower} and {upper}, but must be increasing, and the upper one finite"
        )
    if losses.size == 0:
        raise ValueError("a bound needs at least one loss")
    smallest, largest = float(losses.min()), float(losses.max())
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise ValueError("a loss is not a finite number")
    if largest > upper + ROUNDING:
        raise ValueError(f"a loss of {largest} is above the upper limit {upper}")
    if smallest < lower - ROUNDING:
        raise ValueError(f"a loss of {smallest} is below the lower limit {lower}")
    margin = 0.0 if losses.dtype == np.float64 else ROUNDING
    return np.clip(losses.astype(np.float64) + margin, lower, upper)
