"""Checks of values, with errors that say what is legal."""

import math
from collections.abc import Sequence

from sublora.errors import ConfigError


def check_choice(name: str, value: str, legal: Sequence[str]) -> None:
    """Refuse a value that is none of the legal ones.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in legal:
        words = f"{', '.join(legal[:-1])} or {legal[-1]}" if len(legal) > 1 else legal[0]
        raise ConfigError(f"{name} {value!r} not recognized: {words}")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside [low, high].

    Raises:
        ConfigError: it lies outside.
    """
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} is {value}, but must be {limits}")
