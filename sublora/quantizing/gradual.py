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
from jaxtyping import Float, Float64, Int64
from torch.nn import functional as F

from sublora import seeds
from sublora.coding.feedback import FeedbackRounder, Rate, damped
from sublora.coding.quantizers import Quantized, step_index
from sublora.corpus.batches import sample_batch
from sublora.corpus.corpus import Split
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
    split: Split,
    curvature: Float[np.ndarray, "d d"],
    *,
    step: float,
    rate: Rate,
    steps: int,
    batch_size: int,
    block_size: int,
    seed: int,
) -> Quantized:
    """Quantize a model's alpha to a trellis grid while it is trained on.

    Args:
        model: at the alpha to start from; it is left at the alpha that is returned.
        split: training text.
        curvature: of the mean bits per token at that alpha, see `sublora.quantizing.curvature.fisher`.
        step, rate: as in `sublora.coding.feedback.feedback_quantize`.
        steps: gradient steps.
        batch_size, block_size: sequences, and tokens per sequence, of a step.
        seed: root of the stream of batches.

    Raises:
        ValueError: the curvature is not positive semidefinite.
    """
    rounder = FeedbackRounder(damped(curvature, _DAMPING, rate.shrinkage), step_index(step), rate)
    warmup = round(_WARMUP * steps)
    values = model.subspace_params.detach().double().cpu().numpy()
    model.eval()
    with progress("quantizing gradually", steps) as advance:
        for i in range(steps):
            x, y = sample_batch(split, seeds.stream(seed, "gradual", i), batch_size, block_size)
            free = slice(rounder.rounded, None)
            gradient = _gradient(model, x, y)[free]
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


def _gradient(
    model: SubspaceModule, x: Int64[np.ndarray, "batch block"], y: Int64[np.ndarray, "batch block"]
) -> Float64[np.ndarray, " d"]:
    """Return the gradient of the mean bits per token with respect to alpha."""
    device = model.subspace_params.device
    logits = model(input_ids=torch.from_numpy(x).to(device)).logits
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y).to(device).flatten()) / math.log(2)
    return torch.autograd.grad(loss, model.subspace_params)[0].double().cpu().numpy()
