"""Linear layers by the names that users of PEFT give them, and by the numbers that a message has for them.

A *place* is where a linear layer stands inside its transformer layer: `self_attn.q_proj`, `mlp.c_proj`. Every layer of
the stack has it. Numbers on the way are left out, so the experts of a layer share their places.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from sublora.coding.choices import TARGETS
from sublora.config import Sublora
from sublora.errors import ConfigError, MessageError
from sublora.nn.allocation import place_of
from sublora.nn.targets import find_targets


def linear_places(model: nn.Module) -> tuple[str, ...]:
    """Return the places of linear layers, as they first appear in `named_modules`."""
    return tuple(dict.fromkeys(place_of(name) for name, _ in find_targets(model, "linear")))


def ranks_by_place(model: nn.Module, section: Sublora) -> dict[str, int]:
    """Return the rank on every place that LoRA is on, in the order of `linear_places`.

    A name stands for the places that it is, or that end in it after a dot, as PEFT reads it; of two names in
    `rank_pattern` that fit, the first one counts.

    Args:
        model: of transformers, without an adapter.
        section: targets or target_modules, the rank, and rank_pattern are read.

    Raises:
        ConfigError: a name that fits no place, or nowhere that LoRA is.
    """
    places = linear_places(model)
    names, pattern = section.target_modules, section.rank_pattern
    for name in names:
        if not any(_fits(place, name) for place in places):
            raise ConfigError(
                f"sublora.target_modules has {name!r}, and the kinds of linear layers in {type(model).__name__} are "
                f"{', '.join(places)} (the output head: sublora.linear_head_enable_lora)"
            )
    if names:
        chosen = {place for place in places if any(_fits(place, name) for name in names)}
    else:
        chosen = {place_of(name) for name, _ in find_targets(model, section.targets)}
    for name in pattern:
        if not any(_fits(place, name) for place in chosen):
            raise ConfigError(
                f"sublora.rank_pattern has {name!r}, where LoRA is not: it is on "
                f"{', '.join(place for place in places if place in chosen)}"
            )
    return {
        place: next((rank for name, rank in pattern.items() if _fits(place, name)), section.rank)
        for place in places
        if place in chosen
    }


def fields_of(model: nn.Module, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return what `ModelSpec` says of these ranks: `targets` and `rank` where they can, else `kinds` and `ranks`.

    Args:
        model: of transformers, without an adapter.
        ranks: from `ranks_by_place`.
    """
    if targets := _word(model, ranks):
        return {"targets": targets, "rank": next(iter(ranks.values()))}
    return {"kinds": kinds_of(model, ranks), "ranks": tuple(ranks.values())}


def kinds_of(model: nn.Module, places: Iterable[str]) -> int:
    """Return the number that a message has for some places of a model: bit i stands for the i-th of `linear_places`."""
    chosen = set(places)
    return sum(1 << i for i, place in enumerate(linear_places(model)) if place in chosen)


def layers_of_kinds(model: nn.Module, kinds: int) -> list[tuple[str, nn.Module]]:
    """Return names and modules of the linear layers on the places of `kinds_of`, in the order of `named_modules`.

    Args:
        model: of transformers, without an adapter.
        kinds: from `kinds_of`.

    Raises:
        MessageError: bits for places that the model does not have, or none.
    """
    chosen = set(_places_of_kinds(model, kinds))
    return [(name, module) for name, module in find_targets(model, "linear") if place_of(name) in chosen]


def ranks_by_layer(model: nn.Module, kinds: int, ranks: Sequence[int]) -> dict[str, int]:
    """Return the rank on every linear layer that a message names, in the order of `named_modules`.

    Args:
        model: of transformers, without an adapter.
        kinds: from `kinds_of`.
        ranks: one for every bit that is set, the lowest first.

    Raises:
        MessageError: as `layers_of_kinds`, or a choice that has a shorter code.
    """
    chosen = dict(zip(_places_of_kinds(model, kinds), ranks, strict=True))
    if targets := _word(model, chosen):
        raise MessageError(f"the layers {', '.join(chosen)} with one rank have a code of their own: targets {targets}")
    return {name: chosen[place_of(name)] for name, _ in layers_of_kinds(model, kinds)}


def _places_of_kinds(model: nn.Module, kinds: int) -> list[str]:
    places = linear_places(model)
    if not 0 < kinds < 1 << len(places):
        raise MessageError(
            f"{type(model).__name__} has {len(places)} kinds of linear layers, and not those of {kinds:b}"
        )
    return [place for i, place in enumerate(places) if kinds >> i & 1]


def _word(model: nn.Module, ranks: Mapping[str, int]) -> str | None:
    """The one of a message's words for layers that means these, None where none does."""
    if len(set(ranks.values())) == 1:
        for targets in TARGETS:
            if _places_of(model, targets) == set(ranks):
                return targets
    return None


def _places_of(model: nn.Module, targets: str) -> set[str]:
    try:
        return {place_of(name) for name, _ in find_targets(model, targets)}
    except ConfigError:
        # Some architectures have no attention projections by known names.
        return set()


def _fits(place: str, name: str) -> bool:
    return f".{place}".endswith(f".{name}")
