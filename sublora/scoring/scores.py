"""Losses of the units that were measured: what a bound is computed from. Torch-free."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sublora.errors import CertificateError
from sublora.files import read_bytes
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID

TOP_K = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100)


@dataclass(frozen=True)
class Scores:
    """Losses of units (documents, or blocks of tokens); rows are units in the order asked for.

    bits: -log2 p(unit given its length).
    lengths: tokens of the unit.
    byte_lengths: bytes of the unit, 0 where they are unknown.
    known: length of the unit in the code known beforehand, in bits.
    base_bits: -log2 of the unit's probability under the pretrained base, and in a second column behind the message's
        prompt, where it has prompt and adapter; no columns with a random base.
    smoothed: bits per token under token smoothing, a column per value of TOKEN_SMOOTHING_GRID.
    misses: tokens that are not among the k most probable, a column per k of TOP_K; ties count as misses.
    token_bits: -log2 p of every token of a unit, for claims about tokens; no columns elsewhere.
    """

    bits: Float[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    byte_lengths: Int[np.ndarray, " n"]
    known: Float[np.ndarray, " n"]
    base_bits: Float[np.ndarray, "n b"]
    smoothed: Float32[np.ndarray, "n a"]
    misses: Int[np.ndarray, "n k"]
    token_bits: Float32[np.ndarray, "n t"]

    @staticmethod
    def zeros(n: int, tokens: int) -> "Scores":
        """Return scores of n units, to be filled in; `tokens` is the number of columns of token_bits."""
        return Scores(
            bits=np.zeros(n),
            lengths=np.zeros(n, np.int64),
            byte_lengths=np.zeros(n, np.int64),
            known=np.zeros(n),
            base_bits=np.zeros((n, 0)),
            smoothed=np.zeros((n, len(TOKEN_SMOOTHING_GRID)), np.float32),
            misses=np.zeros((n, len(TOP_K)), np.int64),
            token_bits=np.zeros((n, tokens), np.float32),
        )

    @property
    def errors(self) -> Float[np.ndarray, "n k"]:
        """Share of a unit's tokens that are not among the k most probable."""
        return self.misses / self.lengths[:, None]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, rows: Int[np.ndarray, " m"]) -> "Scores":
        """Return the scores of some rows, which may repeat."""
        return Scores(**{name: array[rows] for name, array in self.arrays().items()})

    def put(self, rows: Int[np.ndarray, " m"], scores: "Scores") -> None:
        """Write scores into some rows."""
        for name, array in scores.arrays().items():
            getattr(self, name)[rows] = array

    def to_bytes(self) -> bytes:
        """Return the scores as a safetensors file, counts in the smallest integers that hold them."""
        return save({name: np.ascontiguousarray(_narrow(array)) for name, array in self.arrays().items()})


def _narrow(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "f" else array.astype(np.min_scalar_type(int(array.max(initial=0))))


def read_scores(path: Path) -> Scores:
    """Read what `Scores.to_bytes` made.

    Raises:
        CertificateError: the file is missing or damaged.
    """
    try:
        arrays = load(read_bytes(path, "the losses", CertificateError))
        scores = Scores(**{name: a if a.dtype.kind == "f" else a.astype(np.int64) for name, a in arrays.items()})
    except (SafetensorError, TypeError, KeyError) as error:
        raise CertificateError(f"the losses {path} are damaged: {error}") from error
    if not _possible(scores):
        raise CertificateError(f"the losses {path} are damaged: no units have these")
    return scores


def _possible(scores: Scores) -> bool:
    """Whether arrays have the shapes and the kinds of numbers that units have."""
    expected = Scores.zeros(len(scores.bits) if scores.bits.ndim == 1 else 0, 0).arrays()
    columns = {"base_bits": (0, 1, 2), "token_bits": range(scores.token_bits.size + 1)}
    for name, array in scores.arrays().items():
        like = expected[name]
        wide = array.ndim == like.ndim and (array.ndim == 1 or array.shape[1] in columns.get(name, like.shape[1:]))
        if not wide or len(array) != len(like) or array.dtype.kind != like.dtype.kind:
            return False
        # Written so that NaN is refused.
        if not (array >= (name == "lengths")).all() or not np.isfinite(array).all():
            return False
    return True
