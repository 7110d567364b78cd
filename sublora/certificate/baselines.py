"""Models that need no network, certified by the same bound: what a certificate has to beat. Torch-free.

Three kinds. Codes that were known before the corpus: uniform coding and the fallback code. N-grams that are coded:
their message is as short as we know how to make it, and its bits are paid for like a network's. And an n-gram fitted to
documents that the bound does not count: to the prior share of the corpus where there is one, which is known beforehand
and costs no bits, as base weights do; else to a random half of the documents, and certified from the other half.

The loss of an n-gram is that of its document mixture with the fallback code, as for a network.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from sublora.certificate.claims import Losses, mixture_losses, plain, projected_bound, risk_bound
from sublora.certificate.known import KnownCode
from sublora.certificate.model import Baseline
from sublora.certificate.terms import Terms
from sublora.coding.ngram_fit import Grams, count_grams, fit_coded_ngram
from sublora.coding.ngram_message import Alphabet, CodedNGram, decode, encode
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.ngram import Scorer, choose_order, fit_ngram, subset
from sublora.corpus.units import Units, held_out_units, sample_units
from sublora.draws import shuffled
from sublora.inequalities import betting, nats
from sublora.inequalities.smoothing import excess_upper, token_smoothing_bits, token_smoothing_range

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
# Of many tokens, tables are long and the known code is far ahead: few of them are tried.
_MOST_PRICES_OF_MANY = 2


def baselines(corpus: Corpus, code: KnownCode, terms: Terms) -> tuple[Baseline, ...]:
    """Return what codes without a network reach, each with its certified bound.

    Losses are in bits per token and, where the bytes of documents are known, per byte. Documents weigh equally. Every
    bound holds on its own with probability 1 - delta.

    Args:
        corpus: where they are fitted and certified.
        code: known beforehand, what every code falls back on.
        terms: what the bound is about, n, delta and vocabulary; K and the mixture weight are the codes' own.
    """
    train = sample_units(corpus, corpus.train, terms.bound_type, terms.min_tokens)
    test = held_out_units(corpus, terms.bound_type, terms.min_tokens)
    lengths = _Known(code)
    out = [_uniform(train, test, terms)]
    if not terms.about_tokens:
        out.append(_of_known(code, test, terms))
    if train.split.lengths.sum() > MAX_TOKENS:
        return tuple(out)
    out += [_certify(coded, train, test, lengths, terms) for coded in _coded(train, lengths, terms)]
    if corpus.prior is not None and code.ngram is None:
        known = _known(sample_units(corpus, corpus.prior, terms.bound_type, terms.min_tokens), "the known documents")
        return (*out, _certify(known, train, test, lengths, terms))
    # A claim about tokens is about the contexts of the whole training text: no half of it will do.
    if not terms.about_tokens and len(train) >= 4:
        out.append(certify_fitted_half(corpus, code, terms))
    return tuple(out)


class _Known:
    """Lengths of units in the known code, each split measured once."""

    def __init__(self, code: KnownCode) -> None:
        self.code = code
        self._lengths: dict[tuple[Path, int], Float64[np.ndarray, " n"]] = {}

    def __call__(self, split: Split) -> Float64[np.ndarray, " n"]:
        key = (split.path, len(split))
        if key not in self._lengths:
            self._lengths[key] = self.code.bits(split, np.arange(len(split)))
        return self._lengths[key]


def certify_fitted_half(corpus: Corpus, code: KnownCode, terms: Terms, orders: Sequence[int] | None = None) -> Baseline:
    """Return what an n-gram reaches that is fitted to a random half of the units and certified from the other half.

    Args:
        corpus: whose documents are certified.
        code: that is known beforehand.
        terms: on which everything is bounded, as the certificate is.
        orders: to choose from; by default as many as the vocabulary makes sensible.
    """
    train = sample_units(corpus, corpus.train, terms.bound_type, terms.min_tokens)
    order = shuffled("half", b"", len(train))
    fitted, measured = np.sort(order[: len(train) // 2]), np.sort(order[len(train) // 2 :])
    known = _known(_part(train, fitted), "a random half", orders)
    val = held_out_units(corpus, terms.bound_type, terms.min_tokens)
    half = dataclasses.replace(terms, n=len(measured))
    return _certify(known, _part(train, measured), val, _Known(code), half)


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


def _coded(train: Units, known: _Known, terms: Terms) -> list[_Code]:
    """Coded n-grams of increasing order, for as long as a higher one pays."""
    sample = _part(train, np.sort(shuffled("choice", b"", len(train))[:_CHOICE_DOCUMENTS]))
    alphabet = Alphabet(train.fallback, train.split.eot_token, train.impossible is None)
    orders = CODED_ORDERS if train.vocab_size <= FEW_TOKENS else SHOWN_ORDERS
    grams = count_grams(_few(train), orders, train.vocab_size)
    out: list[_Code] = []
    least, price = math.inf, _FIRST_PRICE * math.log(2) / terms.n
    for order in range(1, orders + 1):
        bound, model, price = _best_price(grams.shortened(order), alphabet, sample, known, terms, price)
        if order > SHOWN_ORDERS and bound >= least:
            break
        least = min(bound, least)
        data = encode(model)
        # What is certified is what was decoded.
        out.append(_Code(f"coded {_NAMES.get(order, f'{order}-gram')}", 8 * len(data), decode(data, alphabet)))
    return out


def _best_price(
    grams: Grams, alphabet: Alphabet, sample: Units, known: _Known, terms: Terms, first: float
) -> tuple[float, CodedNGram, float]:
    """The projected bound, the model and the price of a bit that is best, found from a first price."""

    def at(price: float) -> tuple[float, CodedNGram, float]:
        model = fit_coded_ngram(grams, alphabet, price)
        own = _own(terms, 8 * len(encode(model)))
        return projected_bound(_losses(model, sample, known, own), own), model, price

    best, fits = at(first), 1
    for factor in (_PRICE_FACTOR, 1 / _PRICE_FACTOR):
        while fits < (_MOST_PRICES if sample.vocab_size <= FEW_TOKENS else _MOST_PRICES_OF_MANY):
            found, fits = at(best[2] * factor), fits + 1
            if found[0] >= best[0]:
                break
            best = found
        if best[2] != first:
            break
    return best


def _own(terms: Terms, bits: int) -> Terms:
    return dataclasses.replace(terms, bits=bits, joint=False, mixture_weight=MIXTURE_WEIGHT, subsampled=False)


def _uniform(train: Units, test: Units | None, terms: Terms) -> Baseline:
    price = math.log2(terms.n_symbols)
    per_byte = bound = None
    if _bytes_known(train, terms):
        ratio = price * train.split.lengths / _sizes(train)
        per_byte = None if test is None else float((price * test.split.lengths / _sizes(test)).mean())
        # A token is at least one byte.
        bound = betting(ratio, upper=price, nats=nats(0, terms.delta))
    return _baseline("uniform coding", 0, price, price, per_byte, bound)


def _of_known(code: KnownCode, test: Units | None, terms: Terms) -> Baseline:
    per_token = per_byte = None
    if test is not None:
        bits = code.bits(test.split, np.arange(len(test)))
        per_token = float((bits / test.split.lengths).mean())
        per_byte = float((bits / _sizes(test)).mean()) if terms.known.per_byte is not None else None
    return _baseline(code.name, 0, per_token, terms.known.per_token, per_byte, terms.known.per_byte)


def _certify(code: _Code, measured: Units, test: Units | None, known: _Known, terms: Terms) -> Baseline:
    """What a code reaches on the units that it is certified from and on those that are held out."""
    own, uniform = _own(terms, code.bits), math.log2(terms.n_symbols)
    losses = _losses(code.model, measured, known, own)
    held_out = None if test is None else _losses(code.model, test, known, own)
    per_byte = bound = None
    if _bytes_known(measured, own):
        bound = min(risk_bound(_per_byte(losses, measured, own), own), uniform)
        if held_out is not None and test is not None:
            per_byte = float(_per_byte(held_out, test, own).values.mean())
    per_token = None if held_out is None else float(held_out.values.mean())
    return _baseline(code.name, code.bits, per_token, min(risk_bound(losses, own), uniform), per_byte, bound)


def _baseline(
    name: str, bits: int, held_out: float | None, bound: float, held_out_bpb: float | None, bound_bpb: float | None
) -> Baseline:
    return Baseline(
        name=name, bits=bits, held_out=held_out, bound=bound, held_out_bpb=held_out_bpb, bound_bpb=bound_bpb
    )


def _losses(model: Scorer, units: Units, known: _Known, terms: Terms) -> Losses:
    """The losses of a model on all units, or on all tokens of them."""
    split = units.split
    if terms.about_tokens:
        bits = token_smoothing_bits(model.token_bits(split), terms.mixture_weight, terms.n_symbols)
        return plain(bits, token_smoothing_range(terms.mixture_weight, terms.n_symbols)[1])
    return mixture_losses(model.bits(split, np.arange(len(split))), known(split), split.lengths, terms)


def _bytes_known(units: Units, terms: Terms) -> bool:
    sizes = units.split.byte_lengths
    return terms.known.per_byte is not None and not terms.about_tokens and sizes is not None and bool(sizes.all())


def _sizes(units: Units) -> Float64[np.ndarray, " n"]:
    assert units.split.byte_lengths is not None
    return units.split.byte_lengths.astype(np.float64)


def _per_byte(losses: Losses, units: Units, terms: Terms) -> Losses:
    """The same losses per byte."""
    assert terms.known.per_byte is not None
    ratio = units.split.lengths / _sizes(units)
    upper = excess_upper(terms.mixture_weight, terms.min_bytes)
    return Losses(losses.excess * ratio, upper, losses.known * ratio, terms.known.per_byte, terms.known.limit + upper)
