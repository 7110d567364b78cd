"""What an issuer tried on earlier formats, and more. Each attack once gave a certificate that `verify` called verified.

Every test forges what the attacker would forge, seals it as he would, and asks for the refusal.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from certified_run import flags, write_corpus

from sublora.certificate.assemble import assemble
from sublora.certificate.draw import DRAW_BITS, draw_units
from sublora.certificate.issue import certify
from sublora.certificate.model import Certificate
from sublora.certificate.reading import parse_certificate, read_certificate, write_certificate
from sublora.certificate.rounding import confidence, downward, store_down, store_up, upward
from sublora.certificate.verify import verify
from sublora.certificate.wording import statement
from sublora.coding.architecture import Architecture, tag
from sublora.coding.message import MAX_SYMBOLS, decode_message, encode_message
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.index import index_path
from sublora.errors import CertificateError, ConfigError, MessageError, SubloraError
from sublora.files import sha256
from sublora.inequalities import betting_subsampled
from sublora.run_folder import RunFolder
from sublora.scoring.scores import read_scores
from sublora.seeds import stream
from sublora.training.loop import train


@pytest.fixture
def run(certified, tmp_path):
    return RunFolder(shutil.copytree(certified, tmp_path / "run"))


def forge(run: RunFolder, **changes) -> Certificate:
    """Change fields ("part.field" or "field"), write the sentences again, seal, and write."""
    certificate = read_certificate(run.certificate)
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            value = getattr(certificate, part).model_copy(update={field: value})
        certificate = certificate.model_copy(update={part: value})
    c = certificate
    said = statement(c.claims, c.setting, c.corpus, c.prior, c.message.bits, c.beside)
    return write_certificate(run, c.model_copy(update={"statement": said}))


# 1. Draw again


def test_another_draw_costs_nothing_to_the_bound_because_all_are_paid_for():
    """The luckiest of a thousand draws of the same losses is not below the truth."""
    rng = stream(1, "attack", "draws")
    population = rng.normal(-1.0, 0.5, 4000).clip(-6, 0.1)
    luckiest = min(
        betting_subsampled(
            population[draw_units(bytes([i % 256, i // 256]), "ab" * 32, 4000, 200)],
            upper=0.1,
            n=4000,
            message_nats=0.0,
            delta=0.05,
            claims=2**DRAW_BITS,
        ).value
        for i in range(1000)
    )
    assert luckiest > population.mean()


def test_the_certificate_pays_for_the_draws(run):
    """The bound of the certificate is the one with 2^40 draws, and the one without is smaller and refused."""
    certificate, scores = read_certificate(run.certificate), read_scores(run.losses)
    known, predicted = certificate.prior.known, certificate.setting.prediction
    weight, price = certificate.setting.mixture_weight, scores.known / scores.lengths
    mixed = -np.logaddexp2(np.log2(1 - weight) - scores.bits, np.log2(weight) - scores.known) / scores.lengths
    prediction = np.maximum(
        predicted.slope * price + predicted.document_bits / scores.lengths, price - predicted.ceiling
    )
    upper = -np.log2(weight) / certificate.setting.min_tokens + predicted.ceiling
    values = {
        claims: betting_subsampled(
            np.minimum(mixed - prediction + 1e-4, upper),
            upper=upper,
            n=certificate.corpus.n,
            message_nats=(certificate.message.bits + certificate.message.division_bits) * np.log(2),
            delta=0.05,
            claims=claims,
        ).value
        + known.predicted_per_token
        for claims in (1, 2**40)
    }
    bound = certificate.claim("bpd").bound
    assert bound == pytest.approx(values[2**40], abs=2e-6)
    assert values[1] < bound
    cheap = certificate.claims[0].model_copy(update={"bound": store_up(values[1])})
    forge(run, claims=(cheap, *certificate.claims[1:]))
    with pytest.raises(CertificateError, match="the bound on bpd differs"):
        verify(run.path, None)


def test_end_of_text_tokens_do_not_change_the_draw(data_dir, tmp_path):
    """The seed comes from the kept documents: what is appended to the file is no document."""
    one = open_corpus(data_dir).train.content_sha256()
    padded = shutil.copytree(data_dir, tmp_path / "padded")
    (padded / "meta.json").unlink()
    with (padded / "train.bin").open("ab") as file:
        file.write(np.full(10, 256, "<u2").tobytes())
    for index in padded.glob("*.index.*"):
        index.unlink()
    split = open_corpus(padded, eot_token=256, vocab_size=257).train
    assert split.compute_sha256() != open_corpus(data_dir).train.compute_sha256()
    assert len(split) == len(open_corpus(data_dir).train)
    # Bytes are unknown there, so the hash is another one; the tokens of the documents are the same.
    known = dataclasses.replace(split, byte_lengths=split.lengths, tokens_are_bytes=True)
    assert known.content_sha256() == one


# 2. Name a pretrained base "random"; let a certificate choose what is loaded


def test_a_pretrained_base_cannot_be_called_random(run, data_dir):
    """The kind of base is a bit of the message; a random base is made from the seed and nothing is loaded."""
    base = read_certificate(run.certificate).prior.base
    assert base.kind == "random"
    forge(run, prior__base=base.model_copy(update={"sha256": "ab" * 32}))
    with pytest.raises(CertificateError, match="prior: base: sha256 differs"):
        verify(run.path, data_dir)


def test_a_certificate_never_chooses_what_is_loaded(run, data_dir, monkeypatch):
    """A message with a pretrained base is refused until the user names a copy of his own."""
    message = decode_message(run.message.read_bytes(), max_symbols=MAX_SYMBOLS)
    architecture = Architecture("pretrained", 0, 0, 0, 32, 257, base_tag=tag("ab" * 32))
    header = dataclasses.replace(
        message.header, architecture=architecture, spec=dataclasses.replace(message.spec, adapter="none")
    )
    data = encode_message(header, None, np.zeros(0)).data
    run.message.write_bytes(data)
    run.losses.unlink()
    from sublora.nn import pretrained

    monkeypatch.setattr(pretrained, "find_source", lambda source: pytest.fail(f"{source} was looked for"))
    with pytest.raises(SubloraError, match="give your own copy with --base"):
        verify(run.path, data_dir)


# 3. Facts outside the message


def test_an_architecture_of_another_vocabulary_is_no_message():
    with pytest.raises(ConfigError):
        Architecture("random", 2, 2, 16, 32, 257, family="other")
    message = pytest.importorskip("sublora.coding.message")
    setting = pytest.importorskip("sublora.coding.setting").Setting()
    with pytest.raises(MessageError, match="different vocabularies"):
        message.Header(setting, Architecture("random", 2, 2, 16, 32, 300), message.ModelSpec(0, 8), 1, 0, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"setting__delta": "0.5"},
        {"setting__joint": True},
        {"setting__bound_type": "sequence_level"},
        {"setting__about": "source"},
        {"setting__stride": 31},
        {"setting__block_size": 64},
        {"setting__min_tokens": 60},
        {"setting__min_characters": 600},
        {"setting__vocab_size": 300},
        {"setting__eot_token": 255},
        {"setting__samples": 149},
        {"setting__mixture_weight": 0.25},
        {"message__bits": 64},
        {"message__setting_bits": 1},
        {"message__division_bits": 0},
        {"message__coordinates": 4},
        {"corpus__n": 4000},
        {"corpus__distinct": 4000},
        {"corpus__population": 40_000},
        {"corpus__split_seed": 1},
        {"corpus__source": "another source"},
        {"corpus__rule": "another rule"},
        {"corpus__sha256": "ab" * 32},
        {"prior__D": 10**6},
        {"prior__tokenizer": "bytes: another description"},
        {"prior__documents": 5},
        {"prior__prompt_tokens": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_facts_cannot_be_changed_in_the_certificate(run, data_dir, change):
    forge(run, **change)
    with pytest.raises(SubloraError):
        verify(run.path, data_dir)


# 4. Bytes per document


def test_bytes_are_under_the_hash(run, data_dir, tmp_path):
    forged = shutil.copytree(data_dir, tmp_path / "forged")
    path = index_path(forged / "train.bin")
    rows = np.load(path)
    rows[:, 2] *= 10
    np.save(path, rows)
    split = open_corpus(forged).train
    # Bytes of a byte tokenizer are its tokens, whatever the index says.
    assert np.array_equal(split.byte_lengths, split.lengths)
    other = dataclasses.replace(split, byte_lengths=10 * split.lengths, tokens_are_bytes=False)
    assert other.content_sha256() != split.content_sha256()


# 5. Duplicates


def test_repeated_documents_are_removed_and_counted(tmp_path, data_dir):
    from sublora.corpus.prepare import prepare

    texts = [f"document number {i} about the state of the union" for i in range(40)]
    (tmp_path / "ten.txt").write_text("\n\n".join(texts * 10))
    corpus = open_corpus(prepare("text", tmp_path / "ten", paths=[tmp_path / "ten.txt"]))
    parts = [corpus.train, corpus.val, corpus.test]
    assert sum(map(len, parts)) == corpus.population == 40
    everything = [bytes(p.document(i).astype(np.uint8)) for p in parts for i in range(len(p))]
    assert len(set(everything)) == 40


def test_repetitions_that_another_tool_left_are_said(certified, data_dir, tmp_path):
    """Verification counts the distinct documents itself, and the certificate says how many there are."""
    certificate = read_certificate(certified)
    assert certificate.corpus.distinct == open_corpus(data_dir).train.n_distinct() == certificate.corpus.n
    from sublora.certificate.wording import limits

    repeated = certificate.corpus.model_copy(update={"distinct": 10})
    said = limits(certificate.setting, repeated, certificate.prior)
    assert any("Only 10 of the" in sentence for sentence in said)


# 6. The rule


def test_the_rule_is_tied_to_the_corpus(run, data_dir, tmp_path):
    forged = shutil.copytree(data_dir, tmp_path / "forged")
    meta = json.loads((forged / "meta.json").read_text())
    (forged / "meta.json").write_text(json.dumps(meta | {"min_tokens": 2}))
    with pytest.raises(SubloraError):
        verify(run.path, forged)


# 7. JSON


def edited(run: RunFolder, old: str, new: str) -> str:
    text = run.certificate.read_text()
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 3,', '"format": 3,\n  "statement": "a false one",'),
        ('"format": 3,', '"format": 3,\n  "note": "hello",'),
        ('"format": 3,', '"format": 3.0,'),
        ('"format": 3,', '"format": 2,'),
        ('"joint": false', '"joint": 0'),
        ('"samples": 150', '"samples": 150.0'),
        ('"format": 3,\n', '"format":3,\n'),
        ('"losses_sha256": "', '"losses_sha256": "A'),
    ],
    ids=["twice", "unknown", "float", "old", "number for a truth", "float for a count", "layout", "hash"],
)
def test_only_one_text_is_the_certificate(run, old, new):
    with pytest.raises(CertificateError):
        parse_certificate(edited(run, old, new), "the certificate")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_are_finite(run, number):
    bound = json.dumps(read_certificate(run.certificate).claims[0].bound)
    with pytest.raises(CertificateError):
        parse_certificate(edited(run, f'"bound": {bound}', f'"bound": {number}'), "the certificate")


@pytest.mark.parametrize("delta", ["abc", "1/0", "nan", "2", "0", "0.050"])
def test_a_delta_that_is_none_is_refused_when_it_is_read(run, delta):
    """What reads it later, as a signature's summary does, would end in an exception."""
    with pytest.raises(CertificateError, match=r"is no certificate: setting\.delta"):
        parse_certificate(edited(run, '"delta": "0.05"', f'"delta": "{delta}"'), "the certificate")


