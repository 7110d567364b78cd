"""Adaptive coding of yes-or-no decisions by the range coder: each has a context, which learns how often it says yes.

After c yes among t decisions of a context, yes has the probability (c + 1/2) / (t + 1) of Krichevsky & Trofimov (1981),
as a whole multiple of 2**-24. A writer and a reader have the same methods, so one function can describe both
directions of a format. Integers are binarised: the length of n + 1 in unary, then its digits (Elias 1975), all adaptive
but the lowest digits of long ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable

import constriction
import numpy as np

from sublora.coding.bits import MAX_INTEGER_BITS
from sublora.coding.range_coder import TOTAL, model
from sublora.errors import MessageError

_LEARNED_DIGITS = 2
"""Digits after the leading one that are coded with contexts of their own."""


class Frequencies:
    """How often every context has said no and yes."""

    def __init__(self) -> None:
        self.counts: dict[Hashable, list[int]] = {}

    def yes(self, context: Hashable) -> int:
        """Return the frequency of yes, out of 2**24."""
        no, yes = self.counts.get(context, (0, 0))
        return min(max(TOTAL * (2 * yes + 1) // (2 * (no + yes) + 2), 1), TOTAL - 1)

    def learn(self, context: Hashable, value: int) -> None:
        """Count a decision."""
        self.counts.setdefault(context, [0, 0])[value] += 1


class Decisions(ABC):
    """What writers and readers have in common."""

    @abstractmethod
    def decide(self, context: Hashable, value: int | None) -> int:
        """Code one decision, and return it: a writer is given it, a reader is given None."""


class DecisionWriter(Decisions):
    """Encodes decisions."""

    def __init__(self) -> None:
        self.encoder = constriction.stream.queue.RangeEncoder()
        self._frequencies = Frequencies()

    def decide(self, context: Hashable, value: int | None) -> int:
        """Encode `value`, 0 or 1."""
        if value is None:
            raise ValueError("a writer needs to know the decision")
        yes = self._frequencies.yes(context)
        self.encoder.encode(value, model(np.array([TOTAL - yes, yes])))
        self._frequencies.learn(context, value)
        return value


class DecisionReader(Decisions):
    """Decodes what a `DecisionWriter` encoded, at most `limit` decisions."""

    def __init__(self, decoder: constriction.stream.queue.RangeDecoder, limit: int) -> None:
        self._decoder = decoder
        self._left = limit
        self._frequencies = Frequencies()

    def decide(self, context: Hashable, value: int | None = None) -> int:
        """Decode a decision."""
        if not self._left:
            raise MessageError("the payload goes on without end")
        self._left -= 1
        yes = self._frequencies.yes(context)
        value = int(self._decoder.decode(model(np.array([TOTAL - yes, yes]))))
        self._frequencies.learn(context, value)
        return value


def code_integer(coder: Decisions, context: Hashable, value: int | None) -> int:
    """Code an integer >= 0."""
    width = 0
    wanted = None if value is None else (value + 1).bit_length() - 1
    while coder.decide((context, "length", width), None if wanted is None else int(width < wanted)):
        width += 1
        if width >= MAX_INTEGER_BITS:
            raise MessageError(f"an integer of more than {MAX_INTEGER_BITS} bits")
    number = 1
    for digit in range(width):
        bit = None if value is None else (value + 1) >> (width - 1 - digit) & 1
        # The digits before are part of the context of those that are learned; the others are even.
        at = (context, "digit", width, number) if digit < _LEARNED_DIGITS else "even"
        number = number << 1 | coder.decide(at, bit)
    return number - 1
