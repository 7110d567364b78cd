"""Which documents a classifier gets wrong, from the logits of the classes. Torch-free."""

import numpy as np
from jaxtyping import Bool, Float32, Int64

RANK_MARGIN = 1e-4
"""A near tie of logits counts against the model when it is issued: another machine may decide it so."""


def label_errors(
    logits: Float32[np.ndarray, "m classes"], classes: Int64[np.ndarray, " m"], margin: float
) -> Bool[np.ndarray, " m"]:
    """Return which documents are classified wrongly.

    Args:
        logits: of the classes.
        classes: the labels.
        margin: another class whose logit is at least the label's minus this is an error: 0 counts exact ties against
            the model, more counts near ties too.
    """
    rows = np.arange(len(classes))
    own = logits[rows, classes].copy()
    others = logits.copy()
    others[rows, classes] = -np.inf
    return others.max(axis=1) >= own - np.float32(margin)
