"""What training recorded, one record per line: reading it, and taking a column of it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sublora.certificate.model import Certificate
from sublora.errors import SubloraError

Record = dict[str, Any]
_LISTS = ("grad_norm_a", "grad_norm_b", "gamma")


def read_metrics(path: Path) -> list[Record]:
    """Read the records of a run.

    Raises:
        SubloraError: the file is missing, empty or damaged, or a record is not one.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SubloraError(f"cannot read {path}: {error.strerror}; give a folder that `sublora train` wrote") from error
    if not lines:
        raise SubloraError(f"{path} is empty: the run recorded nothing")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise SubloraError(f"{path}, line {number}, is damaged: {error}") from error
    return check_metrics(records, f"{path}, line")


def check_metrics(records: Iterable[Any], where: str) -> list[Record]:
    """Return the records if they can be drawn.

    Args:
        records: objects with a kind, a step and numbers.
        where: what precedes the number of a record in an error.

    Raises:
        SubloraError: a record without kind or step, a number that is not finite, or layers that come and go.
    """
    records = list(records)
    layers: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or "kind" not in record or not isinstance(record.get("iter"), int):
            raise SubloraError(f"{where} {number}: not a record with a kind and an iter")
        for name, value in record.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, float) and not math.isfinite(item):
                    raise SubloraError(
                        f"{where} {number}: {name} is {item} at step {record['iter']}: "
                        "the run diverged; lower the learning rate and train again"
                    )
            if name in _LISTS and isinstance(value, list) and layers.setdefault(name, len(value)) != len(value):
                raise SubloraError(f"{where} {number}: {name} has {len(value)} layers, before it had {layers[name]}")
    return records


def loss_unit(batching: str | None, certificate: Certificate | None) -> str:
    """Return what recorded losses are in, as `sublora.corpus.batches.Batches.unit` decided it.

    Args:
        batching: `data.batching` of the run; None where it is not known.
        certificate: shows whether the bytes of documents are known; None: "bits" is all that can be said of them.
    """
    if batching == "labels":
        return "bits per label"
    if batching != "documents":
        return "bits per token"
    if certificate is None:
        return "bits"
    return "bits per token" if certificate.claim("bpb") is None else "bits per byte"


def column(metrics: list[Record], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of the records of a kind that have a value, and their values (one row per step)."""
    rows = [(r["iter"], r[name]) for r in metrics if r["kind"] == kind and r.get(name) is not None]
    return np.array([i for i, _ in rows]), np.array([v for _, v in rows])


def smooth(values: Float[np.ndarray, " n"], half_life: float) -> Float[np.ndarray, " n"]:
    """Return the running average whose weights halve every `half_life` records, unbiased from the first record on."""
    keep = 0.5 ** (1 / half_life)
    total, weight = 0.0, 0.0
    out = np.empty(len(values))
    for i, value in enumerate(values):
        total, weight = keep * total + value, keep * weight + 1
        out[i] = total / weight
    return out
