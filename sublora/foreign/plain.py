"""A plain LoRA adapter of PEFT as one of a message.

A message makes A and B from its seed, A random and B zero, and adds alpha. So both sides of a foreign LoRA are coded
whole, as their distance from these: its A was drawn elsewhere, and nothing but its values says what it is. Three
choices keep the values that are coded few and small, and change nothing of what the adapter computes:

* Of the pairs with the product B A those are coded whose k-th column of B and k-th row of A have one length, the root
  of the product's k-th singular value: one quantization step fits both.
* LoRA's scale is a part of the product. The message's own is as small as it can be (lora_alpha = 1), so the values are
  large beside the random A that they replace.
* Where there is nothing to add (a layer without an adapter, a rank below the largest one), A stays as it is made and B
  stays zero: alpha is zero there.

Shape suffixes: o outputs, i inputs, r rank.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from sublora.config import Sublora
from sublora.errors import AdapterError
from sublora.foreign.layers import PREFIX, Expressed, Place
from sublora.foreign.reading import ForeignAdapter, checked_number, shown
from sublora.nn.lora import ADAPTER

_READ = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights")
_WITHOUT_EFFECT = ("lora_dropout", "megatron_core", "qalora_group_size", "eva_config")
# The others move the base's own weights before training begins.
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
_SIDE = re.compile(r"(.+)\.lora_([AB])\.weight")
# Others are expressions, which can take forever to match.
_SUFFIX = re.compile(r"[\w.]+")
# Singular values below this share of the largest one are the rounding of float32.
_ZERO = 1e-9


@dataclass(frozen=True, eq=False)
class Sides:
    """The two sides of one layer: it computes W x + B A x."""

    a_ri: Float[Tensor, "r i"]
    b_or: Float[Tensor, "o r"]

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return len(self.a_ri)


def as_lora(adapter: ForeignAdapter, base: PreTrainedModel) -> Expressed:
    """Return a plain LoRA in the terms of a message.

    Args:
        adapter: of kind LORA.
        base: that it was trained on.

    Raises:
        AdapterError: it is no plain LoRA, it does not fit the base, or it changes nothing.
        ConfigError: the base has no linear layers.
    """
    adapter.require_plain(_READ, _WITHOUT_EFFECT)
    start = adapter.settings.get("init_lora_weights", True)
    if start not in _INITIALISATIONS:
        raise AdapterError(
            f"the adapter started from {shown(start)}, which moves the weights of its base: convert it to a plain LoRA "
            "of the base when saving it (path_initial_model_for_weight_conversion)"
        )
    place = Place.of(base)
    layers = {name: balanced(sides) for name, sides in _layers(adapter, place).items()}
    inside = [sides.rank for name, sides in layers.items() if name != place.head]
    rank, head_rank = max(inside, default=0), layers[place.head].rank if place.head in layers else 0
    if not rank and not head_rank:
        raise AdapterError("the adapter changes nothing: certify its base with sublora.adapter=none")
    section = Sublora(
        adapter="lora",
        targets=place.targets(layers),
        lora_alpha=1,
        attention_linear_use_lora=rank > 0,
        attention_linear_lora_r=max(rank, 1),
        linear_head_enable_lora=head_rank > 0,
        linear_head_lora_r=max(head_rank, 1),
        intrinsic_dim=0,
    )
    values = {}
    for name, sides in layers.items():
        # The message's scale is 1 / rank.
        root = math.sqrt(max(head_rank if name == place.head else rank, 1))
        values[f"{PREFIX}{name}.lora_A.{ADAPTER}.weight"] = root * sides.a_ri
        values[f"{PREFIX}{name}.lora_B.{ADAPTER}.weight"] = root * sides.b_or
    return Expressed(section, values)


def balanced(sides: Sides) -> Sides:
    """Return the sides with the same product whose k-th column and row have one length, the longest first.

    B A = U S V^T gives B = U S^1/2 and A = S^1/2 V^T; only singular values above zero are kept. Computed in float64.
    """
    q_b, r_b = torch.linalg.qr(sides.b_or.double())
    q_a, r_a = torch.linalg.qr(sides.a_ri.double().t())
    left, values, right = torch.linalg.svd(r_b @ r_a.t(), full_matrices=False)
    kept = values > _ZERO * values.max()
    root = values[kept].sqrt()
    a_ri, b_or = root[:, None] * (right[kept] @ q_a.t()), (q_b @ left[:, kept]) * root
    return Sides(a_ri.float(), b_or.float())


def _layers(adapter: ForeignAdapter, place: Place) -> dict[str, Sides]:
    """The sides of every layer by its name, with LoRA's scale in B."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        match = _SIDE.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        if match is not None:
            found.setdefault(match[1], {})[match[2]] = tensor
        elif not _is_of_base(name, tensor, place.base):
            raise AdapterError(
                f"the adapter's tensor {shown(name)} is no side of a plain LoRA and no weight of the base: train one "
                "without it"
            )
    stabilised = adapter.settings.get("use_rslora") or False
    if not isinstance(stabilised, bool):
        raise AdapterError(f"the adapter's use_rslora is {shown(stabilised)}, and must be true or false")
    layers = {}
    for name, pair in found.items():
        outputs, inputs = place.shape(name, adapter)
        if len(pair) != 2:
            raise AdapterError(f"the adapter has one side of {name} only: it is damaged")
        rank = _by_layer(adapter.settings, "rank_pattern", name, adapter.settings.get("r"))
        if rank < 1 or rank != int(rank):
            raise AdapterError(f"the adapter's rank is {rank:g} on {name}, and must be at least 1")
        wanted = (int(rank), inputs), (outputs, int(rank))
        shapes = tuple(pair["A"].shape), tuple(pair["B"].shape)
        if shapes != wanted:
            raise AdapterError(
                f"the adapter's sides of {name} have shapes {shapes[0]} and {shapes[1]}, and this base needs "
                f"{wanted[0]} and {wanted[1]}: give the base that it was trained on (it names {adapter.base_name})"
            )
        alpha = _by_layer(adapter.settings, "alpha_pattern", name, adapter.settings.get("lora_alpha"))
        scale = alpha / (math.sqrt(rank) if stabilised else rank)
        layers[name] = Sides(pair["A"], scale * pair["B"].double())
    return layers


def _by_layer(settings: Mapping[str, Any], pattern: str, name: str, default: Any) -> float:
    """A number that a configuration states for all layers, and otherwise for some: the first that fits is taken."""
    patterns = settings.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"the adapter's {pattern} is {shown(patterns)}, and must say a number for names of layers")
    for suffix, value in patterns.items():
        if not _SUFFIX.fullmatch(suffix):
            raise AdapterError(
                f"the adapter's {pattern} has the expression {shown(suffix)}: only names of layers, or their ends, are "
                "read"
            )
        if name == suffix or name.endswith(f".{suffix}"):
            return checked_number(f"{pattern} of {name}", value)
    return checked_number("r" if pattern == "rank_pattern" else "lora_alpha", default)


def _is_of_base(name: str, tensor: Tensor, base: PreTrainedModel) -> bool:
    """Whether a tensor is the base's own: PEFT writes the head beside LoRA on it."""
    own = dict(base.named_parameters(remove_duplicate=False)).get(name.removeprefix(PREFIX).replace(".base_layer", ""))
    return own is not None and own.shape == tensor.shape and torch.equal(own.detach().to(tensor), tensor)
