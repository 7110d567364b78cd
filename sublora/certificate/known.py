"""The code known beforehand that a model falls back on, and how long a new unit is in it. Torch-free.

Letters of English or Zipf's law over ids (`sublora.corpus.fallback`) or, where documents are known beforehand, an
n-gram fitted to them and mixed with that code. It costs no bits of a message.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from sublora.certificate.model import Known
from sublora.coding.prediction import NEUTRAL, Prediction
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.fallback import UNIT, FallbackCode
from sublora.corpus.ngram import NGram, fit_ngram
from sublora.corpus.units import Units
from sublora.errors import CorpusError
from sublora.inequalities import betting, projected_betting
from sublora.inequalities.smoothing import excess_upper, mixture_bits

# Share of delta that pays for the expected length of a unit in the known code, where a population does not give it.
KNOWN_SHARE = 0.1
# Weight of the code fitted to nothing, in the mixture with the n-gram: fixed by the format.
NGRAM_MIXTURE = 2.0**-4


@dataclass(frozen=True)
class KnownCode:
    """Code lengths of units, given their length in tokens.

    fallback: the code fitted to nothing.
    ngram: fitted to known documents; None: the fallback alone.
    min_tokens: T_min, tokens of the shortest unit.
    """

    fallback: FallbackCode
    ngram: NGram | None
    min_tokens: int

    @property
    def name(self) -> str:
        """The code in words."""
        if self.ngram is None:
            return self.fallback.name
        return f"n-gram of order {self.ngram.order} fitted to the known documents"

    @property
    def limit(self) -> float:
        """The longest price per token of any unit that could exist, in bits."""
        extra = 0.0 if self.ngram is None else excess_upper(NGRAM_MIXTURE, self.min_tokens)
        return self.fallback.limit + extra

    def bits(self, split: Split, rows: Int[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Return the code lengths of units, in bits."""
        plain = self.fallback.lengths(split, rows) * UNIT
        if self.ngram is None:
            return plain
        return mixture_bits(self.ngram.bits(split, rows), plain, split.lengths[rows], NGRAM_MIXTURE)


def known_code(corpus: Corpus, units: Units, ngram_order: int) -> KnownCode:
    """Return the known code of a corpus.

    Args:
        corpus: whose known documents the n-gram is fitted to.
        units: what is coded.
        ngram_order: 0 for the code fitted to nothing.

    Raises:
        CorpusError: an n-gram, and no known documents.
    """
    ngram = None
    if ngram_order:
        if corpus.prior is None:
            raise CorpusError(f"{corpus.path} has no documents known beforehand: give the corpus that was certified")
        ngram = fit_ngram(corpus.prior, ngram_order, units.fallback, corpus.vocab_size)
    return KnownCode(units.fallback, ngram, units.min_tokens)


@dataclass(frozen=True)
class MeasuredCode:
    """The known code, and what units cost in it: all n certified ones or, where these are a choice from a population,
    the whole population.

    code: fixed before the units were seen, save for the choice that the message's setting pays for.
    bits: lengths in the code.
    lengths: tokens of the units.
    byte_lengths: bytes of the units; None where they are not known.
    min_bytes: every unit has at least this many.
    n: how many units these are, or stand for.
    whole: they are the population, so that a mean over them is what is asked for, and no bound is needed.
    """

    code: KnownCode
    bits: Float64[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    byte_lengths: Int[np.ndarray, " n"] | None
    min_bytes: int
    n: int
    whole: bool

    def known(
        self, delta: float, known_bits: int, prediction: Prediction = NEUTRAL, bytes_of_a_token: int = 1
    ) -> Known:
        """Return what a certificate says of the known code, and of the losses that are predicted from it.

        Args:
            delta: of the certificate; unless the population is known, `KNOWN_SHARE` of it is spent here, once for all
                claims: half for bits per token, half for bits per byte.
            known_bits: what pays for the choice of the code where the population is not known.
            prediction: paid for by its own bits.
            bytes_of_a_token: see `Prediction.ceiling_per`.
        """
        nats = math.log(2 / (KNOWN_SHARE * delta)) + known_bits * math.log(2)

        def expected(sizes: Int[np.ndarray, " n"], least: int, weight: int) -> tuple[float, float]:
            prices, limit = self.bits / sizes, self.code.limit
            predicted = prediction.losses(prices, sizes, weight)
            upper = prediction.limit(limit, least, weight)
            return self._mean(prices, limit, nats), self._mean(predicted, upper, nats + prediction.bits * math.log(2))

        tokens = expected(self.lengths, self.code.min_tokens, bytes_of_a_token)
        per_byte = (None, None) if self.byte_lengths is None else expected(self.byte_lengths, self.min_bytes, 1)
        return Known(
            code=self.code.name,
            limit=self.code.limit,
            exact=self.whole,
            per_token=tokens[0],
            per_byte=per_byte[0],
            predicted_per_token=tokens[1],
            predicted_per_byte=per_byte[1],
        )

    def sample(self, count: int) -> "MeasuredCode":
        """Return evenly spaced units that stand for all: what is known of them is an estimate."""
        rows = np.unique(np.linspace(0, len(self.bits) - 1, count).astype(np.int64))
        sizes = None if self.byte_lengths is None else self.byte_lengths[rows]
        return dataclasses.replace(self, bits=self.bits[rows], lengths=self.lengths[rows], byte_lengths=sizes)

    def _mean(self, losses: Float64[np.ndarray, " n"], upper: float, nats: float) -> float:
        """The mean over the population, or an upper bound on the mean that losses were drawn with."""
        if self.whole:
            return float(losses.mean())
        if len(losses) == self.n:
            return betting(losses, upper=upper, nats=nats)
        return projected_betting(losses, upper=upper, nats=nats, n=self.n)


def measure_code(code: KnownCode, splits: Sequence[Split], min_bytes: int, whole: bool) -> MeasuredCode:
    """Return the lengths of units in a known code.

    Args:
        code: known beforehand.
        splits: the certified units or, if `whole`, all parts of the population that they were chosen from.
        min_bytes: every unit has at least this many.
        whole: see splits.
    """
    bits = np.concatenate([code.bits(split, np.arange(len(split))) for split in splits])
    sizes = None
    if all(split.byte_lengths is not None and split.byte_lengths.all() for split in splits):
        sizes = np.concatenate([split.known_bytes() for split in splits])
    lengths = np.concatenate([split.lengths for split in splits])
    return MeasuredCode(code, bits, lengths, sizes, min_bytes, len(bits), whole)
