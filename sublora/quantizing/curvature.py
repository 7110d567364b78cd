"""The curvature of the training loss in the coordinates of the subspace."""

import math

import numpy as np
import torch
from jaxtyping import Float

from sublora import seeds
from sublora.corpus.batches import sample_batch
from sublora.corpus.corpus import Split
from sublora.nn.subspace import SubspaceModule
from sublora.progress import progress

# The matrix has d^2 float64 entries, and inverting it takes d^3 operations.
MAX_DIMENSION = 4096


def fisher(
    model: SubspaceModule, split: Split, *, seed: int, samples: int, block_size: int
) -> Float[np.ndarray, "d d"]:
    """Return the Fisher information of alpha, an estimate of the Hessian of the mean bits per token.

    The gradient of a sequence's bits is taken for labels drawn from the model itself given the sequence's contexts.
    Cross terms of different tokens vanish in expectation, so one backward pass per sequence is enough (Martens 2020,
    "New insights and perspectives on the natural gradient method", section 5).

    Args:
        model: at the alpha of interest.
        split: training text.
        seed: root of the streams of sequences and labels.
        samples: N, number of sequences.
        block_size: T, tokens per sequence.

    Returns:
        The matrix, in bits per token and squared coordinate; its rank is at most N.
    """
    model.eval()
    device = model.subspace_params.device
    gradients = np.empty((samples, model.d))
    with progress("measuring the curvature", samples) as advance:
        for i in range(samples):
            rng = seeds.stream(seed, "curvature", i)
            x, _ = sample_batch(split, rng, 1, block_size)
            log_p = model(input_ids=torch.from_numpy(x).to(device)).logits[0].double().log_softmax(-1)
            uniform = torch.from_numpy(rng.random((block_size, 1))).to(device)
            # Inverse of the distribution function; the clamp covers a sum that rounding leaves below the last uniform.
            labels = (log_p.detach().exp().cumsum(-1) < uniform).sum(-1, keepdim=True).clamp(max=log_p.shape[-1] - 1)
            bits = -log_p.gather(1, labels).sum() / math.log(2)
            gradients[i] = torch.autograd.grad(bits, model.subspace_params)[0].double().cpu().numpy()
            advance(1)
    return math.log(2) / (samples * block_size) * (gradients.T @ gradients)
