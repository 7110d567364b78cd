"""Devices that a test may ask for."""

import pytest
import torch


def device_or_skip(name):
    """Return a device of torch; a test that asks for one that is not here is skipped."""
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)