def test_the_ledger_is_read_off_the_message(run):
    ledger = read_certificate(run.certificate).message.ledger
    forge(run, message__ledger=ledger | {"seed": ledger["seed"] - 1e6, "payload": ledger["payload"] + 1e6})
    with pytest.raises(CertificateError, match="ledger"):
        verify(run.path, None)


# 8. What arithmetic shows


def test_arithmetic_says_what_it_did_not_check(run):
    words = verify(run.path, None).in_words()
    assert words.startswith("arithmetic only") and "NOT checked" in words and "verified" not in words


@pytest.mark.parametrize(
    "known", [{"per_token": 0.0}, {"per_token": 10.0**6}, {"limit": 1.0}, {"code": "another"}], ids=str
)
def test_impossible_lengths_in_the_known_code_are_refused(run, known):
    prior = read_certificate(run.certificate).prior
    forge(run, prior__known=prior.known.model_copy(update=known))
    with pytest.raises(SubloraError):
        verify(run.path, None)


def test_a_negative_bound_is_refused(run):
    """Losses that are far below zero are invented; no arithmetic makes a bound of them."""
    c, data = read_certificate(run.certificate), run.message.read_bytes()
    scores = read_scores(run.losses)
    invented = dataclasses.replace(scores, bits=np.zeros(len(scores.bits)), known=1e4 * np.ones(len(scores.bits)))
    from sublora.certificate.assemble import Measured

    measured = Measured(invented, c.corpus, c.prior, c.baselines, c.held_out, c.how)
    with pytest.raises(SubloraError):
        write_certificate(run, assemble(data, decode_message(data, max_symbols=MAX_SYMBOLS), measured))
        run.losses.write_bytes(invented.to_bytes())
        verify(run.path, None)


