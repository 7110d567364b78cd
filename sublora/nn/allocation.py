"""How the d coordinates are divided: groups of parameters, integer budgets, and the soft mask. Torch-free."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

log = logging.getLogger(__name__)

# The list of layers: h (GPT-2, Bloom), layers (Llama, Mistral, Qwen, GPT-NeoX, OPT), layer (BERT), blocks (MPT).
_LAYER = re.compile(r"(?:^|\.)(h|layers|layer|blocks|block)\.(\d+)\.")


@dataclass(frozen=True)
class Group:
    """Parameters that share a role: side is "A", "B" or "other"; layer is None outside the layers."""

    side: str
    layer: int | None
    members: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the group's random stream."""
        return f"{'outside' if self.layer is None else f'layer{self.layer}'}.{self.side}"


def side_of(name: str) -> str:
    """Return "A", "B" or "other" for a parameter name as PEFT writes it (`...lora_A.default.weight`)."""
    if ".lora_A." in name or ".lora_embedding_A." in name:
        return "A"
    if ".lora_B." in name or ".lora_embedding_B." in name:
        return "B"
    return "other"


def layer_of(name: str) -> int | None:
    """Return the index of the transformer layer that a parameter belongs to, None outside the layers."""
    match = _LAYER.search(name)
    return int(match.group(2)) if match else None


def find_groups(names: Sequence[str]) -> list[Group]:
    """Group parameters by (layer, side): layers first in their order, then what lies outside them.

    Logs what was found, with a warning when there are no layers.
    """
    keys = [(layer_of(name), side_of(name)) for name in names]
    order = sorted(set(keys), key=lambda k: (k[0] is None, k[0] or 0, k[1]))
    groups = [Group(side, layer, tuple(i for i, k in enumerate(keys) if k == (layer, side))) for layer, side in order]
    n_layers = len({layer for layer, _ in order if layer is not None})
    if n_layers:
        log.info(
            "found %d layers and %d groups of parameters: %s",
            n_layers,
            len(groups),
            ", ".join(g.name for g in groups[:4]) + ", ...",
        )
    else:
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
