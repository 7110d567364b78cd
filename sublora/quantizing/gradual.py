"""Gradual quantization: round a few coordinates at a time, and let gradients move those that are still free.

Error feedback trusts the curvature at alpha, and far from alpha that is wrong: at 1.5 bits a coordinate the quadratic
model promises 0.1 bits per token where the true loss rises by 4. Here every block of roundings is small, and between
two blocks the free coordinates take a step down the true loss (as in incremental quantization: Zhou et al. 2017),
preconditioned by the same curvature, with the bits' own pull towards zero. So coordinates along which the loss is flat
end near zero and cost little.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64

from sublora import seeds
from sublora.coding.feedback import FeedbackRounder, Rate, damping
from sublora.coding.quantizers import Quantized, step_index
from sublora.corpus.batches import Batch, Batches
from sublora.nn.loss import SubspaceLoss
from sublora.nn.subspace import SubspaceModule
from sublora.progress import progress

# Share of a whole Newton step that one step takes.
_LEARNING_RATE = 0.1
# Share of the steps before the first rounding: they move alpha to where loss and bits together are least.
_WARMUP = 0.2
# Of the curvature's mean diagonal. More than feedback in one go needs: steps stay where the curvature is right.
_DAMPING = 0.2
# No batch may ask for more than a Newton step that promises this squared over 2, in bits per token.
_CLIP = 1.0


def gradual_quantize(
    model: SubspaceModule,
    batches: Batches,
    factor: Float[np.ndarray, "N d"],
    *,
    step: float,
    rate: Rate,
    steps: int,
    batch_size: int,
    seed: int,
) -> Quantized:
    """Quantize a model's alpha to a trellis grid while it is trained on.

    Args:
        model: at the alpha to start from; it is left at the alpha that is returned.
        batches: what it is trained on, crops or documents.
        factor: of the curvature of the loss in bits at that alpha, see `sublora.quantizing.curvature.fisher_factor`.
        step: of the grid.
        rate: what symbols cost, as in `sublora.coding.feedback.feedback_quantize`.
        steps: gradient steps.
        batch_size: rows of a step.
        seed: root of the stream of batches.

    Raises:
        ValueError: the curvature is not finite.
    """
    rounder = FeedbackRounder(factor, damping(factor, _DAMPING, rate.shrinkage), step_index(step), rate)
    warmup = round(_WARMUP * steps)
    values = model.subspace_params.detach().double().cpu().numpy()
    model.eval()
    loss = SubspaceLoss(model).eval()
    with progress("quantizing gradually", steps) as advance:
        for i in range(steps):
            batch = batches.sample(seeds.stream(seed, "gradual", i), batch_size)
            free = slice(rounder.rounded, None)
            gradient = _gradient(loss, batch)[free]
            newton = rounder.descend(gradient)
            newton *= min(1.0, _CLIP / max(math.sqrt(gradient @ newton), 1e-30))
            values[free] -= _LEARNING_RATE * (newton + rounder.descend(rate.shrinkage * values[free]))
            due = math.ceil(model.d * (i + 1 - warmup) / (steps - warmup))
            if due > rounder.rounded:
                values = rounder.advance(values, due - rounder.rounded)
            with torch.no_grad():
                model.subspace_params.copy_(torch.from_numpy(values))
            advance(1)
    return rounder.quantized()


def _gradient(loss: SubspaceLoss, batch: Batch) -> Float64[np.ndarray, " d"]:
    """Return the gradient of a batch's loss in bits with respect to alpha."""
    bits = loss.of(batch) / math.log(2)
    return torch.autograd.grad(bits, loss.subspace.subspace_params)[0].double().cpu().numpy()