def test_invented_losses_pass_the_arithmetic_but_not_the_replay(run, data_dir):
    from sublora.certificate.assemble import Measured

    c, data = read_certificate(run.certificate), run.message.read_bytes()
    scores = read_scores(run.losses)
    lower = dataclasses.replace(scores, bits=np.maximum(scores.bits - 3.0 * scores.lengths, 0.0))
    measured = Measured(lower, c.corpus, c.prior, c.baselines, c.held_out, c.how)
    write_certificate(run, assemble(data, decode_message(data, max_symbols=MAX_SYMBOLS), measured))
    run.losses.write_bytes(lower.to_bytes())
    verify(run.path, None)
    with pytest.raises(CertificateError, match="the bound on bpd differs"):
        verify(run.path, data_dir)


# 9. Rounding


def test_rounding_is_always_to_the_safe_side():
    from fractions import Fraction

    assert confidence(Fraction(1, 20)) == "95 %"
    assert confidence(Fraction(1, 10**7)) == "99.99999 %"
    assert confidence(Fraction(3, 1000)) == "99.7 %"
    for value in (1.0000001, 2.9999999, 0.1, 1 / 3, 7.0):
        assert store_down(value) <= value <= store_up(value)
        assert float(downward(value, 3)) <= value <= float(upward(value, 3))
    assert store_up(0.1 + 0.2) >= 0.1 + 0.2


