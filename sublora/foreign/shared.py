"""UniLoRA and VeRA adapters of PEFT as they are: the numbers that were trained are those of the message.

Their random matrices are made again from their seed (`sublora.nn.unilora`, `sublora.nn.vera`). Where the adapter's file
holds them too, they must be the same.
"""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sublora.config import Sublora
from sublora.config.sections.model import Adapter
from sublora.errors import AdapterError
from sublora.foreign.layers import PREFIX, Expressed, Place
from sublora.foreign.reading import ForeignAdapter, shown
from sublora.nn.allocation import place_of
from sublora.nn.places import kinds_of, layers_of_kinds
from sublora.nn.unilora import VECTOR, assigned
from sublora.nn.vera import shared_matrices

_VECTOR = "base_model.unilora_theta_d"
_PLACES = re.compile(r"(.+)\.unilora_(indices|scales)_([AB])")
_NUMBERS = re.compile(r"(.+)\.vera_lambda_([bd])")
_MATRICES = ("base_model.vera_A", "base_model.vera_B")
# Names of layers, or their ends; anything else is an expression.
_NAME = re.compile(r"[\w.]+")
MOST_SEED = 2**63 - 1


def as_unilora(adapter: ForeignAdapter, base: PreTrainedModel) -> Expressed:
    """Return a UniLoRA in the terms of a message: its vector, and how the vector is spread.

    Args:
        adapter: of kind UNILORA.
        base: that it was trained on.

    Raises:
        AdapterError: it is no plain UniLoRA, it does not fit the base, it is on a part of a kind of layers only, or its
            file holds other places than its seed gives.
        ConfigError: the base has no linear layers.
    """
    read = ("r", "proj_seed", "theta_d_length", "target_modules", "layers_to_transform", "exclude_modules")
    adapter.require_plain(read, ("unilora_dropout", "init_theta_d_bound", "init_weights", "save_indices"))
    vector = adapter.tensors.get(_VECTOR)
    length = _integer(adapter, "theta_d_length", 1)
    if vector is None or vector.shape != (length,):
        raise AdapterError(f"the adapter has no vector of {length} numbers, as its configuration says: it is damaged")
    place = Place.of(base)
    names = _named(adapter, base)
    kinds = _kinds(names, adapter, place)
    if missing := [name for name, _ in layers_of_kinds(base, kinds) if name not in names]:
        raise AdapterError(
            f"the adapter is on {names[0]} and not on {missing[0]}, and a message can only say kinds of layers: train "
            "one on all layers of a kind"
        )
    rank, seed = _integer(adapter, "r", 1), _integer(adapter, "proj_seed", 0)
    shapes = [place.shape(name, adapter) for name in names]
    places = sum(rank * (outputs + inputs) for outputs, inputs in shapes)
    if length > places:
        raise AdapterError(f"the adapter's vector has {length} numbers for {places} places: it is damaged")
    order = torch.from_numpy(assigned(places, length, seed))
    counts = torch.bincount(order, minlength=length)
    at, expected = 0, {}
    for name, (outputs, inputs) in zip(names, shapes, strict=True):
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            part = order[at : at + shape[0] * shape[1]].view(shape)
            expected[name, "indices", side], expected[name, "scales", side] = part, counts[part].float().rsqrt()
            at += part.numel()
    for name, tensor in adapter.tensors.items():
        match = _PLACES.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        if name != _VECTOR and match is None:
            raise AdapterError(f"the adapter's tensor {shown(name)} is no part of a plain UniLoRA")
        if match is not None:
            _require_same(tensor, expected.get((match[1], match[2], match[3])), name, "proj_seed")
    section = _section("unilora", kinds, rank, length)
    return Expressed(section, {f"{VECTOR}.theta": vector}, seed)


