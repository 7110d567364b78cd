"""Attacks on what is known of a whole population: each was tried by hand first, and is refused now."""

import json

import numpy as np
import pytest
from test_attacks_more import BLOCK, describe, reissue

from sublora.certificate.assemble import Measured, assemble
from sublora.certificate.division import chance
from sublora.certificate.evidence import Evidence
from sublora.certificate.model import Certificate
from sublora.certificate.reading import read_certificate, write_certificate
from sublora.certificate.verify import verify
from sublora.coding.architecture import Architecture, tag
from sublora.coding.message import Header, ModelSpec, decode_message, encode_message
from sublora.coding.prediction import NEUTRAL, Prediction
from sublora.coding.setting import Setting
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.split import assign, split_sizes
from sublora.errors import CertificateError, CorpusError
from sublora.run_folder import RunFolder
from sublora.scoring.measure import protocol_of
from sublora.scoring.processes import Processes
from sublora.scoring.scores import read_scores
from sublora.seeds import stream


def issue(run: RunFolder, folder, *, prediction=NEUTRAL, **changes) -> Certificate:
    """Certify a random base without an adapter, as an issuer does who writes his own program."""
    corpus = open_corpus(folder)
    setting = Setting(
        min_tokens=corpus.min_tokens, min_characters=corpus.meta["min_characters"], split_seed=corpus.split_seed,
        **changes,
    )  # fmt: skip
    architecture = Architecture("random", 1, 1, 4, BLOCK, setting.vocab_size)
    spec = ModelSpec(seed=0, intrinsic_dim=0, adapter="none")
    header = Header(setting, architecture, spec, 4, 0, BLOCK, prediction=prediction)
    data = encode_message(header, None, np.zeros(0)).data
    message, protocol = decode_message(data, max_symbols=1), protocol_of(header, 8)
    evidence = Evidence(header, corpus, "", "", Processes("cpu"))
    rebuilt, scores = evidence.losses(data, message, protocol)
    measured = evidence.measured(message, rebuilt, scores, evidence.beside(data, message, rebuilt, protocol), 8)
    run.path.mkdir(parents=True, exist_ok=True)
    run.message.write_bytes(data)
    run.losses.write_bytes(scores.to_bytes())
    return write_certificate(run, assemble(data, message, measured))


def letters(count: int, n: int, name: str) -> list[str]:
    rng = stream(0, "population attacks", name)
    return ["".join(rng.choice(list("etaoinshrdlucm"), n)) for _ in range(count)]


@pytest.fixture
def corpus_dir(tmp_path):
    (tmp_path / "t.txt").write_text("\n\n".join(letters(300, 60, "t")))
    return prepare("text", tmp_path / "d", paths=[tmp_path / "t.txt"], val_every=3, min_characters=60, prior_share=0.1)


def rewrite(folder, name, documents):
    """Put other documents into a part, and describe the folder as if they belonged there."""
    np.concatenate([np.append(d, 256) for d in documents]).astype("<u2").tofile(folder / f"{name}.bin")
    describe(folder)


def held_out(folder):
    corpus = open_corpus(folder)
    return [part.document(i) for part in (corpus.val, corpus.test) for i in range(len(part))]


def test_held_out_documents_are_not_known_beforehand(corpus_dir, tmp_path):
    """An n-gram that has seen them makes the population's mean cheap."""
    known = [open_corpus(corpus_dir).prior.document(i) for i in range(len(open_corpus(corpus_dir).prior))]
    documents = held_out(corpus_dir)
    rewrite(corpus_dir, "prior", [*documents, *known])
    meta = json.loads((corpus_dir / "meta.json").read_text())
    describe(corpus_dir, prior=meta["prior"] | {"older": len(documents)})
    run, seen = RunFolder(tmp_path / "run"), tag(open_corpus(corpus_dir).prior.content_sha256())
    issue(run, corpus_dir, prior_tag=seen, ngram_order=6)
    with pytest.raises(CorpusError, match=r"of the val documents .* among those that are said to be known"):
        verify(run.path, corpus_dir)


def test_another_population_has_another_certificate(corpus_dir, tmp_path):
    honest = issue(RunFolder(tmp_path / "a"), corpus_dir)
    corpus = open_corpus(corpus_dir)
    rewrite(corpus_dir, "val", [np.full(60 + i, ord("e")) for i in range(len(corpus.val))])
    with pytest.MonkeyPatch.context() as patch:
        # Chance would not have divided them so; somebody careful would choose less.
        patch.setattr("sublora.certificate.evidence.check_division", lambda *_: None)
        other = issue(RunFolder(tmp_path / "b"), corpus_dir)
    assert other.corpus.sha256 == honest.corpus.sha256
    assert other.corpus.population_sha256 != honest.corpus.population_sha256


