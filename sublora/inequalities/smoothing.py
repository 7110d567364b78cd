"""Making the loss bounded: two ways to keep every probability away from zero. Torch-free.

V is the number of tokens that can occur at a position, T the number of tokens of a document.
"""

import math

import numpy as np
from jaxtyping import Float, Int

# Values of a that token smoothing is tried with (Lotfi et al. 2024).
TOKEN_SMOOTHING_GRID = (1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.25, 0.5)


def token_smoothing_range(a: float, vocab_size: int) -> tuple[float, float]:
    """Return the limits, in bits per token, of the loss of p' = (1-a) p + a/V.

    They are -log2(1 - a + a/V), when p is 1, and log2(V/a), when p is 0 (Lotfi et al. 2024).

    Args:
        a: smoothing, in (0, 1).
        vocab_size: V.

    Raises:
        ValueError: a outside (0, 1), or no tokens.
    """
    _check(a, vocab_size)
    return -math.log2(1 - a + a / vocab_size), math.log2(vocab_size / a)


def token_smoothing_bits(bits: Float[np.ndarray, " n"], a: float, vocab_size: int) -> Float[np.ndarray, " n"]:
    """Return the bits of tokens under p' = (1-a) p + a/V, as float64.

    Args:
        bits: -log2 p of each token.
        a: smoothing, in (0, 1).
        vocab_size: V.

    Raises:
        ValueError: a outside (0, 1), or no tokens.
    """
    _check(a, vocab_size)
    return -np.log2((1 - a) * np.exp2(-bits.astype(np.float64)) + a / vocab_size)


def mixture_excess(
    bits: Float[np.ndarray, " n"],
    fallback_bits: Float[np.ndarray, " n"],
    lengths: Int[np.ndarray, " n"],
    weight: float,
) -> Float[np.ndarray, " n"]:
    """Return by how much documents cost more under p'(document) = (1-e) p(document) + e q(document) than under q.

    q is a code that was known beforehand. The mixture is over whole documents, so the price log2(1/e) of a document
    that the model finds impossible, and the price log2(1/(1-e)) of any other, are paid once per document rather than
    once per token.

    Args:
        bits: -log2 p(document), >= 0; may be infinite.
        fallback_bits: -log2 q(document), >= 0.
        lengths: T, tokens of each document, >= 1.
        weight: e, in (0, 1).

    Returns:
        (-log2 p'(document) + log2 q(document)) / T per document, as float64; usually negative.

    Raises:
        ValueError: negative bits or NaN, an empty document, e outside (0, 1).
    """
    _check(weight)
    if not ((bits >= 0).all() and (fallback_bits >= 0).all()):
        raise ValueError("the bits of a document are negative or not a number")
    if not (lengths >= 1).all():
        raise ValueError("a document has no tokens")
    gained = math.log1p(-weight) / math.log(2) + (fallback_bits - bits.astype(np.float64))
    return -np.logaddexp2(gained, math.log2(weight)) / lengths


def mixture_bits(
    bits: Float[np.ndarray, " n"],
    fallback_bits: Float[np.ndarray, " n"],
    lengths: Int[np.ndarray, " n"],
    weight: float,
) -> Float[np.ndarray, " n"]:
    """Return the length of documents in the mixture of a code and what it falls back on, in bits.

    Args:
        bits: lengths of the documents in the code.
        fallback_bits: lengths in what it falls back on.
        lengths: as in `mixture_excess`; >= 1.
        weight: of what it falls back on, in (0, 1).
    """
    return fallback_bits + lengths * mixture_excess(bits, fallback_bits, lengths, weight)


def excess_upper(weight: float, min_tokens: int) -> float:
    """Return log2(1/e)/T_min, the limit of `mixture_excess` for documents of at least T_min tokens.

    Args:
        weight: e, in (0, 1).
        min_tokens: T_min, by a rule fixed before the data is seen; 1 excludes nothing.

    Raises:
        ValueError: e outside (0, 1), T_min < 1.
    """
    _check(weight)
    if min_tokens < 1:
        raise ValueError(f"documents have at least one token, not {min_tokens}")
    return math.log2(1 / weight) / min_tokens


def _check(weight: float, vocab_size: int = 1) -> None:
    if not 0 < weight < 1:
        raise ValueError(f"a smoothing weight of {weight} must lie inside (0, 1)")
    if vocab_size < 1:
        raise ValueError(f"a vocabulary of {vocab_size} tokens")
