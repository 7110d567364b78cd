"""What a classifier and its base say of the documents that were measured: the file a claim follows from. Torch-free."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sublora.errors import CertificateError
from sublora.files import read_bytes


@dataclass(frozen=True)
class Predictions:
    """Rows are documents in the order of the draw, and columns classes.

    Attributes:
        documents: numbers of the documents.
        classes: their labels.
        logits: of the classifier.
        base_logits: of the base with the same prompt and tokens for classes.
    """

    documents: Int64[np.ndarray, " m"]
    classes: Int64[np.ndarray, " m"]
    logits: Float32[np.ndarray, "m classes"]
    base_logits: Float32[np.ndarray, "m classes"]

    def to_bytes(self) -> bytes:
        """Return the predictions as a safetensors file."""
        return save({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)})


def read_predictions(path: Path, classes: int) -> Predictions:
    """Read what `Predictions.to_bytes` made.

    Args:
        path: of the file.
        classes: how many there are.

    Raises:
        CertificateError: the file is missing or damaged.
    """
    damaged = f"the predictions {path} are damaged"
    try:
        arrays = load(read_bytes(path, "the predictions", CertificateError))
    except SafetensorError as error:
        raise CertificateError(f"{damaged}: {error}") from error
    m = len(arrays.get("documents", ()))
    shapes = {"documents": (m,), "classes": (m,), "logits": (m, classes), "base_logits": (m, classes)}
    types = {"documents": np.int64, "classes": np.int64, "logits": np.float32, "base_logits": np.float32}
    if {name: array.shape for name, array in arrays.items()} != shapes or not m:
        raise CertificateError(f"{damaged}: they have other shapes than {m} documents of {classes} classes have")
    if any(arrays[name].dtype != types[name] or not np.isfinite(arrays[name]).all() for name in shapes):
        raise CertificateError(f"{damaged}: they hold something else than logits and classes")
    if not ((arrays["classes"] >= 0) & (arrays["classes"] < classes) & (arrays["documents"] >= 0)).all():
        raise CertificateError(f"{damaged}: a document has a class that is none of {classes}")
    return Predictions(**arrays)
