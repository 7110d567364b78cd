"""Gates in training: their steepness schedule, and the alarm for gates that cannot learn."""

import pytest
import torch

from sublora.config import Sublora
from sublora.training.gates import GateWatch, steepness_factor


def test_the_steepness_grows_to_its_value_in_half_the_training():
    annealed = Sublora(gating_steepness=20, gating_steepness_init=2)
    factors = [steepness_factor(i, annealed, 100) for i in (0, 25, 50, 99)]
    assert factors == pytest.approx([0.1, 0.55, 1, 1])
    assert steepness_factor(0, Sublora(), 100) == 1


def test_a_gate_is_dead_if_no_step_gave_it_a_gradient():
    watch = GateWatch(["layer0", "layer1", "layer2"], epsilon=1e-6)
    assert watch.pop_dead() == []
    watch.see(torch.tensor([1e-9, 1e-3, 0.0]))
    watch.see(torch.tensor([-1e-5, 0.0, 1e-8]))
    assert watch.pop_dead() == ["layer2"]
    assert watch.pop_dead() == []
