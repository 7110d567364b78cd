"""P = I: every parameter is its own coordinate."""

from jaxtyping import Float
from torch import Tensor

from sublora.errors import ConfigError
from sublora.nn.operators.base import LinearOperator, Seed


class Identity(LinearOperator):
    """The identity; needs D = d."""

    def __init__(self, D: int, d: int, seed: Seed) -> None:
        super().__init__(D, d, seed)
        if d != D:
            raise ConfigError(f"the identity operator needs intrinsic_dim = D = {D}, not {d}")

    def matvec(self, alpha_d: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """Return alpha."""
        return alpha_d.clone()

    def adjoint(self, theta_D: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """Return theta."""
        return theta_D.clone()
