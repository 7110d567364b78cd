"""Which prediction of losses makes the claim smallest. Torch-free.

A message can say 4,096 predictions, but they are compared on a few dozen documents, and the best of so many on so few
is worse on others than a usual one. So a handful is tried: slopes and ceilings around those that were best for models
of subwords over an n-gram (docs/log.md), with a document's own price of 8 bits, and no prediction.
"""

from collections.abc import Callable

from sublora.coding.prediction import NEUTRAL, Prediction

# Slopes .81, .69 and .56, and ceilings of 1/4 to 3/4 bits per byte.
TRIED = (NEUTRAL, *(Prediction(missing, 5, ceiling) for missing in (3, 5, 7) for ceiling in (4, 5, 6, 7)))


def best_prediction(cost: Callable[[Prediction], float]) -> Prediction:
    """Return the prediction of least cost among those that are tried.

    Args:
        cost: the estimated claim.
    """
    return min(TRIED, key=cost)
