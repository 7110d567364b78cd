"""P = I: every parameter is a coordinate of its own."""

from torch import Tensor

from sublora.errors import ConfigError
from sublora.nn.operators.base import LinearOperator, Seed


class IdentityOperator(LinearOperator):
    """P = I, which trains all D parameters: LoRA without a subspace.

    Raises:
        ConfigError: d differs from D.
    """

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        if d != D:
            raise ConfigError(f"the identity operator needs d = D, but d is {d} and D is {D}")

    def _multiply(self, x_d: Tensor) -> Tensor:
        return x_d.clone()

    def _multiply_transposed(self, y_D: Tensor) -> Tensor:
        return y_D.clone()
