"""Predictions of a token's loss that are made before it is seen."""

import numpy as np


def running_mean(losses, first):
    """Return, for every token, the mean of `first` and of the losses before it.

    Args:
        losses: of M successive tokens.
        first: the prediction for the first token, fixed beforehand.
    """
    before = np.concatenate([[first], losses[:-1].astype(np.float64)])
    return np.cumsum(before) / np.arange(1, len(losses) + 1)
