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
            the model, more counts near ties too.
        k: so many other classes that are likelier make an error.
    """
    own, others = _split(logits, classes)
    return (others >= (own - np.float32(margin))[:, None]).sum(axis=1) >= k


def clear_errors(
    logits: Float32[np.ndarray, "m classes"], classes: Int64[np.ndarray, " m"], margin: float
) -> Bool[np.ndarray, " m"]:
    """Return which documents are classified wrongly where ties count for the model: the base of a comparison.

    Args:
        logits: of the classes.
        classes: the labels.
        margin: another class is likelier if its logit is above the label's plus this: 0 counts exact ties for the
            model, more counts near ties too.
    """
    own, others = _split(logits, classes)
    return (others > (own + np.float32(margin))[:, None]).sum(axis=1) > 0


def _split(
    logits: Float32[np.ndarray, "m classes"], classes: Int64[np.ndarray, " m"]
) -> tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, "m classes"]]:
    """The logits of the labels, and those of the other classes."""
    rows = np.arange(len(classes))
    others = logits.copy()
    others[rows, classes] = -np.inf
    return logits[rows, classes], others
