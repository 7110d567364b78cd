"""How alpha moves the parameters: one operator for all of them, one that gates scale, or one for every group.

Shape suffixes: d subspace coordinates, D parameters, g coordinates of one group.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sublora.errors import ConfigError
from sublora.nn.allocation import (
    Group,
    energy_tree,
    find_groups,
    largest_remainder,
    region_name,
    split_budget,
)
from sublora.nn.operators import LinearOperator, make_operator
from sublora.nn.subspace import SubspaceModule


class IDModule(SubspaceModule):
    """One operator over all D parameters: allocation mode `uniform` (Lotfi et al. 2022, eq. 4; Li et al. 2018)."""

    allocation = "uniform"

    def __init__(self, net: nn.Module, intrinsic_dim: int, *, seed: int, intrinsic_mode: str = "rdkronqr") -> None:
        super().__init__(net, intrinsic_dim, (self.allocation, intrinsic_mode, seed))
        self.operator = make_operator(intrinsic_mode, self.D, intrinsic_dim, (seed, "operator"))

    def _scaled(self, values_D: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """Multiply every parameter by its scale: here 1."""
        return values_D

    def blocks(self) -> list[tuple[list[int], Float[Tensor, " g"]]]:
        """One block: every parameter."""
        return [(list(range(len(self.names))), self._scaled(self.operator(self.subspace_params)))]

    @torch.no_grad()
    def group_energy(self, group: Group) -> float:
        """The adjoint applied to the gradient of the group's parameters alone."""
        parts = self._recorded[0].split(self.sizes)
        kept = torch.cat([part if i in group.members else torch.zeros_like(part) for i, part in enumerate(parts)])
        return float(self.operator.adjoint(self._scaled(kept)).norm())