# 10. Held out


def test_what_is_reported_did_not_choose(certified, data_dir):
    held_out, corpus = read_certificate(certified).held_out, open_corpus(data_dir)
    assert held_out.part == "test"
    assert held_out.sha256 == corpus.test.content_sha256() != corpus.val.content_sha256()


# 11. Sound certificates that were refused


def test_a_corpus_without_a_description_is_verified(tmp_path):
    """Token files of other tools: vocabulary and end-of-text come from the message."""
    data = write_corpus(tmp_path / "plain", n=150)
    (data / "meta.json").unlink()
    for path in (*data.glob("*.index.*"), data / "test.bin"):
        path.unlink()
    options = flags(data, tmp_path / "run", "--data.eot_token=256", "--data.vocab_size=257", "--training.max_iters=2")
    train(load_config(options))
    certify(load_config(options))
    certificate = verify(tmp_path / "run", data).certificate
    assert certificate.setting.about == "source" and certificate.held_out.part == "validation"


def test_a_near_tie_counts_at_issue():
    import torch

    from sublora.scoring.risk import token_losses
    from sublora.scoring.scores import TOP_K

    logits = torch.tensor([[1.0, 1.0 - 1e-6, 0.0], [1.0 - 1e-6, 1.0, 0.0]])
    misses = slice(-len(TOP_K), None)
    issued = token_losses(logits, torch.tensor([0, 0]), 3, rank_margin=1e-3)[:, misses]
    replayed = token_losses(logits, torch.tensor([0, 0]), 3)[:, misses]
    assert issued[:, 0].tolist() == [1, 1]
    assert replayed[:, 0].tolist() == [0, 1]
    assert (replayed <= issued).all()


# 12. A headline that hides the model


def test_the_model_alone_stands_beside_the_mixture(certified):
    certificate, scores = read_certificate(certified), read_scores(RunFolder(certified).losses)
    alone = float((scores.bits / scores.lengths).mean())
    claim = certificate.claim("bpd")
    assert claim.model_alone == pytest.approx(alone)
    assert claim.empirical != pytest.approx(alone, abs=1e-3)


# Our own: the message and the hash of the losses are compared with the files


def test_another_message_of_the_same_length_is_found(run, data_dir):
    data = bytearray(run.message.read_bytes())
    found = 0
    for bit in range(0, 8 * len(data), 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        run.message.write_bytes(bytes(changed))
        with pytest.raises(SubloraError):
            verify(run.path, None)
        found += 1
    assert found > 20


def test_another_split_seed_is_another_corpus(run, tmp_path, data_dir):
    from sublora.corpus.prepare import prepare

    again = prepare("text", tmp_path / "again", paths=[data_dir.parent / "speech.txt"], split_seed=1)
    with pytest.raises(CertificateError, match="split_seed differs"):
        verify(run.path, again)


def test_a_population_that_is_not_the_seeds_is_found(run, data_dir, tmp_path):
    """The easiest documents for training, the others held out: the split is not the one that the seed makes."""
    forged = shutil.copytree(data_dir, tmp_path / "forged")
    for part in ("train", "val", "test"):
        for path in forged.glob(f"{part}.*"):
            path.unlink()
    shutil.copy(data_dir / "train.bin", forged / "test.bin")
    shutil.copy(data_dir / "val.bin", forged / "train.bin")
    shutil.copy(data_dir / "test.bin", forged / "val.bin")
    with pytest.raises(SubloraError):
        verify(run.path, forged)


def test_the_losses_must_be_the_recorded_ones(run):
    run.losses.write_bytes(run.losses.read_bytes()[:-8] + bytes(8))
    with pytest.raises(CertificateError):
        verify(run.path, None)
    assert sha256(run.losses.read_bytes()) != read_certificate(run.certificate).losses_sha256
