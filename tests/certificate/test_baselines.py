"""The simple codes that a certificate compares the model with."""

import dataclasses

import numpy as np
import pytest
from corpora import write_tokens

from sublora import seeds
from sublora.certificate import baselines as module
from sublora.certificate.baselines import MIXTURE_WEIGHT
from sublora.certificate.claims import mixture_losses, risk_bound
from sublora.certificate.known import known_code, measure_code
from sublora.certificate.terms import Terms
from sublora.corpus.baselines import adaptive_bits, uniform_bits, zlib_bits
from sublora.corpus.corpus import open_corpus
from sublora.corpus.ngram import fit_ngram, subset
from sublora.corpus.units import sample_units
from sublora.draws import shuffled

DELTA = 0.05


def code_for(corpus, bound_type="document_level", block_size=8, order=0):
    return known_code(corpus, sample_units(corpus, corpus.train, bound_type, block_size), order)


def terms_for(corpus, bound_type="document_level", block_size=8, order=0):
    units = sample_units(corpus, corpus.train, bound_type, block_size)
    code = code_for(corpus, bound_type, block_size, order)
    known = measure_code(code, [units.split], units.min_tokens, whole=False).known(DELTA, 0)
    n, least = units.sample_size(bound_type), units.min_tokens
    return Terms(bound_type, 999, 0, n, DELTA, True, 0.25, units.n_symbols, least, least, known, False, True)


def baselines(corpus, bound_type="document_level", order=0):
    """What a certificate shows, each as a dictionary, without what is not known."""
    found = module.baselines(
        corpus, code_for(corpus, bound_type, order=order), terms_for(corpus, bound_type, order=order)
    )
    return [{k: v for k, v in b.model_dump().items() if v is not None} for b in found]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Documents whose next token follows from the one before, nine times of ten."""
    folder, rng = tmp_path_factory.mktemp("small"), seeds.stream(8, "documents")
    documents = []
    for length in rng.integers(5, 30, size=500):
        d = [int(rng.integers(9))]
        while len(d) < length:
            d.append((2 * d[-1] + 1) % 9 if rng.random() < 0.9 else int(rng.integers(9)))
        documents.append(d)
    write_tokens(folder, documents[:400])
    write_tokens(folder, documents[400:], name="val")
    return open_corpus(folder, eot_token=9, vocab_size=10)


def test_codes_that_know_nothing(sotu):
    held_out = np.arange(len(sotu.val))
    assert (uniform_bits(sotu.val, held_out, 257) == 8 * sotu.val.lengths).all()
    assert 4 < (zlib_bits(sotu.val, held_out, 257) / sotu.val.lengths).mean() < 6
    adaptive = adaptive_bits(sotu.val, held_out[:3], 257)
    for i, bits in enumerate(adaptive):
        counts, expected = np.full(256, 0.5), 0.0
        for token in sotu.val.document(i):
            expected -= np.log2(counts[token] / counts.sum())
            counts[token] += 1
        assert bits == pytest.approx(expected)


def test_what_is_compared(small):
    found = {b["name"]: b for b in baselines(small)}
    assert list(found)[:4] == ["uniform coding", "Zipf's law over token ids", "coded unigram", "coded bigram"]
    (known,) = [b for name, b in found.items() if name.endswith("fitted to a random half")]
    assert known["bits"] == 0
    assert found["coded bigram"]["bits"] > 0
    assert found["coded bigram"]["held_out"] < 2.2 < found["coded unigram"]["held_out"]
    # The held-out documents are few, and so their mean is uncertain.
    assert all(b["held_out"] - 0.2 < b["bound"] for b in found.values())
    assert all(b["bound"] <= np.log2(9) for name, b in found.items() if "Zipf" not in name)
    assert found["coded bigram"]["bound"] < found["coded unigram"]["bound"]
    # Bytes are unknown here.
    assert not any("held_out_bpb" in b or "bound_bpb" in b for b in found.values())


def test_an_ngram_is_certified_from_the_half_that_it_does_not_know(small):
    terms = terms_for(small)
    (known,) = [b for b in baselines(small) if "half" in b["name"]]
    order = shuffled("half", b"", 400)
    units = sample_units(small, small.train, "document_level", 8)
    size = {"uni": 1, "bi": 2, "tri": 3}.get(known["name"].split("gram")[0]) or int(known["name"].split("-")[0])
    model = fit_ngram(subset(small.train, np.sort(order[:200])), size, units.fallback, 10)
    rows = np.sort(order[200:])
    own = dataclasses.replace(terms, bits=0, n=200, joint=False, mixture_weight=MIXTURE_WEIGHT, subsampled=False)
    bits, known_bits = model.bits(small.train, rows), units.fallback_bits()[rows]
    assert known["bound"] == pytest.approx(
        risk_bound(mixture_losses(bits, known_bits, small.train.lengths[rows], own), own), abs=1e-9
    )
    # The half that it knows would give another bound.
    bits, known_bits = model.bits(small.train, order[:200]), units.fallback_bits()[order[:200]]
    other = risk_bound(mixture_losses(bits, known_bits, small.train.lengths[order[:200]], own), own)
    assert abs(other - known["bound"]) > 1e-3


def test_known_documents_are_known_beforehand(small):
    prior = subset(small.train, np.arange(300))
    corpus = dataclasses.replace(small, train=subset(small.train, np.arange(300, 400)), prior=prior)
    found = baselines(corpus)
    (known,) = [b for b in found if "fitted to" in b["name"]]
    assert known["name"].endswith("fitted to the known documents")
    assert known["bits"] == 0
    assert known["bound"] < min(b["bound"] for b in found if b is not known)
    # An n-gram that the model falls back on is shown as that, and not a second time.
    (fallen_back_on,) = [b for b in baselines(corpus, order=2) if "known documents" in b["name"]]
    assert fallen_back_on["bound"] < min(b["bound"] for b in found if b is not known)


@pytest.mark.parametrize("bound_type", ["sequence_level", "token_level"])
def test_other_units(small, bound_type):
    found = baselines(small, bound_type)
    names = " ".join(b["name"] for b in found)
    assert "coded bigram" in names
    assert ("half" in names) == (bound_type == "sequence_level")
    assert all(b["bound"] <= np.log2(10) for b in found if "Zipf" not in b["name"])
    assert min(b["bound"] for b in found) < 3


def test_bits_per_byte(small):
    """With two bytes a token everywhere, losses per byte are half of those per token."""
    splits = {}
    for name in ("train", "val"):
        split = getattr(small, name)
        splits[name] = dataclasses.replace(split, byte_lengths=2 * split.lengths)
    corpus = dataclasses.replace(small, **splits)
    for b in baselines(corpus):
        assert b["held_out_bpb"] == pytest.approx(b["held_out"] / 2)
        # The excess may be as large as before, so a bound need not be half.
        assert b["held_out_bpb"] < b["bound_bpb"] < b["bound"]
