"""The learning-rate schedule."""

import math

from sublora.config import LearningRate


def learning_rate_factor(iteration: int, settings: LearningRate, peak: float, max_iters: int) -> float:
    """Return the learning rate of a step as a fraction of its peak: linear warm-up, then a cosine to min_lr / peak.

    Args:
        iteration: step, counted from 0.
        settings: the schedule.
        peak: learning rate that 1.0 stands for.
        max_iters: end of the cosine unless lr_decay_iters is given.
    """
    warmup = settings.warmup_iters
    if iteration < warmup:
        return (iteration + 1) / (warmup + 1)
    if not settings.decay_lr:
        return 1.0
    end = settings.lr_decay_iters or max_iters
    floor = settings.min_lr / peak if peak else 0.0
    done = min(max((iteration - warmup) / max(end - warmup, 1), 0.0), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
