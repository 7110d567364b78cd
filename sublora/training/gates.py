"""What training does for gates: the schedule of their steepness, and a watch for gates that cannot learn."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sublora.config import Sublora


def steepness_factor(iteration: int, sublora: Sublora, max_iters: int) -> float:
    """Return what the steepness is multiplied with at a step: linear from gating_steepness_init / C to 1 at half time.

    A wide transition gives a gate a gradient from all its coordinates; the mask is measured and coded with C itself.
    """
    if sublora.gating_steepness_init is None:
        return 1.0
    start = sublora.gating_steepness_init / sublora.gating_steepness
    return start + (1 - start) * min(1.0, 2 * iteration / max_iters)


class GateWatch:
    """Finds gates whose gradient is numerically dead.

    Adam divides a gradient by its own running size plus epsilon, so a small gradient moves a gate as far as a large
    one, until it is below epsilon: a gate is dead if it was there in every step since the last look.
    """

    def __init__(self, names: Sequence[str], epsilon: float) -> None:
        self.names = names
        self.epsilon = epsilon
        self.largest: Tensor | None = None

    def see(self, gradient: Float[Tensor, " gates"]) -> None:
        """Take note of the gradient of one step."""
        size = gradient.detach().abs()
        self.largest = size if self.largest is None else torch.maximum(self.largest, size)

    def pop_dead(self) -> list[str]:
        """Return the names of the gates that were dead since the last call."""
        if self.largest is None:
            return []
        dead = [name for name, size in zip(self.names, self.largest.tolist(), strict=True) if size < self.epsilon]
        self.largest = None
        return dead