class SharedIDModule(IDModule):
    """Allocation mode `learned` with scope `shared`: every parameter reads all of alpha, and gates divide P's energy.

    theta = theta0 + s (P alpha), with one scale s_g = sqrt(p_g D / D_g) for each group of D_g parameters. The shares
    p_g add up to 1, so that P's columns keep their unit expected norm and learning rates carry over between modes; with
    p_g = D_g / D this is `uniform`. A tree of gates makes the shares (`sublora.nn.allocation.energy_tree`): gamma_l is
    B's share in layer l, and one more gate is the share of what lies outside the layers (LoRA on the head). With a gate
    for each module, energy moves between the linear layers of a transformer layer too.

    A random coordinate moves every group at once, and what it does where little can be won is noise to the others: it
    pays to turn the energy to the groups whose gradient is large against their curvature.

    Args:
        net: as in SubspaceModule.
        intrinsic_dim: d.
        seed: root seed of P.
        gating_init: every gamma at the start; the share of the outside starts at 1/2, those of modules at their
            parts of the parameters.
        granularity: what has a gamma: every "layer", or every "module" of it.

    Raises:
        ConfigError: no LoRA parameters; gates of modules where nothing is trained inside the layers.
    """

    allocation = "learned, shared"
    gating_params: nn.Parameter
    log_constants: Tensor
    taken: Tensor
    left: Tensor

    def __init__(
        self,
        net: nn.Module,
        intrinsic_dim: int,
        *,
        seed: int,
        gating_init: float = 0.5,
        granularity: str = "layer",
        intrinsic_mode: str = "rdkronqr",
    ) -> None:
        # Before the fingerprint is taken: gates of modules are another map from alpha to theta.
        self.allocation = "learned, shared" if granularity == "layer" else "learned, by module"
        super().__init__(net, intrinsic_dim, seed=seed, intrinsic_mode=intrinsic_mode)
        _require_sides(self.groups, "learned")
        gated = self.groups if granularity == "layer" else _by_module(self.names)
        rows = np.array([sum(self.sizes[i] for i in group.members) for group in gated])
        tree = energy_tree(gated, rows.tolist())
        device = self.theta0.device
        for name, values in (
            ("log_constants", np.log(tree.constants * self.D / rows)),
            ("taken", tree.taken),
            ("left", tree.left),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32, device=device), persistent=False)
        self.gate_names = tree.gates
        start = [gating_init if share is None else share for share in tree.starts]
        self.gating_params = nn.Parameter(torch.tensor([_logit(gamma) for gamma in start], device=device))
        group_of = {member: g for g, group in enumerate(gated) for member in group.members}
        self.group_of = [group_of[i] for i in range(len(self.names))]

    def scales(self) -> Float[Tensor, " groups"]:
        """Return s of every group."""
        log_shares = self.taken @ F.logsigmoid(self.gating_params) + self.left @ F.logsigmoid(-self.gating_params)
        return torch.exp(0.5 * (self.log_constants + log_shares))

    def _scaled(self, values_D: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        scales = self.scales()
        parts = zip(values_D.split(self.sizes), self.group_of, strict=True)
        return torch.cat([part * scales[g] for part, g in parts])


class GroupOperator(nn.Module):
    """Rows of an operator that serve one group, for any number of rows and coordinates.

    A group may have fewer parameters than coordinates; then it takes the leading rows of a square operator.
    `column_norm` is the expected norm of a column.
    """

    def __init__(self, kind: str, rows: int, d: int, seed: tuple[int | str, ...], column_norm: float) -> None:
        super().__init__()
        full = max(rows, d)
        self.rows = rows
        self.scale = column_norm * math.sqrt(full / rows)
        self.operator: LinearOperator = make_operator(kind, full, d, seed)

    def forward(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " rows"]:
        """Return the change of the group's parameters."""
        return self.operator(alpha_d)[: self.rows] * self.scale

    def adjoint(self, grad: Float[Tensor, " rows"]) -> Float[Tensor, " d"]:
        """Return the gradient with respect to the coordinates."""
        return self.operator.adjoint(nn.functional.pad(grad, (0, self.operator.shape[0] - self.rows))) * self.scale


@dataclass(frozen=True)
class Reading:
    """A group, the slice of alpha that it reads, the gate that masks it (if any), and its columns' norm."""

    group: Group
    start: int
    width: int
    gate: int | None
    column_norm: float


class StructuredIDModule(SubspaceModule):
    """Allocation modes `fixed`, and `learned` with scope `layer`: A and B read different coordinates.

    fixed: alpha = [alpha_A | alpha_B], d_B = round(ratio d); parameters that are neither A nor B join A.

    learned: layer l owns a slice of d_l coordinates and has a gate, gamma_l = sigmoid(theta_l). It reads its slice
    through mask_i = sigmoid(C (gamma_l - (i + 1/2) / d_l)) for B and 1 - mask for A. The transition is d_l / C
    coordinates wide, a fraction of the coordinates: measured in indices, C = 10 would make it a tenth of one coordinate
    wide, and a gate would have a gradient only while it happens to stand between two. Parameters outside the layers
    have a slice too, and no gate.

    Args:
        net: as in SubspaceModule.
        intrinsic_dim: d.
        seed: root seed; every group's operator has a stream of its own.
        allocation_mode: "fixed" or "learned".
        allocation_ratio: share of B (fixed).
        gating_init: gamma at the start (learned).
        gating_steepness: C (learned).
        budget_b: d_B, in place of the ratio (fixed only; the decoder knows the integer).

    Attributes:
        steepness_factor: what C is multiplied with while training: a schedule may widen the transition at first.

    Raises:
        ConfigError: no LoRA parameters, or a side with fewer parameters than coordinates.
    """

    def __init__(
        self,
        net: nn.Module,
        intrinsic_dim: int,
        *,
        seed: int,
        allocation_mode: str,
        allocation_ratio: float = 0.5,
        intrinsic_mode: str = "rdkronqr",
        gating_init: float = 0.5,
        gating_steepness: float = 10,
        budget_b: int | None = None,
    ) -> None:
        fixed = allocation_mode == "fixed"
        d_b = split_budget(intrinsic_dim, allocation_ratio)[1] if budget_b is None else budget_b
        budget = d_b if fixed else float(gating_steepness)
        super().__init__(net, intrinsic_dim, (allocation_mode, intrinsic_mode, seed, budget))
        _require_sides(self.groups, allocation_mode)
        self.steepness = float(gating_steepness)
        self.steepness_factor = 1.0
        if fixed:
            readings = self._fixed_readings(d_b)
        else:
            readings = self._learned_readings()
            layers = sorted({g.layer for g in self.groups if g.layer is not None})
            self.gate_names = tuple(region_name(layer) for layer in layers)
            self.gating_params = nn.Parameter(
                torch.full((len(layers),), _logit(gating_init), device=self.theta0.device)
            )
        self.readings = [r for r in readings if r.width]
        self.operators: list[GroupOperator] = nn.ModuleList(  # type: ignore[assignment]
            GroupOperator(intrinsic_mode, self._rows(r.group), r.width, (seed, "operator", r.group.name), r.column_norm)
            for r in self.readings
        )

    def _rows(self, group: Group) -> int:
        return sum(self.sizes[i] for i in group.members)

    def _fixed_readings(self, d_b: int) -> list[Reading]:
        d_a = self.d - d_b
        readings = []
        for side, start, width in (("A", 0, d_a), ("B", d_a, d_b)):
            members = tuple(i for g in self.groups if (g.side == "B") == (side == "B") for i in g.members)
            group = Group(side, None, members)
            if width > self._rows(group):
                raise ConfigError(
                    f"side {side} has {self._rows(group)} parameters for {width} coordinates: "
                    "change sublora.allocation_ratio or sublora.intrinsic_dim"
                )
            readings.append(Reading(group, start, width, gate=None, column_norm=1.0))
        return readings

    def _learned_readings(self) -> list[Reading]:
        regions: dict[int | None, list[Group]] = {}
        for group in self.groups:
            regions.setdefault(group.layer, []).append(group)
        rows = [sum(map(self._rows, groups)) for groups in regions.values()]
        readings, start, gate = [], 0, 0
        for (layer, groups), whole, width in zip(regions.items(), rows, largest_remainder(rows, self.d), strict=True):
            for group in groups:
                # The groups that share coordinates divide one unit of column norm: learning rates carry over.
                norm = math.sqrt(self._rows(group) / whole)
                readings.append(Reading(group, start, width, None if layer is None else gate, norm))
            start += width
            gate += layer is not None
        return readings

    def _mask(self, reading: Reading) -> Float[Tensor, " width"] | float:
        """The share of each coordinate that a group reads."""
        if reading.gate is None or self.gating_params is None:
            return 1.0
        position = (torch.arange(reading.width, device=self.gating_params.device) + 0.5) / reading.width
        steepness = self.steepness * (self.steepness_factor if self.training else 1.0)
        mask_b = torch.sigmoid(steepness * (torch.sigmoid(self.gating_params[reading.gate]) - position))
        return mask_b if reading.group.side == "B" else 1 - mask_b

    def blocks(self) -> list[tuple[list[int], Float[Tensor, " g"]]]:
        """One block per group that reads at least one coordinate."""
        out = []
        for reading, operator in zip(self.readings, self.operators, strict=True):
            alpha = self.subspace_params[reading.start : reading.start + reading.width]
            out.append((list(reading.group.members), operator(alpha * self._mask(reading))))
        return out

    @torch.no_grad()
    def group_energy(self, group: Group) -> float:
        """The masked adjoint of the gradient of the group's parameters; in fixed mode a block holds several groups."""
        total = 0.0
        for number, (reading, operator) in enumerate(zip(self.readings, self.operators, strict=True)):
            members = reading.group.members
            if number in self._recorded and set(group.members) <= set(members):
                parts = self._recorded[number].split([self.sizes[m] for m in members])
                kept = [p if m in group.members else torch.zeros_like(p) for m, p in zip(members, parts, strict=True)]
                total += float((operator.adjoint(torch.cat(kept)) * self._mask(reading)).norm())
        return total


def _by_module(names: list[str]) -> list[Group]:
    groups = find_groups(names, by_module=True)
    if not any(group.module for group in groups):
        raise ConfigError(
            "sublora.gating_granularity=module divides energy between the linear layers of a layer, and what is "
            "trained stands in none (tied cores do not): leave it out"
        )
    return groups


def _logit(gamma: float) -> float:
    return math.log(gamma / (1 - gamma))


def _require_sides(groups: list[Group], allocation_mode: str) -> None:
    if not {"A", "B"} <= {group.side for group in groups}:
        raise ConfigError(
            f"allocation_mode {allocation_mode!r} divides alpha between two sides, and the model has not both: "
            "set sublora.adapter=lora, or with sublora.adapter=spectral set sublora.targets=linear"
        )


def create_intrinsic_model(
    net: nn.Module,
    *,
    intrinsic_dim: int,
    seed: int,
    allocation_mode: str = "uniform",
    allocation_ratio: float = 0.5,
    allocation_scope: str = "shared",
    gating_granularity: str = "layer",
    intrinsic_mode: str = "rdkronqr",
    gating_init: float = 0.5,
    gating_steepness: float = 10,
    budget_b: int | None = None,
) -> SubspaceModule:
    """Wrap any module with trainable parameters so that only alpha (and the gates) are trained.

    Args:
        net: the module; its trainable parameters are the D coordinates of theta.
        intrinsic_dim: d; 0 trains all D parameters (P is the identity).
        seed: root seed of the operators.
        allocation_mode: "uniform", "fixed" or "learned".
        allocation_ratio: fixed mode: d_B / d.
        budget_b: fixed mode: d_B itself, in place of the ratio.
        allocation_scope: learned mode, "shared" (SharedIDModule) or "layer" (StructuredIDModule).
        gating_granularity: learned mode in scope "shared": what has a gate, every "layer" or every "module".
        gating_init: learned mode: gamma at the start.
        gating_steepness: learned mode in scope "layer": how sharply a gate divides a layer's slice.
        intrinsic_mode: kind of the operator, a key of `sublora.nn.operators.OPERATORS`.

    Raises:
        ConfigError: an unknown mode or kind, or sizes that do not fit.
    """
    if intrinsic_dim == 0:
        d = sum(p.numel() for p in net.parameters() if p.requires_grad)
        return IDModule(net, d, seed=seed, intrinsic_mode="identity")
    if allocation_mode == "uniform":
        return IDModule(net, intrinsic_dim, seed=seed, intrinsic_mode=intrinsic_mode)
    if allocation_mode not in ("fixed", "learned"):
        raise ConfigError(f"allocation_mode {allocation_mode!r} not recognized: uniform, fixed or learned")
    if allocation_mode == "learned" and allocation_scope == "shared":
        return SharedIDModule(
            net,
            intrinsic_dim,
            seed=seed,
            gating_init=gating_init,
            granularity=gating_granularity,
            intrinsic_mode=intrinsic_mode,
        )
    return StructuredIDModule(
        net,
        intrinsic_dim,
        seed=seed,
        allocation_mode=allocation_mode,
        allocation_ratio=allocation_ratio,
        intrinsic_mode=intrinsic_mode,
        gating_init=gating_init,
        gating_steepness=gating_steepness,
        budget_b=budget_b,
    )
