"""How the d coordinates are divided: groups of parameters, integer budgets, and the soft mask. Torch-free."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

log = logging.getLogger(__name__)

# The list of layers: h (GPT-2, Bloom), layers (Llama, Mistral, Qwen, GPT-NeoX, OPT), layer (BERT), blocks (MPT).
_LAYER = re.compile(r"(?:^|\.)(h|layers|layer|blocks|block)\.(\d+)\.")


def region_name(layer: int | None) -> str:
    """Return the name of a layer, or of what lies outside the layers."""
    return "outside" if layer is None else f"layer{layer}"


@dataclass(frozen=True)
class Group:
    """Parameters that share a role: side is "A", "B" or "other" (see `side_of`); layer is None outside the layers.

    module: the place of a linear layer (see `place_of`); empty where a group holds all of a layer.
    """

    side: str
    layer: int | None
    members: tuple[int, ...]
    module: str = ""

    @property
    def name(self) -> str:
        """Name of the group's random stream."""
        return f"{self.region}.{self.side}"

    @property
    def region(self) -> str:
        """Name of its layer, or of its module in it."""
        layer = region_name(self.layer)
        return f"{layer}.{self.module}" if self.module else layer


# The linear layers that write into the residual stream, by the names that architectures give them; the others read it.
WRITING = ("c_proj", "o_proj", "out_proj", "down_proj", "dense", "dense_4h_to_h", "fc2")


TIED = "tied"
"""name of the module that holds cores which all layers share, in the base"""


def side_of(name: str) -> str:
    """Return "A", "B" or "other" for the name of a parameter.

    LoRA's sides are A, where it reads, and B, where it writes; PEFT names them (`...lora_A.default.weight`). A core
    between singular vectors (`<layer>.core`, tied: `tied.attn-c_proj.core`) has no sides of its own: it is on side B in
    the linear layers that write into the residual stream, and on side A in those that read it.
    """
    if name.endswith(".core"):
        return "B" if re.split("[.-]", name)[-2] in WRITING else "A"
    if ".lora_A." in name or ".lora_embedding_A." in name:
        return "A"
    if ".lora_B." in name or ".lora_embedding_B." in name:
        return "B"
    return "other"


def layer_of(name: str) -> int | None:
    """Return the index of the transformer layer that a parameter belongs to, None outside the layers."""
    match = _LAYER.search(name)
    return int(match.group(2)) if match else None


def module_of(name: str) -> str:
    """Return the place of the linear layer that an adapter's parameter belongs to; empty outside the layers."""
    return "" if layer_of(name) is None else place_of(re.split(r"\.(?:lora_|core$)", name)[0])


def place_of(name: str) -> str:
    """Return the place of a linear layer inside the transformer layers, `self_attn.q_proj`, by the name of its module.

    Numbers on the way are left out, so the experts of a layer share their places.
    """
    return ".".join(part for part in inside_layer(name).split(".") if not part.isdecimal())


def inside_layer(name: str) -> str:
    """Return the name of a module or parameter inside its transformer layer, as it is outside the layers."""
    match = _LAYER.search(name)
    return name[match.end() :] if match else name


def layers_of(names: Sequence[str]) -> list[int | None]:
    """Return the layer of every parameter, None outside the layers.

    Where a model has several stacks of layers, as an encoder and a decoder are, the layers of one are numbered behind
    those of the stack before it.
    """
    found = [_LAYER.search(name) for name in names]
    stacks = [match and match.string[: match.start(1)] for match in found]
    sizes: dict[str, int] = {}
    for match, stack in zip(found, stacks, strict=True):
        if match is not None and stack is not None:
            sizes[stack] = max(sizes.get(stack, 0), int(match.group(2)) + 1)
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    return [
        None if match is None or stack is None else starts[stack] + int(match.group(2))
        for match, stack in zip(found, stacks, strict=True)
    ]


def find_groups(names: Sequence[str], by_module: bool = False) -> list[Group]:
    """Group parameters by (layer, side): layers first in their order, then what lies outside them.

    Logs what was found, with a warning when there are no layers.

    Args:
        names: of the parameters.
        by_module: group by (layer, module, side), modules in the order in which they first appear.
    """
    modules = [module_of(name) if by_module else "" for name in names]
    first = {module: number for number, module in enumerate(dict.fromkeys(modules))}
    keys = list(zip(layers_of(names), modules, map(side_of, names), strict=True))
    order = sorted(set(keys), key=lambda k: (k[0] is None, k[0] or 0, first[k[1]], k[2]))
    groups = [
        Group(side, layer, tuple(i for i, key in enumerate(keys) if key == (layer, module, side)), module)
        for layer, module, side in order
    ]
    n_layers = len({layer for layer, *_ in order if layer is not None})
    if n_layers:
        log.info(
            "found %d layers and %d groups of parameters: %s",
            n_layers,
            len(groups),
            ", ".join([*(g.name for g in groups[:4]), *(["..."] if len(groups) > 4 else [])]),
        )
    elif not names[0].startswith(f"{TIED}."):
        log.warning(
            "no transformer layers found in the parameter names (such as %s): all parameters are outside the layers",
            names[0],
        )
    return groups


def largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Divide `total` into integers in proportion to `shares`; they add up to exactly `total`.

    Largest-remainder (Hamilton) apportionment; equal remainders go to the earlier share.
    """
    quotas = np.asarray(shares, dtype=np.float64) / np.sum(shares) * total
    budgets = np.floor(quotas).astype(int)
    left = total - int(budgets.sum())
    for i in np.argsort(budgets - quotas, kind="stable")[:left]:
        budgets[i] += 1
    return budgets.tolist()


def split_budget(intrinsic_dim: int, ratio: float) -> tuple[int, int]:
    """Return (d_A, d_B) with d_B = round(ratio * d), halves rounded up, and d_A = d - d_B."""
    d_b = int(np.floor(ratio * intrinsic_dim + 0.5))
    return intrinsic_dim - d_b, d_b


@dataclass(frozen=True)
class EnergyTree:
    """How gates divide one unit of energy, the squared column norm of P, between groups.

    The share of group g is constants[g] times gate[k] for every k with taken[g, k], times 1 - gate[k] for every k with
    left[g, k]. Whatever the gates are, the shares add up to 1.
    """

    gates: tuple[str, ...]
    """`layer3`, `layer3.self_attn.q_proj` or `outside`: B's share there; `layer3.self_attn.q_proj_share`: what that
    module takes of what it and the modules behind it have; OUTSIDE_SHARE: the share of what lies outside the layers"""
    starts: tuple[float | None, ...]
    """where a gate starts; None: B's share, where the user wishes"""
    constants: Float[np.ndarray, " groups"]
    taken: Bool[np.ndarray, "groups gates"]
    left: Bool[np.ndarray, "groups gates"]


OUTSIDE_SHARE = "outside_share"


def energy_tree(groups: Sequence[Group], sizes: Sequence[int]) -> EnergyTree:
    """Return the tree of gates over groups of so many parameters.

    First the outside is divided from the layers, then the layers get what is left in proportion to their parameters,
    then modules, where groups have them, are divided one by one from those behind them, then B is divided from A and
    the rest, which share in proportion to their parameters. A division with one side only has no gate. Modules start
    in proportion to their parameters.
    """
    layers: dict[int | None, dict[str, dict[bool, int]]] = {}
    for group, size in zip(groups, sizes, strict=True):
        sides = layers.setdefault(group.layer, {}).setdefault(group.module, {})
        sides[group.side == "B"] = sides.get(group.side == "B", 0) + size
    whole = {layer: sum(sum(sides.values()) for sides in modules.values()) for layer, modules in layers.items()}
    in_layers = sum(size for layer, size in whole.items() if layer is not None)
    gates: dict[str, float | None] = {}
    # By region: the gates that a module takes a part of, and those that others took theirs of before it.
    path: dict[str, tuple[list[str], list[str]]] = {}
    for layer, modules in layers.items():
        behind, passed = whole[layer], list[str]()
        for number, (module, sides) in enumerate(modules.items()):
            region, size = Group("", layer, (), module).region, sum(sides.values())
            path[region] = [], list(passed)
            if number < len(modules) - 1:
                share = f"{region}_share"
                gates[share] = size / behind
                path[region][0].append(share)
                passed.append(share)
            behind -= size
            if len(sides) == 2:
                gates[region] = None
    if None in layers and in_layers:
        gates[OUTSIDE_SHARE] = 0.5
    index = {name: k for k, name in enumerate(gates)}
    constants = np.empty(len(groups))
    taken, left = np.zeros((2, len(groups), len(gates)), dtype=bool)
    for g, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        sides, is_b = layers[group.layer][group.module], group.side == "B"
        constants[g] = size / sides[is_b]
        mine, others = path[group.region]
        taken[g, [index[name] for name in mine]] = True
        left[g, [index[name] for name in others]] = True
        if len(sides) == 2:
            (taken if is_b else left)[g, index[group.region]] = True
        if group.layer is not None:
            constants[g] *= whole[group.layer] / in_layers
        if OUTSIDE_SHARE in gates:
            (taken if group.layer is None else left)[g, index[OUTSIDE_SHARE]] = True
    return EnergyTree(tuple(gates), tuple(gates.values()), constants, taken, left)
