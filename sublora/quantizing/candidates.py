"""The quantizations of a trained model that a certificate's message is chosen from, and the choice."""

import logging
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from sublora.coding.feedback import feedback_quantize, plan
from sublora.coding.quantizers import Quantized, quantize
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.corpus.batches import Batches
from sublora.quantizing.curvature import fisher_factor
from sublora.quantizing.gradual import gradual_quantize
from sublora.quantizing.trained import Trained
from sublora.quantizing.wrapper import QuantizingWrapper

log = logging.getLogger(__name__)

# Quantization steps that are tried, as multiples of the root mean square of alpha. Feedback affords coarser ones.
STEPS = {"trellis": (0.1, 0.15, 0.21, 0.3), "feedback": (0.5, 1.0, 1.5, 2.0)}

# Bits per coordinate at which the price of a bit is taken before there is a message.
PLANNED_RATE = 1.5

Candidate = tuple[Quantized | None, Float[np.ndarray, " gates"]]


# What a quantization is written as: the estimated bound of its message, and the message.
Written = tuple[float, bytes]


def best_message(
    trained: Trained,
    price_of_a_bit: Callable[[], float],
    write: Callable[[Quantized | None, Float[np.ndarray, " gates"]], Written],
) -> Written:
    """Return the lowest estimated bound over quantizations, and its message.

    Where no message can say anything, all are estimated at the same limit: of equal ones the shortest is kept.

    Args:
        trained: the model.
        price_of_a_bit: see `candidates`.
        write: makes a quantization and its gates a message, and estimates its bound.
    """
    written = (write(quantized, gates) for quantized, gates in candidates(trained, price_of_a_bit))
    return min(written, key=lambda found: (found[0], len(found[1])))


def candidates(trained: Trained, price_of_a_bit: Callable[[], float]) -> list[Candidate]:
    """Return the quantizations to choose from, each with its gates.

    Args:
        trained: the model.
        price_of_a_bit: by how much one more bit raises the bound; asked where bits are weighed while quantizing.
    """
    b, alpha = trained.config.bounds, trained.alpha
    if trained.spec.adapter == "none":
        return [(None, trained.gates)]
    if b.quantizer in ("uniform", "kmeans") and b.max_quant_iters:
        return [_quantization_aware(trained)]
    if b.quantizer == "feedback":
        return [(quantized, trained.gates) for quantized in _feedback(trained, price_of_a_bit)]
    if b.quantizer not in STEPS:
        return [(quantize(alpha, levels=b.levels, method=b.quantizer), trained.gates)]
    # At high rate a step s costs s^2 / 24 in half the squared error, and a bit is worth ln 2 / 12 s^2 of it.
    lagrangians = [(factor * trained.rms) ** 2 * math.log(4) / 12 for factor in STEPS["trellis"]]
    ones = np.ones(len(alpha))
    return [(rate_distortion_quantize(alpha, ones, lagrangian), trained.gates) for lagrangian in lagrangians]


def _batches(trained: Trained) -> Batches:
    """What the model was trained on, with the words in their own order."""
    return Batches(trained.train, trained.architecture.block_size, trained.config.data.batching, trained.prompt_tokens)


def _quantization_aware(trained: Trained) -> Candidate:
    """Alpha and gates after training with a learned codebook."""
    b = trained.config.bounds
    wrapper = QuantizingWrapper(trained.model(), levels=b.levels, method=b.quantizer)
    wrapper.fit(
        _batches(trained),
        steps=b.max_quant_iters,
        learning_rate=b.quant_lr,
        batch_size=trained.config.data.batch_size,
        seed=trained.spec.seed,
    )
    return wrapper.quantized(), wrapper.quantized_gates()


def _feedback(trained: Trained, price_of_a_bit: Callable[[], float]) -> list[Quantized]:
    """Alpha with errors that the curvature of the loss directs: in one go, or while it is trained on."""
    b, alpha, batches = trained.config.bounds, trained.alpha, _batches(trained)
    model = trained.model(trained.gates)
    factor = fisher_factor(model, batches, seed=trained.spec.seed, samples=b.curvature_samples)
    if not b.max_quant_iters:
        return [feedback_quantize(alpha, factor, multiple * trained.rms) for multiple in STEPS["feedback"]]
    step, rate = plan(alpha, factor, price_of_a_bit())
    log.info(
        "planned step %.3g and scale %.3g times the root mean square", step / trained.rms, rate.scale / trained.rms
    )
    return [
        gradual_quantize(
            model,
            batches,
            factor,
            step=step,
            rate=rate,
            steps=b.max_quant_iters,
            batch_size=trained.config.data.batch_size,
            seed=trained.spec.seed,
        )
    ]
