"""A wager against a bound on the mean of losses that come one after the other, settled whenever somebody looks.

Suffix k: accounts.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Losses that each account remembers, with weights that fall exponentially. An account that remembers everything would
# take as long to notice a drift as the losses were good before it; a short memory notices large drifts sooner.
MEMORIES = (30.0, 300.0)
# Share of an account that can be lost in one bet.
LARGEST_BET = 0.5
# What the variance is taken for before any loss is known, with the weight of one loss.
FIRST_VARIANCE = 1 / 16


@dataclass(frozen=True)
class Wager:
    """Accounts that bet that losses are above a bound on their mean; a capital of 1 is divided evenly between them.

    An excess is z = (loss - bound) / (bound - lower): at least -1, and of mean at most 0 if the bound is true. Before a
    loss is seen, an account bets the share

        b = clip(mean / (variance + mean^2), 0, LARGEST_BET)

    of its wealth, with mean and variance of the excesses that it remembers; then its wealth is multiplied by 1 + b z.
    As long as E[z | past] <= 0, the capital is a nonnegative supermartingale that begins at 1, so by Ville's inequality
    it ever reaches 1/alpha with probability at most alpha, however often one looks.

    read: losses so far.
    wealth: of each account; any leading axes are wagers beside each other, that read losses of their own.
    sums: of the excesses that each account remembers, with their weights.
    squares: of their deviations from the mean at their time, with their weights.

    Source: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", arXiv 2010.09686,
    section 5 and appendix B (approximate GRAPA), with estimates that forget; Ville 1939.
    """

    read: int
    wealth: Float[np.ndarray, "*wagers k"]
    sums: Float[np.ndarray, "*wagers k"]
    squares: Float[np.ndarray, "*wagers k"]

    @staticmethod
    def begin(shape: tuple[int, ...] = ()) -> "Wager":
        """Return a wager that has read nothing, or a whole array of them."""
        full = (*shape, len(MEMORIES))
        return Wager(0, np.full(full, 1 / len(MEMORIES)), np.zeros(full), np.zeros(full))

    @property
    def capital(self) -> Float[np.ndarray, "*wagers"]:
        """The wealth of all accounts together."""
        return np.asarray(self.wealth.sum(-1))

    def bets(self) -> Float[np.ndarray, "*wagers k"]:
        """Return the share of its wealth that each account bets on the next loss."""
        weight = _weight(self.read)
        mean, variance = self.sums / weight, (FIRST_VARIANCE + self.squares) / weight
        return np.clip(mean / (variance + mean**2), 0, LARGEST_BET)

    def after(self, excess: Float[np.ndarray, "*wagers"]) -> "Wager":
        """Return the wager when the next loss is known.

        Args:
            excess: (loss - bound) / (bound - lower), of each wager.

        Raises:
            ValueError: a loss below its lower limit, or one that is no number: the wager would prove nothing.
        """
        if not (np.isfinite(excess).all() and (excess >= -1).all()):
            raise ValueError("an excess is below -1 or no number: the loss is outside its limits")
        z = np.asarray(excess)[..., None]
        sums = _KEPT * self.sums + z
        deviations = z - sums / _weight(self.read + 1)
        return dataclasses.replace(
            self,
            read=self.read + 1,
            wealth=self.wealth * (1 + self.bets() * z),
            sums=sums,
            squares=_KEPT * self.squares + deviations**2,
        )


_KEPT = 1 - 1 / np.array(MEMORIES)


def _weight(read: int) -> Float[np.ndarray, " k"]:
    """The weight of what each account remembers, the first guess included."""
    return 1 + (1 - _KEPT**read) / (1 - _KEPT)
