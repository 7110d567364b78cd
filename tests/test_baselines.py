"""The simple codes that a certificate compares the model with."""

import dataclasses

import numpy as np
import pytest
from corpora import write_tokens
from sublora.certificate.fallback import measure_fallback

from sublora import seeds
from sublora.certificate.baselines import MIXTURE_WEIGHT, baselines
from sublora.certificate.claims import Terms, mixture_losses, risk_bound
from sublora.corpus.baselines import adaptive_bits, uniform_bits, zlib_bits
from sublora.corpus.corpus import Corpus, Split, open_corpus
from sublora.corpus.ngram import fit_ngram, subset
from sublora.corpus.units import sample_units
from sublora.draws import shuffled

DELTA = 0.05


def terms_for(corpus, bound_type="document_level", block_size=8):
    units = sample_units(corpus, corpus.train, bound_type, block_size)
    fallback = measure_fallback(units, DELTA)
    n, least = units.sample_size(bound_type), units.min_tokens
    return Terms(bound_type, 999, n, DELTA, True, 0.25, units.n_symbols, least, fallback, True)


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
    found = {b["name"]: b for b in baselines(small, terms_for(small))}
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
    assert not any("bpb" in b or "bound_bpb" in b for b in found.values())


def test_an_ngram_is_certified_from_the_half_that_it_does_not_know(small):
    terms = terms_for(small)
    (known,) = [b for b in baselines(small, terms) if "half" in b["name"]]
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


@dataclasses.dataclass(frozen=True)
class _WithPrior(Corpus):
    """A corpus with a prior share."""

    prior: Split | None = None


def with_prior(corpus, prior):
    return _WithPrior(**{f.name: getattr(corpus, f.name) for f in dataclasses.fields(Corpus)}, prior=prior)


def test_the_prior_share_is_known_beforehand(small):
    prior = subset(small.train, np.arange(300))
    corpus = with_prior(dataclasses.replace(small, train=subset(small.train, np.arange(300, 400))), prior)
    found = baselines(corpus, terms_for(corpus))
    (known,) = [b for b in found if "fitted to" in b["name"]]
    assert known["name"].endswith("fitted to the prior share")
    assert known["bits"] == 0
    assert known["bound"] < min(b["bound"] for b in found if b is not known)
    assert any("half" in b["name"] for b in baselines(with_prior(small, None), terms_for(small)))


@pytest.mark.parametrize("bound_type", ["sequence_level", "token_level"])
def test_other_units(small, bound_type):
    found = baselines(small, terms_for(small, bound_type))
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
    for b in baselines(corpus, terms_for(corpus)):
        assert b["bpb"] == pytest.approx(b["held_out"] / 2)
        # The excess may be as large as before, so a bound need not be half.
        assert b["bpb"] < b["bound_bpb"] < b["bound"]
