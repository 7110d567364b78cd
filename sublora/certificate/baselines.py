"""Models that need no network, certified by the same bound: what a certificate has to beat. Torch-free."""

import dataclasses
import math
from typing import Any

import numpy as np

from sublora.certificate.claims import Losses, Terms, mixture_losses, plain, risk_bound
from sublora.corpus.baselines import CountModel, count_tokens
from sublora.corpus.corpus import Corpus
from sublora.corpus.units import Units, held_out_units, sample_units
from sublora.inequalities.smoothing import token_smoothing_bits, token_smoothing_range

# Counting and scoring all training documents is quick up to here; beyond, only uniform coding is compared.
MAX_TOKENS = 200_000_000
# Fixed in advance, so that it costs no bits.
MIXTURE_WEIGHT = 2.0**-4


def baselines(corpus: Corpus, terms: Terms) -> list[dict[str, Any]]:
    """Return uniform coding, the fallback code, and coded unigram and bigram counts, each with its certified bound.

    Count models are scored on all that they are counted on, so one stage of betting is enough. Units are bits per
    token.

    Args:
        corpus: where they are counted and certified.
        terms: what the bound is about, n, delta and vocabulary; K and the mixture weight are the count model's own.
    """
    uniform = math.log2(terms.n_symbols)
    out: list[dict[str, Any]] = [{"name": "uniform coding", "bits": 0, "held_out": uniform, "bound": uniform}]
    val = held_out_units(corpus, terms.bound_type, terms.min_tokens)
    if not terms.about_tokens:
        held_out = None if val is None else float((val.fallback_bits() / val.split.lengths).mean())
        out.append({"name": terms.fallback.code, "bits": 0, "held_out": held_out, "bound": terms.fallback.per_token})
    if len(corpus.train.tokens) > MAX_TOKENS:
        return out
    train = sample_units(corpus, corpus.train, terms.bound_type, terms.min_tokens)
    for name, pairs in (("coded unigram counts", False), ("coded bigram counts", True)):
        # Counts leave one token of the vocabulary out: the one that cannot occur.
        model = count_tokens(train.split, terms.n_symbols + 1, pairs=pairs)
        bits = math.ceil(model.coded_bits())
        own = dataclasses.replace(terms, bits=bits, joint=False, mixture_weight=MIXTURE_WEIGHT, subsampled=False)
        held_out = None if val is None else float(_losses(model, val, own).values.mean())
        bound = min(risk_bound(_losses(model, train, own), own), uniform)
        out.append({"name": name, "bits": bits, "held_out": held_out, "bound": bound})
    return out


def _losses(model: CountModel, units: Units, terms: Terms) -> Losses:
    """The losses of a count model on all units, or on all tokens of them."""
    split = units.split
    if terms.about_tokens:
        bits = token_smoothing_bits(model.token_bits(split), terms.mixture_weight, terms.n_symbols)
        return plain(bits, token_smoothing_range(terms.mixture_weight, terms.n_symbols)[1])
    return mixture_losses(model.bits(split, np.arange(len(split))), units.fallback_bits(), split.lengths, terms)
