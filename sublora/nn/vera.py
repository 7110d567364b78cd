"""VeRA as PEFT has it: all layers share two random matrices, and each scales their rows by numbers of its own.

A layer computes W x + diag(b) B diag(d) A x with trained b and d (Kopiczko et al. 2024, arXiv:2310.11454, eq. 2). A and
B are as wide and as high as the largest layer asks for; the others take their left and upper part. PEFT draws both with
torch's generator on the CPU: a Mersenne twister with the key as its seed, 24 bits to a number. Here the same bits come
from numpy's `RandomState`, whose stream is frozen for good, so a message means the same with every version of both.

Shape suffixes: o outputs, i inputs, r rank.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from sublora.nn.adapted import AdaptedLinear
from sublora.nn.places import layers_of_kinds
from sublora.nn.targets import shape_of


def shared_matrices(
    rank: int, inputs: int, outputs: int, key: int
) -> tuple[Float32[np.ndarray, "r i"], Float32[np.ndarray, "o r"]]:
    """Return A and B of a key: uniform in +-sqrt(6 / columns) (He et al. 2015), A's numbers drawn first."""
    bits = np.random.RandomState(key & 0xFFFFFFFF)
    return _uniform(bits, rank, inputs), _uniform(bits, outputs, rank)


def _uniform(bits: np.random.RandomState, rows: int, columns: int) -> Float32[np.ndarray, "m n"]:
    # The order of roots and quotients is PEFT's: another one would differ in the last digit.
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(columns))
    numbers = bits.randint(0, 1 << 32, (rows, columns), dtype=np.uint32) & 0xFFFFFF
    low, high = np.float32(-bound), np.float32(bound)
    # Rounded once, as by a fused multiply-add. A processor without one has another last digit in torch, not here.
    return (numbers * 2.0**-24 * np.float64(high - low) + np.float64(low)).astype(np.float32)


class VeraLinear(AdaptedLinear):
    """A linear layer beside its part of the shared matrices.

    Args:
        base_layer: see `AdaptedLinear`.
        a_ri, b_or: its part.
    """

    a_ri: Tensor
    b_or: Tensor

    def __init__(self, base_layer: nn.Module, a_ri: Float[Tensor, "r i"], b_or: Float[Tensor, "o r"]) -> None:
        super().__init__(base_layer)
        self.register_buffer("a_ri", a_ri, persistent=False)
        self.register_buffer("b_or", b_or, persistent=False)
        self.lambda_d = nn.Parameter(torch.zeros(len(a_ri)))
        self.lambda_b = nn.Parameter(torch.zeros(len(b_or)))

    def sides(self) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
        """Return diag(d) A and diag(b) B."""
        return self.lambda_d[:, None] * self.a_ri, self.lambda_b[:, None] * self.b_or


def add_vera(model: nn.Module, *, rank: int, kinds: int, key: int) -> nn.Module:
    """Put VeRA on linear layers, freeze everything else, and return the model.

    All numbers are 0. They are named `<layer>.lambda_d` and `<layer>.lambda_b`.

    Args:
        model: the base.
        rank: r.
        kinds: of linear layers, see `sublora.nn.places.kinds_of`.
        key: PEFT's `projection_prng_key`.

    Raises:
        MessageError: there are no such layers.
    """
    layers = [(name, module, *shape_of(module)) for name, module in layers_of_kinds(model, kinds)]
    widest, highest = max(inputs for *_, inputs in layers), max(outputs for _, _, outputs, _ in layers)
    a_ri, b_or = map(torch.from_numpy, shared_matrices(rank, widest, highest, key))
    model.requires_grad_(False)
    for name, module, outputs, inputs in layers:
        model.set_submodule(name, VeraLinear(module, a_ri[:, :inputs], b_or[:outputs]))
    return model