def test_an_order_that_no_seed_would_give_is_noticed(tmp_path):
    """Easy documents where the seed takes certified ones from, hard ones where it takes the others from."""
    parts = assign(900, 0, split_sizes(900, 3, None))
    rng = stream(1, "population attacks")
    texts = ["".join(rng.choice(list("eta" if part == 0 else "vkVb"), 62)) for part in parts]
    (tmp_path / "t.txt").write_text("\n\n".join(texts))
    folder = prepare("text", tmp_path / "d", paths=[tmp_path / "t.txt"], val_every=3, min_characters=60)
    with pytest.raises(CorpusError, match="no random choice from their 900"):
        issue(RunFolder(tmp_path / "run"), folder, prediction=Prediction(missing=8, ceiling=12))


def test_a_random_division_is_not_refused():
    """Simulated with heavy tails; the limit is far above what happens and far below what an order can do."""
    rng = stream(2, "population attacks")
    prices = rng.pareto(3, 3000) + 1
    apart = [abs(rng.permutation(prices)[:1000].mean() - prices.mean()) for _ in range(300)]
    assert max(apart) < chance(prices, 1000)
    assert np.sort(prices)[:1000].mean() < prices.mean() - chance(prices, 1000) / 4


@pytest.mark.parametrize("claimed", [70, 10**6])
def test_a_rule_for_short_documents_must_be_kept(corpus_dir, tmp_path, claimed):
    describe(corpus_dir, min_characters=claimed)
    with pytest.raises(CorpusError, match=f"by its rule none has fewer than {claimed} characters"):
        issue(RunFolder(tmp_path / "run"), corpus_dir)


@pytest.mark.parametrize(("prediction", "low", "high"), [(NEUTRAL, -1e-3, 1e-3), (Prediction(8, 4, 6), -2.5, 7.0)])
def test_what_is_predicted_follows_from_the_prices(corpus_dir, tmp_path, prediction, low, high):
    run = RunFolder(tmp_path / "run")
    certificate = issue(run, corpus_dir, prediction=prediction)
    data, scores = run.message.read_bytes(), read_scores(run.losses)
    assert verify(run.path, None).measured is None
    for name, change in (("predicted_per_byte", low), ("predicted_per_token", high)):
        changed = {name: certificate.prior.known.per_byte + change}
        known = certificate.prior.known.model_copy(update=changed)
        prior = certificate.prior.model_copy(update={"known": known})
        again = Measured(
            scores, certificate.corpus, prior, certificate.baselines, certificate.held_out, certificate.how
        )
        write_certificate(run, assemble(data, decode_message(data, max_symbols=1), again))
        with pytest.raises(CertificateError, match="does not follow from a price"):
            verify(run.path, None)
    write_certificate(run, certificate)
    assert read_certificate(run.path) == certificate


def test_the_length_of_blocks_is_paid_for():
    """The known code is asked in blocks of a length that an issuer may choose."""
    spec = ModelSpec(seed=0, intrinsic_dim=0, adapter="none")

    def bits(kind, block):
        architecture = Architecture("random", 1, 1, 4, block, 257)
        return Header(Setting(bound_type=kind), architecture, spec, 1, 0, block).known_bits

    assert bits("sequence_level", 1777) > bits("sequence_level", 1000) > bits("document_level", 1777)
    assert bits("document_level", 1777) == bits("document_level", 8)


@pytest.mark.parametrize("bound_type", ["document_level", "sequence_level", "token_level"])
def test_a_seed_that_is_not_paid_for_cannot_be_chosen(tmp_path, bound_type):
    """Dear documents go where they are not counted: the best of many seeds is no sample of a source."""
    (tmp_path / "t.txt").write_text("\n\n".join(letters(120, 60, "seeds")))
    setting = Setting(min_tokens=60, min_characters=60, bound_type=bound_type)
    chosen = {"paths": [tmp_path / "t.txt"], "val_every": 3, "min_characters": 60}
    lucky, fixed = (prepare("text", tmp_path / str(seed), split_seed=seed, **chosen) for seed in (5, 0))
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sublora.certificate.evidence.check_seed", lambda _: None)
        reissue(run, lucky, setting)
    with pytest.raises(CorpusError, match="seed 5 divided the documents"):
        verify(run.path, lucky)
    reissue(run, fixed, setting)
    assert verify(run.path, fixed).measured
