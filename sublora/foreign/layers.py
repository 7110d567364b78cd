"""Where an adapter from elsewhere stands in a base: the layers that it changes, and what of a message covers them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from sublora.config import Sublora
from sublora.config.sections.model import Targets
from sublora.errors import AdapterError, ConfigError
from sublora.foreign.reading import ForeignAdapter, shown
from sublora.nn.targets import find_targets, shape_of

PREFIX = "base_model.model."
"""of every module in the names of PEFT's tensors"""


@dataclass(frozen=True, eq=False)
class Expressed:
    """An adapter in the terms of a message.

    Attributes:
        section: the adapter that has a place for it, all of whose parameters are coordinates.
        values: by the names of parameters. A smaller tensor is the leading block of its parameter; what is not here
            stays at theta0, where it changes nothing.
        seed: that its fixed matrices are made of; None: any will do.
    """

    section: Sublora
    values: Mapping[str, Tensor]
    seed: int | None = None


@dataclass(frozen=True)
class Place:
    """The layers of a base that a message can name.

    Attributes:
        base: the base.
        inside: its linear layers inside the transformer layers, by name.
        attention: names of the query and value projections among them.
        head: name of the output head; "" where there is none.
    """

    base: PreTrainedModel
    inside: Mapping[str, nn.Module]
    attention: frozenset[str]
    head: str

    @staticmethod
    def of(base: PreTrainedModel) -> "Place":
        """Return the layers of a base; raises ConfigError where no linear layer lies inside its layers."""
        try:
            attention = frozenset(name for name, _ in find_targets(base, "attention"))
        except ConfigError:
            attention = frozenset()
        head = base.get_output_embeddings()
        head_name = next((name for name, module in base.named_modules() if module is head), "")
        return Place(base, dict(find_targets(base, "linear")), attention, head_name)

    def shape(self, name: str, adapter: ForeignAdapter) -> tuple[int, int]:
        """Return outputs and inputs of the linear layer that an adapter changes.

        Raises:
            AdapterError: the base has no such layer, or no message can name it.
        """
        modules = dict(self.base.named_modules())
        if name not in modules:
            raise AdapterError(
                f"the adapter changes {shown(name)}, which the base does not have: give the base that it was trained "
                f"on (it names {adapter.base_name})"
            )
        if name not in self.inside and name != self.head:
            raise AdapterError(
                f"the adapter changes {name}, and a message can only name linear layers inside the transformer layers "
                "and the output head: train one on these"
            )
        return shape_of(modules[name])

    def targets(self, names: Iterable[str]) -> Targets:
        """Return the smallest of a message's sets of layers that holds all of these (the head aside)."""
        return "attention" if set(names) - {self.head} <= self.attention else "linear"
