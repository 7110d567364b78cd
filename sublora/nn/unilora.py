"""Uni-LoRA as PEFT has it: every entry of every LoRA matrix is one of d trained numbers, over the root of its uses.

Which number stands where follows from a seed alone (arXiv:2506.00799; PEFT 0.21, `tuners/unilora`): the number j
stands in floor(D / d) or ceil(D / d) of the D places, in an order that numpy's `Generator` with PCG64 shuffles. PCG64's
bits are the same with every version of numpy. How `choice` and `shuffle` read them is not promised, so the tests hold
hashes of what they give: with another version that read them otherwise, a certificate would be refused, not believed.

`sublora.nn.operators.partition` is our own construction of the same kind; its places are others.

Shape suffixes: o outputs, i inputs, r rank, d trained numbers, D places.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sublora.errors import ConfigError
from sublora.nn.adapted import AdaptedLinear
from sublora.nn.places import layers_of_kinds
from sublora.nn.targets import shape_of

VECTOR = "unilora"
"""name of the module that holds the numbers, in the base"""


def assigned(places: int, numbers: int, seed: int) -> Int64[np.ndarray, " D"]:
    """Return which of d numbers stands in each of D places.

    Raises:
        ConfigError: more numbers than places.
    """
    if numbers > places:
        raise ConfigError(f"a vector of {numbers} numbers is longer than the {places} places of its adapter")
    rng = np.random.Generator(np.random.PCG64(seed))
    whole, rest = divmod(places, numbers)
    order = np.repeat(np.arange(numbers), whole)
    if rest:
        order = np.concatenate([order, rng.choice(numbers, size=rest, replace=False)])
    rng.shuffle(order)
    return order


class Vector(nn.Module):
    """The trained numbers; `scale` divides each by the root of its uses."""

    scale: Tensor

    def __init__(self, counts: Int64[np.ndarray, " d"]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(len(counts)))
        # PEFT's arithmetic: the reciprocal root in float32.
        self.register_buffer("scale", torch.from_numpy(counts).float().rsqrt(), persistent=False)

    def forward(self) -> Float[Tensor, " d"]:
        """Return the numbers as they stand in the matrices."""
        return self.theta * self.scale


class UniLoraLinear(AdaptedLinear):
    """A linear layer whose two sides are filled from the vector.

    Args:
        base_layer: see `AdaptedLinear`.
        vector: of all layers.
        places_a, places_b: which number stands where.
    """

    places_a_ri: Tensor
    places_b_or: Tensor

    def __init__(
        self,
        base_layer: nn.Module,
        vector: Vector,
        places_a: Int64[np.ndarray, "r i"],
        places_b: Int64[np.ndarray, "o r"],
    ) -> None:
        super().__init__(base_layer)
        # In a tuple it is not registered again: one module has one place.
        self._vector = (vector,)
        self.register_buffer("places_a_ri", torch.from_numpy(places_a.copy()), persistent=False)
        self.register_buffer("places_b_or", torch.from_numpy(places_b.copy()), persistent=False)

    def sides(self) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
        """Return A and B."""
        values = self._vector[0]()
        return values[self.places_a_ri], values[self.places_b_or]


def add_unilora(model: nn.Module, *, rank: int, kinds: int, length: int, seed: int) -> nn.Module:
    """Put Uni-LoRA on linear layers, freeze everything else, and return the model.

    All numbers are 0. They are the parameter `unilora.theta`.

    Args:
        model: the base.
        rank: r.
        kinds: of linear layers, see `sublora.nn.places.kinds_of`.
        length: d.
        seed: PEFT's `proj_seed`.

    Raises:
        ConfigError: more numbers than places.
        MessageError: there are no such layers.
    """
    layers = [(name, module, shape_of(module)) for name, module in layers_of_kinds(model, kinds)]
    places = sum(rank * (outputs + inputs) for _, _, (outputs, inputs) in layers)
    order = assigned(places, length, seed)
    vector = Vector(np.bincount(order, minlength=length))
    model.requires_grad_(False)
    at = 0
    for name, module, (outputs, inputs) in layers:
        middle, end = at + rank * inputs, at + rank * (inputs + outputs)
        sides = order[at:middle].reshape(rank, inputs), order[middle:end].reshape(outputs, rank)
        model.set_submodule(name, UniLoraLinear(module, vector, *sides))
        at = end
    model.add_module(VECTOR, vector)
    return model
