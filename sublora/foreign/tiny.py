"""A TinyLoRA adapter of PEFT as cores between the base's singular vectors.

TinyLoRA (2026, arXiv:2602.04118) changes a layer by B R A with A and B made of the base's leading singular vectors and
R = v_1 P_1 + ... + v_u P_u, of random matrices P. A message of spectral cores has a place for R in the same frame
(`sublora.nn.spectral`), and holds R itself: r x r numbers for every layer, where TinyLoRA trained u numbers for every
group of layers.

Shape suffixes: o outputs, i inputs, r rank, u numbers of a group.
"""

import re

import torch
from jaxtyping import Float64
from torch import Tensor
from transformers import PreTrainedModel

from sublora.config import Sublora
from sublora.errors import AdapterError
from sublora.foreign.layers import PREFIX, Expressed, Place
from sublora.foreign.reading import ForeignAdapter, shown
from sublora.nn.spectral import frames_of
from sublora.nn.weights import hash_weights

_READ = ("r", "u", "weight_tying")
_WITHOUT_EFFECT = ("projection_seed", "save_projection", "tinylora_dropout", "init_v_bound", "init_weights")
_VECTOR = "base_model.tinylora_v."
_NUMBER = re.compile(r"[0-9]{1,9}")
_PARTS = ("tinylora_A", "tinylora_B", "tinylora_P")
# Share of a side that may lie outside the base's singular vectors: float32 leaves about 1e-6.
_OUTSIDE = 1e-3


def as_cores(adapter: ForeignAdapter, base: PreTrainedModel) -> Expressed:
    """Return a TinyLoRA in the terms of a message.

    Args:
        adapter: of kind TINYLORA.
        base: that it was trained on.

    Raises:
        AdapterError: it is no plain TinyLoRA, lacks its projections, or is that of another base.
        ConfigError: the base has no linear layers.
    """
    adapter.require_plain(_READ, _WITHOUT_EFFECT)
    place = Place.of(base)
    vectors, layers = _parts(adapter)
    # In the order that PEFT numbers layers in.
    names = [name for name, _ in base.named_modules() if name in layers]
    for name in layers:
        outputs, inputs = place.shape(name, adapter)
        _check_shapes(adapter, name, layers[name], outputs, inputs)
    if place.head in layers:
        raise AdapterError("the adapter changes the output head, where cores have no place: train one without it")
    rank = max(len(parts["tinylora_A"]) for parts in layers.values())
    targets = place.targets(layers)
    frames = frames_of(base, targets, rank, hash_weights(base))
    values = {}
    for number, name in enumerate(names):
        parts, frame = layers[name], frames[name]
        v = vectors.get(_group(number, len(names), adapter))
        if v is None or len(v) != len(parts["tinylora_P"]):
            raise AdapterError(f"the adapter's numbers for {name} are missing or are not as many as its projections")
        inner = torch.einsum("u,urs->rs", v.double(), parts["tinylora_P"].double())
        left, right = torch.from_numpy(frame.left_or).double(), torch.from_numpy(frame.right_ri).double()
        b_rr = _within(parts["tinylora_B"].double(), left, name, adapter)
        a_rr = _within(parts["tinylora_A"].double().t(), right.t(), name, adapter).t()
        values[f"{name}.core"] = (b_rr @ inner @ a_rr).float()
    return Expressed(Sublora(adapter="spectral", targets=targets, spectral_r=rank, intrinsic_dim=0), values)


def _parts(adapter: ForeignAdapter) -> tuple[dict[int, Tensor], dict[str, dict[str, Tensor]]]:
    """The trained vectors by their number, and the fixed matrices of every layer by its name."""
    vectors: dict[int, Tensor] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        layer, _, part = name.removeprefix(PREFIX).rpartition(".")
        number = name.removeprefix(_VECTOR)
        if name.startswith(PREFIX) and part in _PARTS:
            layers.setdefault(layer, {})[part] = tensor
        elif name.startswith(_VECTOR) and _NUMBER.fullmatch(number) and tensor.ndim == 1:
            vectors[int(number)] = tensor
        else:
            raise AdapterError(
                f"the adapter's tensor {shown(name)} is no part of a plain TinyLoRA: train one without it"
            )
    if not layers or any(len(parts) != len(_PARTS) for parts in layers.values()):
        raise AdapterError("the adapter lacks matrices of its layers: save it with save_projection=True")
    return vectors, layers


def _check_shapes(adapter: ForeignAdapter, name: str, parts: dict[str, Tensor], outputs: int, inputs: int) -> None:
    shapes = [tuple(parts[part].shape) for part in _PARTS]
    rank = shapes[0][0] if shapes[0] else 0
    if not rank or shapes[:2] != [(rank, inputs), (outputs, rank)] or shapes[2][1:] != (rank, rank):
        raise AdapterError(
            f"the adapter's matrices of {name} have shapes {shapes}, and do not fit this base: give the base that it "
            f"was trained on (it names {adapter.base_name})"
        )


def _group(number: int, count: int, adapter: ForeignAdapter) -> int:
    """Which vector a layer reads, as PEFT divides layers into groups."""
    tying = adapter.settings.get("weight_tying", 0.0)
    if isinstance(tying, bool) or not isinstance(tying, int | float) or not 0 <= tying <= 1:
        raise AdapterError(f"the adapter's weight_tying is {shown(tying)}, and must lie between 0 and 1")
    groups = max(1, round(count * (1 - tying)))
    return min(number // max(1, count // groups), groups - 1)


def _within(
    side: Float64[Tensor, "n k"], frame: Float64[Tensor, "n r"], name: str, adapter: ForeignAdapter
) -> Float64[Tensor, "r k"]:
    """The coordinates of a side in the frame of the base.

    Raises:
        AdapterError: it does not lie in it.
    """
    inside = torch.linalg.pinv(frame) @ side
    if float((frame @ inside - side).norm()) > _OUTSIDE * float(side.norm()):
        raise AdapterError(
            f"the adapter's matrices of {name} are not made of this base's singular vectors: give the base that it was "
            f"trained on (it names {adapter.base_name})"
        )
    return inside
