"""Models whose trainable parameters are theta = theta0 + P alpha, with alpha the one trainable tensor.

Shape suffixes: d subspace coordinates, D parameters, g coordinates of one group.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from sublora.errors import ConfigError
from sublora.nn.allocation import Group, find_groups, largest_remainder, split_budget
from sublora.nn.operators import LinearOperator, make_operator


class SubspaceModule(nn.Module, ABC):
    """A module whose trainable parameters are replaced, at every call, by theta0 + (a linear function of alpha).

    Args:
        net: any module with trainable parameters. Their values at this moment are theta0; they are frozen here.
        intrinsic_dim: d, the number of coordinates, at least 1 and at most D.

    Attributes:
        subspace_params: alpha, shape (d,), zero at the start, so that the model starts at theta0.
        names: the D parameters' names, in `named_parameters()` order.

    Raises:
        ConfigError: nothing is trainable, or d is outside 1..D.
    """

    theta0: Tensor

    def __init__(self, net: nn.Module, intrinsic_dim: int) -> None:
        super().__init__()
        trainable = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError(
                "the model has no trainable parameters: enable LoRA (sublora.use_lora and a rank), or unfreeze some"
            )
        self.net = net
        self.names = [name for name, _ in trainable]
        self.shapes = [p.shape for _, p in trainable]
        self.sizes = [p.numel() for _, p in trainable]
        self.D = sum(self.sizes)
        self.d = intrinsic_dim
        if not 1 <= intrinsic_dim <= self.D:
            raise ConfigError(
                f"intrinsic_dim is {intrinsic_dim}, but must lie between 1 and the {self.D} trainable parameters"
            )
        theta0 = torch.cat([p.detach().reshape(-1).float() for _, p in trainable])
        self.register_buffer("theta0", theta0, persistent=False)
        for _, p in trainable:
            p.requires_grad_(False)
        self.subspace_params = nn.Parameter(torch.zeros(intrinsic_dim, device=theta0.device))
        self.groups = find_groups(self.names)
        self.record_gradients = False
        self._recorded: dict[int, Tensor] = {}

    @abstractmethod
    def blocks(self) -> list[tuple[list[int], Float[Tensor, " g"]]]:
        """Return the change of (some of) the parameters as pairs of their indices and their flat change."""

    @abstractmethod
    def group_energy(self, group: Group) -> float:
        """Return the norm of the gradient with respect to alpha that arrives through one group."""

    def gammas(self) -> Float[Tensor, " n_gates"] | None:
        """Return the share of B of each gate, None where nothing is gated."""
        return None

    def parameters_by_name(self) -> dict[str, Tensor]:
        """Return theta0 + P alpha as a dictionary of the replaced parameters, differentiable in alpha and the gates."""
        origin = self.theta0.split(self.sizes)
        values = dict(enumerate(origin))
        for number, (members, delta) in enumerate(self.blocks()):
            if self.record_gradients and delta.requires_grad:
                delta.register_hook(lambda grad, number=number: self._record(number, grad))
            for member, part in zip(members, delta.split([self.sizes[m] for m in members]), strict=True):
                values[member] = origin[member] + part
        return {
            name: values[i].view(shape) for i, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True))
        }

    def _record(self, number: int, grad: Tensor) -> None:
        seen = self._recorded.get(number)
        self._recorded[number] = grad.detach() if seen is None else seen + grad.detach()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module with its parameters replaced."""
        return functional_call(self.net, self.parameters_by_name(), args, kwargs)

    def pop_gradient_norms(self) -> dict[str, float]:
        """Return, per group, the norm of the gradient reaching alpha through it, and forget what was recorded.

        Set `record_gradients` before the forward pass. Gradients add up over the passes since the last call.
        """
        norms = {group.name: self.group_energy(group) for group in self.groups} if self._recorded else {}
        self._recorded.clear()
        return norms

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """Write theta0 + P alpha into the wrapped module and return it."""
        for name, value in self.parameters_by_name().items():
            self.net.get_parameter(name).copy_(value)
        return self.net


