"""How wide a token is in files: 16 bits where the vocabulary fits, as in nanoGPT's, 32 bits elsewhere. Torch-free."""

import numpy as np

NARROW, WIDE = np.dtype("<u2"), np.dtype("<u4")
MAX_VOCABULARY = 1 << 20
"""A code has a price for every token, and no message of a few bytes may ask for gigabytes."""


def token_type(vocab_size: int) -> np.dtype:
    """Return the type of the tokens of a file, which follows from the vocabulary alone.

    Args:
        vocab_size: number of tokens, end-of-text included, at most `MAX_VOCABULARY`.
    """
    return NARROW if vocab_size <= 1 << 16 else WIDE
