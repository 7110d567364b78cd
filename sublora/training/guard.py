"""When a run is to stop because it has diverged."""

import math
from pathlib import Path

from sublora.errors import TrainingError
from sublora.training.checkpoint import BEST, LAST

# The mean loss is taken over about this many steps.
STEPS_OF_THE_MEAN = 10


class DivergenceGuard:
    """Stops a run whose loss is not a number, or is far above what it was and above what knowing nothing costs.

    A spike is a running mean of the loss, over about ten steps, that is above 1.5 times the uniform code (log V nats a
    token) and above twice the lowest running mean so far. No run that recovers within a few steps meets both.
    The mean starts anew in a resumed run.

    Args:
        vocab_size: V.
        out_dir: folder of the run, for the name of the last good checkpoint.
    """

    def __init__(self, vocab_size: int, out_dir: Path) -> None:
        self.uniform = math.log(vocab_size)
        self.out_dir = out_dir
        self.mean: float | None = None
        self.lowest = math.inf

    def check(self, loss: float, gradient_norm: float, iteration: int, rate: float) -> None:
        """Look at one step.

        Raises:
            TrainingError: it has diverged; step, learning rate and the last good checkpoint are named.
        """
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            self.stop(f"the loss is {loss} (gradient norm {gradient_norm})", iteration, rate, LAST)
        self.mean = loss if self.mean is None else self.mean + (loss - self.mean) / STEPS_OF_THE_MEAN
        self.lowest = min(self.lowest, self.mean)
        if self.mean > max(1.5 * self.uniform, 2 * self.lowest):
            # The last checkpoint may have been written on the way up.
            what = f"the loss has risen to {self.mean:.2f} nats from {self.lowest:.2f} (uniform: {self.uniform:.2f})"
            self.stop(what, iteration, rate, BEST)

    def stop(self, what: str, iteration: int, rate: float, good: str) -> None:
        """Raise the error that says what happened, and what to do."""
        path = self.out_dir / good
        raise TrainingError(
            f"{what} at step {iteration}, learning rate {rate:g}: lower optimizer.learning_rate or set "
            f"optimizer.grad_clip; the last good checkpoint is {path if path.exists() else 'none'}"
        )
