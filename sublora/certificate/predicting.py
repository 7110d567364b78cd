"""Which prediction of losses makes the claim smallest: a search from the neutral one. Torch-free."""

import dataclasses
from collections.abc import Callable

from sublora.coding.prediction import CEILINGS, DOCUMENT_BITS, NEUTRAL, SIXTEENTHS, Prediction

_VALUES = {"missing": range(SIXTEENTHS), "document": range(len(DOCUMENT_BITS)), "ceiling": range(len(CEILINGS))}
# A smaller slope needs a ceiling to be of use, so the search begins from one that has both as well.
_STARTS = (NEUTRAL, Prediction(missing=5, document=4, ceiling=6))
_ROUNDS = 3


def best_prediction(cost: Callable[[Prediction], float]) -> Prediction:
    """Return the prediction of least cost that changing one number after the other finds.

    Args:
        cost: the estimated claim.
    """
    found = []
    for start in _STARTS:
        best, least = start, cost(start)
        for _ in range(_ROUNDS):
            before = best
            for name, values in _VALUES.items():
                for value in values:
                    tried = dataclasses.replace(best, **{name: value})
                    if tried != best and (price := cost(tried)) < least:
                        best, least = tried, price
            if best == before:
                break
        found.append((least, best))
    return min(found, key=lambda pair: pair[0])[1]
