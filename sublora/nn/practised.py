"""A frame that a base brings with it: the directions and sizes of what adapting it to known documents moved.

`sublora practise` makes it. It lies beside the weights, and the base is named by both: a message that names such a base
is decoded with this frame and no other. So the frame costs the message nothing, as the weights cost it nothing.

Shape suffixes: o outputs, i inputs, r rank.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sublora.errors import ConfigError
from sublora.files import read_bytes, write_bytes
from sublora.nn.sources import find_source
from sublora.nn.spectral import Frame
from sublora.run_folder import RunFolder

_SIDES = ("left", "right", "scale")
MAX_BYTES = 1 << 31


@dataclass(frozen=True, eq=False)
class Practised:
    """The frames of a base's layers by their names, and their hash."""

    frames: Mapping[str, Frame]
    sha256: str


def hash_frames(frames: Mapping[str, Frame]) -> str:
    """Return SHA-256 over the names, shapes and float32 bytes of all frames."""
    digest = hashlib.sha256()
    for name, frame in sorted(frames.items()):
        for side, values in zip(_SIDES, (frame.left_or, frame.right_ri, frame.scale_rr), strict=True):
            digest.update(f"{name}.{side}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()


def with_frame(weights_sha256: str, frame_sha256: str | None) -> str:
    """Return the hash that names a base: of its weights, or of weights and frame where it brings one."""
    if frame_sha256 is None:
        return weights_sha256
    return hashlib.sha256(f"{weights_sha256} {frame_sha256}".encode()).hexdigest()


def named_by(source: str, weights_sha256: str) -> tuple[str, Practised | None]:
    """Return the hash that names a base of these weights, and the frame that it brings, None where it brings none.

    Raises:
        ConfigError: the frame is damaged.
    """
    practised = read_practised(source)
    return with_frame(weights_sha256, practised.sha256 if practised else None), practised


def write_frames(folder: Path, frames: Mapping[str, Frame]) -> None:
    """Write the frames of a base into its folder."""
    tensors: dict[str, np.ndarray] = {}
    for name, frame in frames.items():
        for side, values in zip(_SIDES, (frame.left_or, frame.right_ri, frame.scale_rr), strict=True):
            tensors[f"{name}.{side}"] = np.ascontiguousarray(values, np.float32)
    write_bytes(RunFolder(folder).frame, save(tensors))


def read_practised(source: str) -> Practised | None:
    """Return the frame that a base brings with it, None where it brings none.

    Args:
        source: of the base, see `sublora.nn.sources.find_source`; only folders have frames.

    Raises:
        ConfigError: the file is damaged.
    """
    found = find_source(source)
    if found.kind != "folder" or not (path := RunFolder(found.path).frame).is_file():
        return None
    try:
        tensors = load(read_bytes(path, "the frame of a base", ConfigError, MAX_BYTES))
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged: practise again") from error
    names = sorted({name.rpartition(".")[0] for name in tensors})
    if not names or sorted(tensors) != sorted(f"{name}.{side}" for name in names for side in _SIDES):
        raise ConfigError(f"{path} is damaged: it does not hold two sides and a scale for every layer")
    frames = {}
    for name in names:
        left, right, scale = (tensors[f"{name}.{side}"] for side in _SIDES)
        if any(v.ndim != 2 or v.dtype != np.float32 or not np.isfinite(v).all() for v in (left, right, scale)) or (
            scale.shape != (right.shape[0], right.shape[0]) or left.shape[1] != right.shape[0]
        ):
            raise ConfigError(f"{path} is damaged: the frame of {name} is not one")
        frames[name] = Frame(left, right, scale)
    return Practised(frames, hash_frames(frames))
