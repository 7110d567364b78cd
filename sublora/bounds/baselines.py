"""Models that need no network, certified by the same bound: what a certificate has to beat. Torch-free."""

import math
from typing import Any

import numpy as np

from sublora.bounds.claims import Terms, risk_bound
from sublora.bounds.smoothing import mixture_bits, mixture_upper
from sublora.corpus.baselines import count_tokens
from sublora.corpus.corpus import Corpus

# Counting and scoring all training documents is quick up to here; beyond, only uniform coding is compared.
MAX_TOKENS = 200_000_000
# Fixed in advance, so that it costs no bits.
MIXTURE_WEIGHT = 2.0**-4


def baselines(corpus: Corpus, terms: Terms) -> list[dict[str, Any]]:
    """Return uniform coding, and coded unigram and bigram counts of the training text, each with its certified bound.

    Count models are scored on all n training documents, so one stage of betting is enough. Units are bits per token.

    Args:
        corpus: where they are counted and certified.
        terms: n, delta and vocabulary; K and the mixture weight are the count model's own.
    """
    uniform = math.log2(terms.n_symbols)
    out: list[dict[str, Any]] = [{"name": "uniform coding", "bits": 0, "held_out": uniform, "bound": uniform}]
    if len(corpus.train.tokens) > MAX_TOKENS:
        return out
    upper = mixture_upper(terms.n_symbols, MIXTURE_WEIGHT, terms.min_tokens)
    for name, pairs in (("coded unigram counts", False), ("coded bigram counts", True)):
        model = count_tokens(corpus.train, corpus.vocab_size, pairs=pairs)
        bits = math.ceil(model.coded_bits())
        own = Terms(
            bits, terms.n, terms.delta, False, MIXTURE_WEIGHT, terms.n_symbols, terms.min_tokens, subsampled=False
        )

        def losses(split: Any, model: Any = model) -> np.ndarray:
            documents = np.arange(len(split))
            return mixture_bits(model.bits(split, documents), split.lengths, terms.n_symbols, MIXTURE_WEIGHT)

        held_out = float(losses(corpus.val).mean()) if corpus.val is not None and len(corpus.val) else None
        bound = min(risk_bound(losses(corpus.train), upper, own), uniform)
        out.append({"name": name, "bits": bits, "held_out": held_out, "bound": bound})
    return out
