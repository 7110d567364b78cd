"""Quantization with error feedback: what one coordinate loses by rounding, the later ones make up for. Torch-free."""

import numpy as np
from jaxtyping import Float

from sublora.coding.codebooks import grid_scale
from sublora.coding.quantizers import Quantized, check_coordinates, quantize_uniform, step_index

# Added to the curvature's diagonal, as a share of its mean: what a sample does not see is not free.
DAMPING = 0.03


def feedback_quantize(alpha: Float[np.ndarray, " d"], curvature: Float[np.ndarray, "d d"], step: float) -> Quantized:
    """Round alpha to a uniform grid, coordinate by coordinate, moving those not yet rounded to the loss's new minimum.

    With e = q - alpha and the second-order model of the loss, e^T H e / 2, the best values of the coordinates that are
    still free, given the rounded ones, follow from the Cholesky factor U of H^-1 = U^T U: after an error of r in
    coordinate i they move by -r U_ij / U_ii. This is successive ("Babai") rounding in the lattice with Gram matrix H
    (Babai 1986; Frantar et al. 2023, "GPTQ", eq. 2, for the weights of a layer). Rounding errors end up where the loss
    is flat, so a coarser step, and a shorter message, costs the same loss.

    Args:
        alpha: coordinates.
        curvature: H, symmetric and positive semidefinite, in any unit.
        step: distance of grid points; the nearest step that a message can hold is taken.

    Raises:
        ValueError: alpha is not finite, or the curvature has another shape or is not positive semidefinite.
    """
    values = check_coordinates(alpha).astype(np.float64)
    d = len(values)
    if curvature.shape != (d, d) or not np.isfinite(curvature).all():
        raise ValueError(f"the curvature of {d} coordinates must be a finite {d} x {d} matrix")
    grid = grid_scale(step_index(step))
    damping = DAMPING * np.trace(curvature) / d or 1.0
    try:
        upper = np.linalg.cholesky(np.linalg.inv(curvature + damping * np.eye(d))).T
    except np.linalg.LinAlgError as error:
        raise ValueError("the curvature is not positive semidefinite") from error
    rounded = np.empty(d)
    for i in range(d):
        rounded[i] = np.round(values[i] / grid)
        values[i + 1 :] -= (values[i] - rounded[i] * grid) / upper[i, i] * upper[i, i + 1 :]
    return quantize_uniform(rounded * grid, grid)
