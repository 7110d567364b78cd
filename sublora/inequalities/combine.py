"""The best of several bounds, paid for."""

import math
from collections.abc import Callable, Sequence


def weighted_minimum(bounds: Sequence[tuple[float, Callable[[float], float]]], nats: float) -> float:
    """Return the smallest of several bounds, each computed with its own share of delta.

    A bound of weight w is computed with nats + ln(1/w): the union bound over bounds. `[(0.9, betting), (0.1, kl)]`
    makes the betting bound pay 0.11 nats and the kl bound 2.3.

    Args:
        bounds: pairs of a weight and a function from an exponent in nats to a bound.
        nats: K ln 2 + ln(1/delta).

    Raises:
        ValueError: weights that are not positive or add up to more than 1.
    """
    weights = [weight for weight, _ in bounds]
    if not weights or min(weights) <= 0 or math.fsum(weights) > 1 + 1e-12:
        raise ValueError(f"the weights {weights} must be positive and add up to at most 1")
    return min(bound(nats + math.log(1 / weight)) for weight, bound in bounds)
