"""The base of all models whose trainable parameters are theta = theta0 + P alpha, with alpha the one trainable tensor.

Shape suffixes: d subspace coordinates, D parameters, g parameters of one block.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sublora.errors import ConfigError
from sublora.nn.allocation import Group, find_groups
from sublora.nn.called import call_with
from sublora.nn.language_model import FORWARD, LanguageModel
from sublora.nn.origin import Origin


class SubspaceModule(LanguageModel, ABC):
    """A module whose trainable parameters are replaced, at every call, by theta0 + (a linear function of alpha).

    A causal language model in it still answers as one of transformers or PEFT: it generates, is trained by their
    Trainer, and saves the trained adapter. Its state is alpha, the gates and a fingerprint, and nothing else.

    Args:
        net: any module with trainable parameters. Their values at this moment are theta0; they are frozen here. What
            `net` itself saves from now on are the trained parameters.
        intrinsic_dim: d, the number of coordinates, at least 1 and at most D.
        map_name: what the linear function follows from, beside the parameters: kind, seed, budgets.

    Attributes:
        subspace_params: alpha, shape (d,), zero at the start, so that the model starts at theta0.
        gating_params: logits of the gates, trained too; None where nothing is gated.
        names: the D parameters' names, in `named_parameters()` order.
        fingerprint: SHA-256 of theta0 and of what alpha means, as 32 numbers. A state is loaded only where it has the
            same.
        origin: how theta0 is made again, where a message can say it.

    Raises:
        ConfigError: nothing is trainable, or d is outside 1..D.
    """

    theta0: Tensor
    fingerprint: Tensor
    origin: Origin | None = None

    def __init__(self, net: nn.Module, intrinsic_dim: int, map_name: Sequence[str | int | float] = ()) -> None:
        super().__init__()
        trainable = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError(
                "the model has no trainable parameters: add an adapter (sublora.adapter and a rank), or unfreeze some"
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
        self.register_buffer("fingerprint", self._fingerprint(map_name))
        self._on_saving = net.register_state_dict_pre_hook(self._before_saving)
        self.groups = find_groups(self.names)
        self.gating_params: nn.Parameter | None = None
        self.gate_names: tuple[str, ...] = ()
        self.record_gradients = False
        self._recorded: dict[int, Tensor] = {}

    @abstractmethod
    def blocks(self) -> list[tuple[list[int], Float[Tensor, " g"]]]:
        """Return the change of (some of) the parameters as pairs of their indices and their flat change."""

    @abstractmethod
    def group_energy(self, group: Group) -> float:
        """Return the norm of the gradient with respect to alpha that arrives through one group."""

    def gates(self) -> dict[str, float]:
        """Return the value of every gate in (0, 1) by its name: `layer3` is the share of B in that layer."""
        if self.gating_params is None:
            return {}
        return dict(zip(self.gate_names, torch.sigmoid(self.gating_params).tolist(), strict=True))

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
        return call_with(self.net, self.parameters_by_name(), args, **kwargs)

    def pop_gradient_norms(self) -> dict[str, float]:
        """Return, per group, the norm of the gradient reaching alpha through it, and forget what was recorded.

        Set `record_gradients` before the forward pass. Gradients add up over the passes since the last call.
        """
        norms = {group.name: self.group_energy(group) for group in self.groups} if self._recorded else {}
        self._recorded.clear()
        return norms

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """Write theta0 + P alpha into the wrapped module and return it.

        This module never reads them there: its own theta0 stays what it was.
        """
        for name, value in self.parameters_by_name().items():
            self.net.get_parameter(name).copy_(value)
        return self.net

    def release(self) -> nn.Module:
        """Write theta0 + P alpha into the wrapped module, let go of it, and return it."""
        self._on_saving.remove()
        return self.materialize()

    def _before_saving(self, *_: Any) -> None:
        """The wrapped module is asked for its state: what it holds is what was trained."""
        self.materialize()

    def _fingerprint(self, map_name: Sequence[str | int | float]) -> Tensor:
        digest = hashlib.sha256(repr((*map_name, self.d, self.names, list(map(tuple, self.shapes)))).encode())
        digest.update(self.theta0.cpu().numpy().data)
        return torch.tensor(list(digest.digest()), dtype=torch.uint8, device=self.theta0.device)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return alpha, the gates and the fingerprint; the frozen model is not part of the state."""
        state: Any = OrderedDict() if destination is None else destination
        self._save_to_state_dict(state, prefix, keep_vars)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take alpha and the gates of a state that was made on the same theta0.

        Args:
            state_dict: of a model that was made in the same way.
            strict: whether every name must be there, and no other.
            assign: as in torch.

        Raises:
            ConfigError: another theta0, operator or allocation, with `strict` or without; other names.
        """
        found = state_dict.get("fingerprint")
        if found is None or not torch.equal(torch.as_tensor(found).cpu(), self.fingerprint.cpu()):
            raise ConfigError(
                "this state belongs to another theta0, operator or allocation: make the model as it was made then, "
                "with the same LoRA initialisation, d and seed (sublora.wrap of a plain base adds LoRA from the seed)"
            )
        own = self.state_dict()
        result = super().load_state_dict({k: state_dict[k] for k in own if k in state_dict}, False, assign)
        result.missing_keys[:] = [name for name in own if name not in state_dict]
        result.unexpected_keys[:] = [name for name in state_dict if name not in own]
        if strict and (wrong := [*result.missing_keys, *result.unexpected_keys]):
            raise ConfigError(f"this state is not that of a subspace: {wrong[0]} is missing or too much")
        return result


SubspaceModule.forward.__signature__ = FORWARD  # type: ignore[attr-defined]
