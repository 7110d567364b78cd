"""The code known beforehand that a model falls back on, and how long a new unit is in it. Torch-free.

Letters of English or Zipf's law over ids (`sublora.corpus.fallback`) or, where documents are known beforehand, an
n-gram fitted to them and mixed with that code. It costs no bits of a message.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from sublora.certificate.model import Known
from sublora.coding.setting import Setting
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.fallback import UNIT, FallbackCode
from sublora.corpus.ngram import NGram, fit_ngram
from sublora.corpus.units import Units
from sublora.errors import CorpusError
from sublora.inequalities import betting
from sublora.inequalities.smoothing import excess_upper, mixture_excess

# Share of delta that pays for the expected length of a unit in the known code.
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
        lengths = split.lengths[rows]
        return plain + lengths * mixture_excess(self.ngram.bits(split, rows), plain, lengths, NGRAM_MIXTURE)


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


def measure_known(code: KnownCode, units: Units, setting: Setting, setting_bits: int) -> Known:
    """Return what a certificate says of the known code, from all n units.

    Args:
        code: fixed before the units were seen, save for the choice that `setting_bits` pay for.
        units: the certified units.
        setting: holds delta; `KNOWN_SHARE` of it is spent here, once for all claims.
        setting_bits: length of the setting in the message.
    """
    split = units.split
    bits = code.bits(split, np.arange(len(units)))
    # Per token and per byte each get half of the share.
    nats = math.log(2 / (KNOWN_SHARE * float(setting.delta))) + setting_bits * math.log(2)
    per_byte = None
    if split.byte_lengths is not None and split.byte_lengths.all():
        per_byte = _expected(bits / split.byte_lengths, code.limit, nats)
    return Known(
        code=code.name,
        limit=code.limit,
        per_token=_expected(bits / split.lengths, code.limit, nats),
        per_byte=per_byte,
    )


def _expected(lengths: Float[np.ndarray, " n"], limit: float, nats: float) -> float:
    """An upper bound on the mean that lengths were drawn with."""
    return betting(lengths, upper=limit, nats=nats)
