"""Models that need no network, certified by the same bound: what a certificate has to beat. Torch-free.

Three kinds. Codes that were known before the corpus: uniform coding and the fallback code. N-grams that are coded:
their message is written as well as we know how, and its bits are paid for like a network's. And an n-gram fitted to
documents that the bound does not count: to the prior share of the corpus where there is one, which is then known
beforehand and costs no bits, as base weights do; else to a random half of the documents, and certified from the other
half.

The loss of an n-gram is that of its document mixture with the fallback code, as for a network.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from sublora.certificate.claims import Losses, mixture_losses, plain, projected_bound, risk_bound
from sublora.certificate.terms import Terms
from sublora.coding.ngram_fit import Grams, count_grams, fit_coded_ngram
from sublora.coding.ngram_message import Alphabet, CodedNGram, decode, encode
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.ngram import Scorer, choose_order, fit_ngram, subset
from sublora.corpus.units import Units, held_out_units, sample_units
from sublora.draws import shuffled
from sublora.inequalities import betting, nats
from sublora.inequalities.smoothing import token_smoothing_bits, token_smoothing_range

# Scoring all training documents is quick up to here; beyond, only codes that need no fitting are compared.
MAX_TOKENS = 200_000_000
# N-grams are fitted to no more tokens than this: to the first documents of a random order.
FITTED_TOKENS = 30_000_000
# Fixed in advance, so that it costs no bits.
MIXTURE_WEIGHT = 2.0**-4
# Orders of coded n-grams; one that does not pay is the last that is tried, and the orders up to the second are shown
# in any case.
CODED_ORDERS, SHOWN_ORDERS = 4, 2
_NAMES = {1: "unigram", 2: "bigram", 3: "trigram"}
# Orders that an n-gram of known documents may have: with few tokens, and with many.
KNOWN_ORDERS, KNOWN_ORDERS_OF_MANY, FEW_TOKENS = range(1, 8), range(1, 5), 1024
# Messages of several lengths are tried: at this price of a bit in nats / n, and at prices that differ by this factor
# for as long as that helps. They are compared by the projected bound of so many documents.
_FIRST_PRICE, _PRICE_FACTOR, _MOST_PRICES, _CHOICE_DOCUMENTS = 2.0, 1.5, 5, 2_000


def baselines(corpus: Corpus, terms: Terms) -> list[dict[str, Any]]:
    """Return what codes without a network reach, each with its certified bound.

    Each has name, bits (K), held_out (None where nothing is held out) and bound, both in bits per token; where the
    bytes of documents are known also bpb and bound_bpb, the same in bits per byte. Documents weigh equally. Every bound
    holds on its own with probability 1 - delta.

    Args:
        corpus: where they are fitted and certified. Its attribute `prior`, a Split or None, holds documents that n does
            not count.
        terms: what the bound is about, n, delta and vocabulary; K and the mixture weight are the codes' own.
    """
    train = sample_units(corpus, corpus.train, terms.bound_type, terms.min_tokens)
    val = held_out_units(corpus, terms.bound_type, terms.min_tokens)
    out = [_uniform(train, val, terms)]
    if not terms.about_tokens:
        out.append(_fallback(val, terms))
    if len(corpus.train.tokens) > MAX_TOKENS:
        return out
    out += [_certify(coded, train, val, terms) for coded in _coded(train, terms)]
    prior = getattr(corpus, "prior", None)
    if prior is not None and len(prior):
        known = _known(sample_units(corpus, prior, terms.bound_type, terms.min_tokens), "the prior share")
        return [*out, _certify(known, train, val, terms)]
    # A claim about tokens is about the contexts of the whole training text: no half of it will do.
    if not terms.about_tokens and len(train) >= 4:
        out.append(certify_fitted_half(corpus, terms))
    return out


def certify_fitted_half(corpus: Corpus, terms: Terms, orders: Sequence[int] | None = None) -> dict[str, Any]:
    """Return what an n-gram reaches that is fitted to a random half of the units and certified from the other half.

    Args:
        corpus, terms: as in `baselines`.
        orders: to choose from; by default as many as the vocabulary makes sensible.
    """
    train = sample_units(corpus, corpus.train, terms.bound_type, terms.min_tokens)
    order = shuffled("half", b"", len(train))
    fitted, measured = np.sort(order[: len(train) // 2]), np.sort(order[len(train) // 2 :])
    known = _known(_part(train, fitted), "a random half", orders)
    val = held_out_units(corpus, terms.bound_type, terms.min_tokens)
    return _certify(known, _part(train, measured), val, dataclasses.replace(terms, n=len(measured)))


@dataclass(frozen=True)
class _Code:
    name: str
    bits: int
    model: Scorer


def _part(units: Units, documents: np.ndarray) -> Units:
    return dataclasses.replace(units, split=subset(units.split, documents))


def _few(units: Units) -> Split:
    """The documents that a model is fitted to."""
    split = units.split
    if split.lengths.sum() <= FITTED_TOKENS:
        return split
    order = shuffled("fitted", b"", len(split))
    fits = np.cumsum(split.lengths[order]) <= FITTED_TOKENS
    fits[0] = True
    return subset(split, np.sort(order[fits]))


def _known(units: Units, where: str, orders: Sequence[int] | None = None) -> _Code:
    """An n-gram fitted to documents that the bound does not count."""
    split, eot_inside = _few(units), units.impossible is None
    orders = orders or (KNOWN_ORDERS if units.vocab_size <= FEW_TOKENS else KNOWN_ORDERS_OF_MANY)
    order = orders[0]
    if len(orders) > 1 and len(split) > 1:
        order = choose_order(split, orders, units.fallback, units.vocab_size, eot_inside=eot_inside)
    model = fit_ngram(split, order, units.fallback, units.vocab_size, eot_inside=eot_inside)
    return _Code(f"{_NAMES.get(order, f'{order}-gram')} fitted to {where}", 0, model)


def _coded(train: Units, terms: Terms) -> list[_Code]:
    """Coded n-grams of increasing order, for as long as a higher one pays."""
    sample = _part(train, np.sort(shuffled("choice", b"", len(train))[:_CHOICE_DOCUMENTS]))
    alphabet = Alphabet(train.fallback, train.split.eot_token, train.impossible is None)
    grams = count_grams(_few(train), CODED_ORDERS, train.vocab_size)
    out: list[_Code] = []
    least, price = math.inf, _FIRST_PRICE * math.log(2) / terms.n
    for order in range(1, CODED_ORDERS + 1):
        bound, model, price = _best_price(grams.shortened(order), alphabet, sample, terms, price)
        if order > SHOWN_ORDERS and bound >= least:
            break
        least = min(bound, least)
        data = encode(model)
        # What is certified is what was decoded.
        out.append(_Code(f"coded {_NAMES.get(order, f'{order}-gram')}", 8 * len(data), decode(data, alphabet)))
    return out


def _best_price(
    grams: Grams, alphabet: Alphabet, sample: Units, terms: Terms, first: float
) -> tuple[float, CodedNGram, float]:
    """The projected bound, the model and the price of a bit that is best, found from a first price."""

    def at(price: float) -> tuple[float, CodedNGram, float]:
        model = fit_coded_ngram(grams, alphabet, price)
        own = _own(terms, 8 * len(encode(model)))
        return projected_bound(_losses(model, sample, own), own), model, price

    best, fits = at(first), 1
    for factor in (_PRICE_FACTOR, 1 / _PRICE_FACTOR):
        while fits < _MOST_PRICES:
            found, fits = at(best[2] * factor), fits + 1
            if found[0] >= best[0]:
                break
            best = found
        if best[2] != first:
            break
    return best


def _own(terms: Terms, bits: int) -> Terms:
    return dataclasses.replace(terms, bits=bits, joint=False, mixture_weight=MIXTURE_WEIGHT, subsampled=False)


def _uniform(train: Units, val: Units | None, terms: Terms) -> dict[str, Any]:
    price = math.log2(terms.n_symbols)
    out = {"name": "uniform coding", "bits": 0, "held_out": price, "bound": price}
    if not _bytes_known(train, terms):
        return out
    per_byte = price * train.split.lengths / _sizes(train)
    held_out = None if val is None else float((price * val.split.lengths / _sizes(val)).mean())
    # A token is at least one byte.
    return out | {"bpb": held_out, "bound_bpb": betting(per_byte, upper=price, nats=nats(0, terms.delta))}


def _fallback(val: Units | None, terms: Terms) -> dict[str, Any]:
    fallback, bits = terms.fallback, None if val is None else val.fallback_bits()
    held_out = None if val is None or bits is None else float((bits / val.split.lengths).mean())
    out = {"name": fallback.code, "bits": 0, "held_out": held_out, "bound": fallback.per_token}
    if fallback.per_byte is None:
        return out
    per_byte = None if val is None or bits is None else float((bits / _sizes(val)).mean())
    return out | {"bpb": per_byte, "bound_bpb": fallback.per_byte}


def _certify(code: _Code, measured: Units, val: Units | None, terms: Terms) -> dict[str, Any]:
    """What a code reaches on the units that it is certified from and on those that are held out."""
    own, uniform = _own(terms, code.bits), math.log2(terms.n_symbols)
    losses = _losses(code.model, measured, own)
    held_out = None if val is None else _losses(code.model, val, own)
    out: dict[str, Any] = {
        "name": code.name,
        "bits": code.bits,
        "held_out": None if held_out is None else float(held_out.values.mean()),
        "bound": min(risk_bound(losses, own), uniform),
    }
    if not _bytes_known(measured, own):
        return out
    per_byte = None if held_out is None or val is None else float(_per_byte(held_out, val, own).values.mean())
    return out | {"bpb": per_byte, "bound_bpb": min(risk_bound(_per_byte(losses, measured, own), own), uniform)}


def _losses(model: Scorer, units: Units, terms: Terms) -> Losses:
    """The losses of a model on all units, or on all tokens of them."""
    split = units.split
    if terms.about_tokens:
        bits = token_smoothing_bits(model.token_bits(split), terms.mixture_weight, terms.n_symbols)
        return plain(bits, token_smoothing_range(terms.mixture_weight, terms.n_symbols)[1])
    return mixture_losses(model.bits(split, np.arange(len(split))), units.fallback_bits(), split.lengths, terms)


def _bytes_known(units: Units, terms: Terms) -> bool:
    sizes = units.split.byte_lengths
    return terms.fallback.per_byte is not None and not terms.about_tokens and sizes is not None and bool(sizes.all())


def _sizes(units: Units) -> Float64[np.ndarray, " n"]:
    assert units.split.byte_lengths is not None
    return units.split.byte_lengths.astype(np.float64)


def _per_byte(losses: Losses, units: Units, terms: Terms) -> Losses:
    """The same losses per byte. The excess has the same limit, because a token is at least one byte."""
    assert terms.fallback.per_byte is not None
    ratio = units.split.lengths / _sizes(units)
    known = losses.known * ratio
    return dataclasses.replace(losses, excess=losses.excess * ratio, known=known, expected=terms.fallback.per_byte)
