"""Which documents a classifier gets wrong, from the logits of the classes. Torch-free."""

import numpy as np
from jaxtyping import Bool, Float32, Int64

RANK_MARGIN = 1e-4
"""A near tie of logits counts against the model when it is issued: another machine may decide it so."""


def label_errors(
    logits: Float32[np.ndarray, "m classes"], classes: Int64[np.ndarray, " m"], margin: float, k: int = 1
) -> Bool[np.ndarray, " m"]:
    """Return which documents have a label that is not among the k likeliest: with k = 1, those classified wrongly.

    Args:
        logits: of the classes.
        classes: the labels.
        margin: another class is likelier if its logit is at least the label's minus this: 0 counts exact ties against
            the model, more counts near ties too, and less than 0 counts near ties for it.
        k: so many other classes that are likelier make an error.
    """
    rows = np.arange(len(classes))
    own = logits[rows, classes].copy()
    others = logits.copy()
    others[rows, classes] = -np.inf
    return (others >= (own - np.float32(margin))[:, None]).sum(axis=1) >= k