class IDModule(SubspaceModule):
    """One operator over all D parameters: allocation mode `uniform` (Lotfi et al. 2022, eq. 4; Li et al. 2018)."""

    def __init__(self, net: nn.Module, intrinsic_dim: int, *, seed: int, intrinsic_mode: str = "rdkronqr") -> None:
        super().__init__(net, intrinsic_dim)
        self.operator = make_operator(intrinsic_mode, self.D, intrinsic_dim, (seed, "operator"))

    def blocks(self) -> list[tuple[list[int], Float[Tensor, " g"]]]:
        """One block: every parameter."""
        return [(list(range(len(self.names))), self.operator(self.subspace_params))]

    def group_energy(self, group: Group) -> float:
        """The adjoint applied to the gradient of the group's parameters alone."""
        parts = self._recorded[0].split(self.sizes)
        kept = torch.cat([part if i in group.members else torch.zeros_like(part) for i, part in enumerate(parts)])
        return float(self.operator.adjoint(kept).norm())


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
    """Allocation modes `fixed` and `learned`: A and B read different coordinates through operators of their own.

    fixed: alpha = [alpha_A | alpha_B], d_B = round(ratio d); parameters that are neither A nor B join A.

    learned: layer l has a gate, gamma_l = sigmoid(theta_l), and reads alpha through
    mask_i = sigmoid(C (gamma_l - (i + 1/2) / d_l)) for B and 1 - mask for A. The transition is d_l / C coordinates
    wide, a fraction of the coordinates: a transition of 1 / C of one coordinate has a gradient at one coordinate only.
    With scope `layer` a layer owns a slice of alpha; with scope `shared` all layers read the whole of it and P's
    columns are scaled so that all groups together have unit norm. Parameters outside the layers are not gated.

    Args:
        net: as in SubspaceModule.
        intrinsic_dim: d.
        seed: root seed; every group's operator has a stream of its own.
        allocation_mode: "fixed" or "learned".
        allocation_ratio: share of B (fixed) or initial gamma (learned).
        allocation_scope: "layer" or "shared" (learned only).
        gating_steepness: C (learned only).
        budget_b: d_B, in place of the ratio (fixed only; the decoder knows the integer).

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
        allocation_scope: str = "shared",
        intrinsic_mode: str = "rdkronqr",
        gating_steepness: float = 10,
        budget_b: int | None = None,
    ) -> None:
        super().__init__(net, intrinsic_dim)
        if not {"A", "B"} <= {group.side for group in self.groups}:
            raise ConfigError(
                f"allocation_mode {allocation_mode!r} divides alpha between LoRA's A and B, and the model has none: "
                "set sublora.use_lora=true"
            )
        self.steepness = float(gating_steepness)
        self.gating_params: nn.Parameter | None = None
        if allocation_mode == "fixed":
            d_b = split_budget(intrinsic_dim, allocation_ratio)[1] if budget_b is None else budget_b
            readings = self._fixed_readings(d_b)
        else:
            readings = self._learned_readings(allocation_scope)
            layers = sorted({g.layer for g in self.groups if g.layer is not None})
            self.gating_params = nn.Parameter(
                torch.full((len(layers),), _logit(allocation_ratio), device=self.theta0.device)
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

    def _learned_readings(self, scope: str) -> list[Reading]:
        regions: dict[int | None, list[Group]] = {}
        for group in self.groups:
            regions.setdefault(group.layer, []).append(group)
        rows = [sum(map(self._rows, groups)) for groups in regions.values()]
        widths = largest_remainder(rows, self.d) if scope == "layer" else [self.d] * len(regions)
        readings, start, gate = [], 0, 0
        for (layer, groups), region_rows, width in zip(regions.items(), rows, widths, strict=True):
            # The groups that share coordinates divide one unit of column norm: learning rates carry over between modes.
            whole = region_rows if scope == "layer" else self.D
            for group in groups:
                norm = math.sqrt(self._rows(group) / whole)
                readings.append(Reading(group, start, width, None if layer is None else gate, norm))
            start += width if scope == "layer" else 0
            gate += layer is not None
        return readings

    def gammas(self) -> Float[Tensor, " n_gates"] | None:
        """Return gamma = sigmoid(gating_params) of each layer, None in fixed mode."""
        return None if self.gating_params is None else torch.sigmoid(self.gating_params)

    def _mask(self, reading: Reading) -> Float[Tensor, " width"] | float:
        """The share of each coordinate that a group reads."""
        if reading.gate is None or self.gating_params is None:
            return 1.0
        position = (torch.arange(reading.width, device=self.gating_params.device) + 0.5) / reading.width
        mask_b = torch.sigmoid(self.steepness * (torch.sigmoid(self.gating_params[reading.gate]) - position))
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


def _logit(gamma: float) -> float:
    return math.log(gamma / (1 - gamma))


def create_intrinsic_model(
    net: nn.Module,
    *,
    intrinsic_dim: int,
    seed: int,
    allocation_mode: str = "uniform",
    allocation_ratio: float = 0.5,
    allocation_scope: str = "shared",
    intrinsic_mode: str = "rdkronqr",
    gating_steepness: float = 10,
    budget_b: int | None = None,
) -> SubspaceModule:
    """Wrap any module with trainable parameters so that only alpha (and the gates) are trained.

    Args:
        net: the module; its trainable parameters are the D coordinates of theta.
        intrinsic_dim: d; 0 trains all D parameters (P is the identity).
        seed: root seed of the operators.
        allocation_mode, allocation_ratio, allocation_scope, gating_steepness, budget_b: see StructuredIDModule.
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
    return StructuredIDModule(
        net,
        intrinsic_dim,
        seed=seed,
        allocation_mode=allocation_mode,
        allocation_ratio=allocation_ratio,
        allocation_scope=allocation_scope,
        intrinsic_mode=intrinsic_mode,
        gating_steepness=gating_steepness,
        budget_b=budget_b,
    )