def as_vera(adapter: ForeignAdapter, base: PreTrainedModel) -> Expressed:
    """Return a VeRA in the terms of a message: its scales; layers of the same kinds without an adapter have zeros.

    Args:
        adapter: of kind VERA.
        base: that it was trained on.

    Raises:
        AdapterError: it is no plain VeRA, it does not fit the base, or holds other matrices than its key gives.
        ConfigError: the base has no linear layers.
    """
    adapter.require_plain(
        ("r", "projection_prng_key"), ("vera_dropout", "d_initial", "init_weights", "save_projection")
    )
    place = Place.of(base)
    rank, key = _integer(adapter, "r", 1), _integer(adapter, "projection_prng_key", 0)
    values: dict[str, Tensor] = {}
    for name, tensor in adapter.tensors.items():
        match = _NUMBERS.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        if match is None and name not in _MATRICES:
            raise AdapterError(f"the adapter's tensor {shown(name)} is no part of a plain VeRA")
        if match is not None:
            wanted = place.shape(match[1], adapter)[0] if match[2] == "b" else rank
            if tensor.shape != (wanted,):
                raise AdapterError(
                    f"the adapter's {shown(name)} has shape {tuple(tensor.shape)}, and this base needs {(wanted,)}: "
                    f"give the base that it was trained on (it names {adapter.base_name})"
                )
            values[f"{match[1]}.lambda_{match[2]}"] = tensor
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in values))
    if not names or len(values) != 2 * len(names):
        raise AdapterError("the adapter has no scales, or only one of a layer's two: it is damaged")
    kinds = _kinds(names, adapter, place)
    widest, highest = _largest(names, adapter, place)
    if _largest([name for name, _ in layers_of_kinds(base, kinds)], adapter, place)[0] != widest:
        raise AdapterError("the adapter is on some layers of a kind whose sizes differ, which no message can say")
    if all(name in adapter.tensors for name in _MATRICES):
        # Both come from one generator: equal ones were drawn by the key.
        for name, matrix in zip(_MATRICES, shared_matrices(rank, widest, highest, key), strict=True):
            _require_same(adapter.tensors[name], torch.from_numpy(matrix), name, "projection_prng_key")
    return Expressed(_section("vera", kinds, rank, 0), values, key)


def _section(adapter: Adapter, kinds: int, rank: int, length: int) -> Sublora:
    return Sublora(adapter=adapter, kinds=kinds, attention_linear_lora_r=rank, intrinsic_dim=length)


def _integer(adapter: ForeignAdapter, name: str, lowest: int) -> int:
    value = adapter.settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MOST_SEED:
        raise AdapterError(f"the adapter's {name} is {shown(value)}, and must be an integer of at least {lowest}")
    return value


def _named(adapter: ForeignAdapter, base: PreTrainedModel) -> list[str]:
    """The modules that the configuration puts the adapter on, in the base's order, as PEFT reads lists of names."""
    targets = adapter.settings.get("target_modules")
    for other in ("layers_to_transform", "exclude_modules"):
        if adapter.settings.get(other):
            raise AdapterError(
                f"the adapter sets {other} to {shown(adapter.settings[other])}, and a message can only say kinds of "
                "layers: train one on all layers of a kind"
            )
    if not isinstance(targets, list) or not all(isinstance(t, str) and _NAME.fullmatch(t) for t in targets):
        raise AdapterError(
            f"the adapter's target_modules are {shown(targets)}: only a list of names of layers, or their ends, is read"
        )
    ends = tuple(f".{target}" for target in targets)
    names = [name for name, _ in base.named_modules() if name in targets or name.endswith(ends)]
    if not names:
        raise AdapterError(
            f"the adapter changes {shown(targets)}, which the base does not have: give the base that it was trained on "
            f"(it names {adapter.base_name})"
        )
    return names


def _kinds(names: Sequence[str], adapter: ForeignAdapter, place: Place) -> int:
    """The kinds of these layers."""
    for name in names:
        place.shape(name, adapter)
        if name not in place.inside:
            raise AdapterError(
                f"the adapter changes {name}, and a message can only name linear layers inside the transformer layers "
                "for one of its type: train one on these"
            )
    return kinds_of(place.base, map(place_of, names))


def _largest(names: Iterable[str], adapter: ForeignAdapter, place: Place) -> tuple[int, int]:
    """The most inputs and the most outputs of these layers."""
    outputs, inputs = zip(*(place.shape(name, adapter) for name in names), strict=True)
    return max(inputs), max(outputs)


def _require_same(found: Tensor, made: Tensor | None, name: str, seed: str) -> None:
    """Check what a file holds against what its seed gives, up to the rounding of float32."""
    if made is None or found.shape != made.shape or not torch.allclose(found.double(), made.double(), rtol=1e-6):
        raise AdapterError(
            f"the adapter's {shown(name)} is not what its {seed} gives on this base, and no message can say it: "
            "make a LoRA of its rank with peft.save_as_lora, and import that"
        )
