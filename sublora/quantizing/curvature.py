"""The curvature of the training loss in the coordinates of the subspace."""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from sublora import seeds
from sublora.corpus.batches import Batches
from sublora.nn.loss import SubspaceLogits
from sublora.nn.subspace import SubspaceModule
from sublora.progress import progress


def fisher_factor(model: SubspaceModule, batches: Batches, *, seed: int, samples: int) -> Float64[np.ndarray, "N d"]:
    """Return F such that F^T F is the Fisher information of alpha, an estimate of the Hessian of the loss in bits.

    The gradient of a row's bits is taken for labels drawn from the model itself given the row's contexts. Cross terms
    of different tokens vanish in expectation, so one backward pass per row is enough (Martens 2020, "New insights and
    perspectives on the natural gradient method", section 5).

    Args:
        model: at the alpha of interest.
        batches: what it is trained on, crops or documents; the loss is theirs.
        seed: root of the streams of rows and labels.
        samples: N, number of rows.

    Returns:
        A row per sample; F^T F is in bits per token, or byte, and squared coordinate.
    """
    model.eval()
    logits_of = SubspaceLogits(model)
    rows = np.empty((samples, model.d))
    with progress("measuring the curvature", samples) as advance:
        for i in range(samples):
            rng = seeds.stream(seed, "curvature", i)
            batch = batches.sample(rng, 1)
            log_p = logits_of(batch).double().log_softmax(-1)
            labels = _draw(log_p.detach(), rng)
            bits = -log_p.gather(1, labels).sum() / math.log(2)
            gradient = torch.autograd.grad(bits, model.subspace_params)[0].double().cpu().numpy()
            # All tokens of a row have one weight.
            rows[i] = math.sqrt(math.log(2) * float(batch.weights[0]) / samples) * gradient
            advance(1)
    return rows


def fisher(model: SubspaceModule, batches: Batches, *, seed: int, samples: int) -> Float64[np.ndarray, "d d"]:
    """Return the Fisher information of alpha, see `fisher_factor`; its rank is at most the number of samples."""
    factor = fisher_factor(model, batches, seed=seed, samples=samples)
    return factor.T @ factor


def _draw(log_p: Float[Tensor, "n V"], rng: np.random.Generator) -> Int[Tensor, "n 1"]:
    """Tokens drawn from their distributions, by the inverse of the distribution function."""
    uniform = torch.from_numpy(rng.random((len(log_p), 1))).to(log_p.device)
    # The clamp covers a sum that rounding leaves below the last uniform.
    return (log_p.exp().cumsum(-1) < uniform).sum(-1, keepdim=True).clamp(max=log_p.shape[-1] - 1)
