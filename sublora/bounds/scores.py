"""Losses of documents: what a risk is measured from, and what a bound is computed from. Torch-free."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sublora.errors import CertificateError

TOP_K = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100)


@dataclass(frozen=True)
class Scores:
    """Losses of documents; rows are documents in the order asked for.

    bits: -log2 p(document given its length).
    lengths: tokens of the document.
    byte_lengths: bytes of the document, 0 where they are unknown.
    smoothed: bits per token under token smoothing, a column per value of TOKEN_SMOOTHING_GRID.
    errors: share of tokens that are not among the k most probable, a column per k of TOP_K; ties count as errors.
    """

    bits: Float[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    byte_lengths: Int[np.ndarray, " n"]
    smoothed: Float[np.ndarray, "n a"]
    errors: Float[np.ndarray, "n k"]

    def take(self, rows: Int[np.ndarray, " m"]) -> "Scores":
        """Return the scores of some rows, which may repeat."""
        return Scores(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to_bytes(self) -> bytes:
        """Return the scores as a safetensors file."""
        return save({name: np.ascontiguousarray(array) for name, array in asdict(self).items()})


def read_scores(path: Path) -> Scores:
    """Read what `Scores.to_bytes` made.

    Raises:
        CertificateError: the file is missing or damaged.
    """
    try:
        return Scores(**load(path.read_bytes()))
    except OSError as error:
        raise CertificateError(f"cannot read the losses {path}: {error.strerror}") from error
    except (SafetensorError, TypeError) as error:
        raise CertificateError(f"the losses {path} are damaged: {error}") from error
