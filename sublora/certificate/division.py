"""Whether documents are divided as chance divides them, and as long as their rule says. Torch-free.

Whoever orders the documents of a source decides what a seed makes of them. That cannot be excluded from within (the
certificate says so), but a division that no seed would give can be told by what is known of every document.
"""

import math

import numpy as np
from jaxtyping import Float64

from sublora.certificate.known import MeasuredCode
from sublora.coding.message import DIVISION_BITS
from sublora.corpus.corpus import Corpus
from sublora.errors import CorpusError

# A sound division is refused with this probability, whichever of 2^DIVISION_BITS it is.
_REFUSED = 1e-6


def check_division(measured: MeasuredCode, certified: int) -> None:
    """Check that the certified documents cost in the known code what a random choice from their population costs.

    Args:
        measured: of the whole population, the certified documents first.
        certified: how many these are.

    Raises:
        CorpusError: they differ by more than chance allows, for any of the divisions that are paid for.
    """
    sizes = [measured.lengths] + ([] if measured.byte_lengths is None else [measured.byte_lengths])
    for size in sizes:
        prices = measured.bits / size
        apart = abs(float(prices[:certified].mean() - prices.mean()))
        if apart > chance(prices, certified):
            raise CorpusError(
                f"the {certified:,} certified documents are no random choice from their {len(prices):,}: in the known "
                f"code they differ from them by {apart:.3f} bits per token or byte. Were the documents put into an "
                "order before they were divided?"
            )


def chance(prices: Float64[np.ndarray, " N"], n: int) -> float:
    """Return how far the mean of n of N numbers, drawn without replacement, may be from the mean of all.

    Source: Bernstein's inequality without replacement, Bardenet & Maillard 2015, "Concentration inequalities for
    sampling without replacement", theorem 3.5, with its constant kappa at the most it can be, 7/3.
    """
    total = len(prices)
    log = DIVISION_BITS * math.log(2) + math.log(2 / _REFUSED)
    rho = 1 - (n - 1) / total if 2 * n <= total else (1 - n / total) * (1 + 1 / n)
    return float(prices.std() * math.sqrt(2 * rho * log / n) + 7 / 3 * np.ptp(prices) * log / n)


def check_seed(corpus: Corpus) -> None:
    """Check that nobody chose the seed that divided the documents of a claim that pays for no seed.

    Only a claim about a population codes the seed. Where the claim is about a source, or about blocks or tokens, the
    training documents of the best of many seeds are no sample.

    Raises:
        CorpusError: a seed divided them, and it is not 0.
    """
    if corpus.split_seed:
        raise CorpusError(
            f"the seed {corpus.split_seed} divided the documents of {corpus.path}, and only a claim about their "
            "population pays for the choice of a seed: prepare them with --split-seed 0, or claim=population"
        )


def check_bytes(corpus: Corpus, least: int) -> None:
    """Check that no document of training, validation and test has fewer bytes than its rule says.

    Raises:
        CorpusError: one has.
    """
    for part in corpus.parts:
        if part.byte_lengths is not None and part.byte_lengths.all() and part.byte_lengths.min() < least:
            raise CorpusError(
                f"{part.path} has a document of {part.byte_lengths.min()} bytes, and by its rule none has fewer than "
                f"{least} characters: prepare the corpus again"
            )
