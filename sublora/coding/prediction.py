"""What is predicted of a document's loss before its model is looked at: a part of the message."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sublora.coding.bits import BitReader, BitWriter
from sublora.errors import MessageError

SIXTEENTHS = 16
DOCUMENT_BITS = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CEILINGS = (0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0, 3 / 2, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
BYTES_OF_A_TOKEN = 4
"""Ceilings count per byte. Per token, where that is not a byte, they are so many times as high: fixed by the format."""


@dataclass(frozen=True)
class Prediction:
    """The predicted loss max(c g + a / s, g - R) of a document of s bytes (or tokens) that costs g per byte (or token)
    in the known code. The neutral prediction is g itself.

    A control variate: only what a model does otherwise than predicted is bounded for all models at once.
    """

    missing: int = 0
    """16 (1 - c): how much less than in the known code a document is predicted to cost, in sixteenths"""
    document: int = 0
    """which entry of `DOCUMENT_BITS` is a, the bits that every document costs besides"""
    ceiling: int = 0
    """which entry of `CEILINGS` is R, bits per byte that no document is predicted to save beyond"""

    def __post_init__(self) -> None:
        if not all(0 <= value < 16 for value in (self.missing, self.document, self.ceiling)):
            raise MessageError(f"no prediction is like this: {self}")

    @property
    def slope(self) -> float:
        """The factor c."""
        return 1 - self.missing / SIXTEENTHS

    @property
    def document_bits(self) -> int:
        """The bits a of a document."""
        return DOCUMENT_BITS[self.document]

    def ceiling_per(self, bytes_of_a_unit: int) -> float:
        """Return R for units of so many bytes: 1, or `BYTES_OF_A_TOKEN`."""
        return CEILINGS[self.ceiling] * bytes_of_a_unit

    def losses(
        self, known: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"], bytes_of_a_unit: int
    ) -> Float[np.ndarray, " n"]:
        """Return the predicted losses of documents.

        Args:
            known: price of each in the known code, in bits per byte (or token).
            sizes: its bytes (or tokens).
            bytes_of_a_unit: see `ceiling_per`.
        """
        return np.maximum(self.slope * known + self.document_bits / sizes, known - self.ceiling_per(bytes_of_a_unit))

    def limit(self, known: float, least: int, bytes_of_a_unit: int) -> float:
        """Return the largest prediction for documents of at least `least` bytes (or tokens).

        Args:
            known: the longest price per byte (or token) in the known code.
            least: size of the shortest document.
            bytes_of_a_unit: see `ceiling_per`.
        """
        return max(self.slope * known + self.document_bits / least, known - self.ceiling_per(bytes_of_a_unit))

    @property
    def bits(self) -> int:
        """Length of its code."""
        return 1 if self == NEUTRAL else 13


NEUTRAL = Prediction()


def write_prediction(writer: BitWriter, prediction: Prediction) -> None:
    """Write a bit that says whether there is one, and its three numbers in four bits each."""
    writer.field("prediction")
    writer.write(int(prediction != NEUTRAL), 1)
    if prediction != NEUTRAL:
        for value in (prediction.missing, prediction.document, prediction.ceiling):
            writer.write(value, 4)


def read_prediction(reader: BitReader) -> Prediction:
    """Read what `write_prediction` wrote; raises MessageError where it is not canonical."""
    if not reader.read(1):
        return NEUTRAL
    prediction = Prediction(reader.read(4), reader.read(4), reader.read(4))
    if prediction == NEUTRAL:
        raise MessageError("a prediction that predicts nothing, written out in full")
    return prediction
