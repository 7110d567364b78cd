"""What an issuer can do with a folder of data, with words, and with files: each once passed, or harmed the verifier.

The attacker runs a program of his own, so nothing here is stopped when a certificate is issued: `reissue` makes any
certificate that follows from a folder, and `verify` has to refuse it.
"""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from certified_run import write_corpus

from sublora.certificate.assemble import assemble
from sublora.certificate.evidence import Evidence
from sublora.certificate.reading import parse_certificate, read_certificate, write_certificate
from sublora.certificate.verify import verify
from sublora.coding.architecture import Architecture, tag
from sublora.coding.message import Header, ModelSpec, decode_message, encode_message
from sublora.coding.setting import Setting
from sublora.corpus.corpus import open_corpus
from sublora.corpus.index import index_path
from sublora.errors import CertificateError, CorpusError, MessageError, SubloraError
from sublora.files import sha256, sha256_file, write_bytes
from sublora.run_folder import RunFolder
from sublora.scoring.measure import protocol_of
from sublora.scoring.processes import Processes

BLOCK = 32


@pytest.fixture
def folder(data_dir, tmp_path):
    """Return a folder of data that the issuer may change."""
    return shutil.copytree(data_dir, tmp_path / "data")


@pytest.fixture
def run(certified, tmp_path):
    return RunFolder(shutil.copytree(certified, tmp_path / "run"))


def describe(folder, **changes):
    """Change the description of a folder, write down the hashes of its files, and forget its indices."""
    meta = json.loads((folder / "meta.json").read_text()) | changes
    for name, facts in meta["splits"].items():
        path = folder / f"{name}.bin"
        if path.exists():
            meta["splits"][name] = (facts or {}) | {"sha256": sha256_file(path)}
    (folder / "meta.json").write_text(json.dumps(meta))
    for path in folder.glob("*.index.*"):
        path.unlink()


def setting_of(folder, **changes):
    """Return the setting of a claim about a source whose documents are those of a folder."""
    return dataclasses.replace(Setting(min_tokens=open_corpus(folder).min_tokens, min_characters=40), **changes)


def reissue(run, folder, setting, *, samples=0):
    """Certify the random base on the documents of a folder, whatever they are."""
    architecture = Architecture("random", 1, 1, 4, BLOCK, setting.vocab_size)
    header = Header(setting, architecture, ModelSpec(seed=0, intrinsic_dim=0, adapter="none"), 1, samples, BLOCK)
    data = encode_message(header, None, np.zeros(0)).data
    evidence = Evidence(header, open_corpus(folder), "", "", Processes("cpu"))
    message = decode_message(data, max_symbols=1)
    protocol = protocol_of(header, 8)
    rebuilt, scores = evidence.losses(data, message, protocol)
    beside = evidence.beside(data, message, rebuilt, protocol)
    certificate = assemble(data, message, evidence.measured(message, rebuilt, scores, beside, 8))
    run.message.write_bytes(data)
    run.losses.unlink(missing_ok=True)
    return write_certificate(run, certificate)


def population(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    return setting_of(folder, split_seed=meta["split_seed"], min_characters=meta["min_characters"], **changes)


# The folder of data


def test_an_honest_certificate_made_like_this_is_verified(run, folder):
    reissue(run, folder, population(folder))
    assert verify(run.path, folder).measured


def test_known_documents_are_not_the_certified_ones(run, folder):
    """An n-gram of known documents is free: fitted to the certified ones, it would memorise them for 24 bits."""
    meta = json.loads((folder / "meta.json").read_text())
    shutil.copy(folder / "train.bin", folder / "prior.bin")
    describe(folder, splits=meta["splits"] | {"prior": {}})
    prior = tag(open_corpus(folder).prior.content_sha256())
    reissue(run, folder, setting_of(folder, min_characters=meta["min_characters"], prior_tag=prior, ngram_order=6))
    with pytest.raises(SubloraError, match="known beforehand"):
        verify(run.path, folder)


def test_one_certified_document_among_the_known_ones_is_enough(run, tmp_path):
    from sublora.corpus.prepare import prepare

    text = write_corpus(tmp_path / "text", n=100).parent / "speech.txt"
    folder = prepare("text", tmp_path / "prior", paths=[text], prior_share=0.2)
    corpus = open_corpus(folder)
    prior = population(folder, prior_tag=tag(corpus.prior.content_sha256()), ngram_order=2)
    reissue(run, folder, prior)
    assert verify(run.path, folder).measured
    with (folder / "prior.bin").open("ab") as file:
        file.write(np.append(corpus.train.document(3), 256).astype("<u2").tobytes())
    describe(folder)
    prior = tag(open_corpus(folder).prior.content_sha256())
    reissue(run, folder, setting_of(folder, min_characters=1, prior_tag=prior, ngram_order=2))
    with pytest.raises(SubloraError, match="known beforehand"):
        verify(run.path, folder)


def test_the_size_of_the_population_follows_from_the_folder(run, folder):
    describe(folder, population=10**9)
    reissue(run, folder, population(folder))
    with pytest.raises(CorpusError, match="population"):
        verify(run.path, folder)


def test_documents_moved_between_parts_are_found(run, folder):
    """The parts have the sizes that the seed gives, and not its documents."""
    train, test = (np.fromfile(folder / f"{name}.bin", "<u2") for name in ("train", "test"))
    cut = [np.flatnonzero(part == 256)[0] + 1 for part in (train, test)]
    np.concatenate([test[: cut[1]], train[cut[0] :]]).tofile(folder / "train.bin")
    np.concatenate([train[: cut[0]], test[cut[1] :]]).tofile(folder / "test.bin")
    describe(folder)
    reissue(run, folder, population(folder))
    with pytest.raises(CorpusError, match="not divided as the seed"):
        verify(run.path, folder)


@pytest.mark.parametrize("bound_type", ["sequence_level", "token_level"])
def test_a_seed_has_nothing_to_do_with_blocks(run, folder, bound_type):
    """N counts documents of a population; blocks are not drawn from it."""
    reissue(run, folder, population(folder, bound_type=bound_type))
    with pytest.raises(CertificateError, match="population of documents"):
        verify(run.path, folder)


def test_a_claim_about_tokens_measures_all_of_them():
    """Of blocks that are drawn, an issuer would draw until they are easy, and nothing pays for that."""
    architecture = Architecture("random", 1, 1, 4, BLOCK, 257)
    spec = ModelSpec(seed=0, intrinsic_dim=0, adapter="none")
    with pytest.raises(MessageError, match="every token"):
        Header(Setting(bound_type="token_level"), architecture, spec, 1, 5, BLOCK)


@pytest.mark.parametrize("bound_type", ["sequence_level", "token_level"])
def test_the_hash_of_a_claim_about_blocks_covers_the_blocks(run, folder, bound_type):
    """Blocks hold what is no document, too: end-of-text by the thousand would be easy blocks of the same corpus."""
    honest = reissue(run, folder, setting_of(folder, bound_type=bound_type, min_characters=1))
    with (folder / "train.bin").open("ab") as file:
        file.write(np.full(10_000, 256, "<u2").tobytes())
    describe(folder)
    padded = reissue(run, folder, setting_of(folder, bound_type=bound_type, min_characters=1))
    assert padded.corpus.n > honest.corpus.n
    assert padded.corpus.sha256 != honest.corpus.sha256


def test_end_of_text_tokens_do_not_switch_simple_codes_off(run, folder, monkeypatch):
    from sublora.certificate import baselines

    monkeypatch.setattr(baselines, "MAX_TOKENS", 2 * len(open_corpus(folder).train.tokens))
    honest = reissue(run, folder, population(folder))
    with (folder / "train.bin").open("ab") as file:
        file.write(np.full(10**5, 256, "<u2").tobytes())
    describe(folder)
    assert reissue(run, folder, population(folder)).baselines == honest.baselines


@pytest.mark.parametrize("n_bytes", [0, -5])
def test_a_document_has_bytes(folder, n_bytes):
    """A negative number of bytes would make negative bits per byte."""
    rows = np.load(index_path(folder / "train.bin"))
    rows[3, 2] = n_bytes
    describe(folder, tokenizer="another", min_tokens=1)
    np.save(index_path(folder / "train.bin"), rows)
    with pytest.raises(CorpusError, match="bytes"):
        open_corpus(folder)


def test_an_older_copy_is_one_that_the_folder_holds(tmp_path, folder):
    from sublora.certificate.evidence import absent_from_older_copy
    from sublora.corpus.prepare import prepare

    new = write_corpus(tmp_path / "new", n=60).parent / "speech.txt"
    old = write_corpus(tmp_path / "old", n=30).parent / "speech.txt"
    assert absent_from_older_copy(open_corpus(prepare("text", tmp_path / "a", paths=[new], absent_from=[old])))
    assert not absent_from_older_copy(open_corpus(folder))
    describe(folder, absent_from="an older copy", older_copy="an older copy", prior={"older": 5, "before": 0})
    assert not absent_from_older_copy(open_corpus(folder))


# What is left for the reader to believe


def test_a_replay_says_that_it_believes_the_folder(run, data_dir):
    words = verify(run.path, data_dir).in_words()
    assert words.startswith("verified (full replay)") and "sublora prepare" in words


# Words


@pytest.mark.parametrize("hidden", ["\n", "\r", "\x1b[2K", "\x00", "\u202e", "\u2028", "\x9b"])
def test_a_certificate_cannot_write_over_the_terminal(run, hidden):
    """`verify --arithmetic` prints sentences of the certificate: another line, or an escape, could say "verified"."""
    c = read_certificate(run.certificate)
    said = f"speeches){hidden}verified (full replay): "
    write_certificate(run, c.model_copy(update={"corpus": c.corpus.model_copy(update={"source": said})}))
    with pytest.raises(CertificateError, match="is not printed"):
        read_certificate(run.certificate)


@pytest.mark.parametrize("published", ["2019-01-01. Audited by the authorities", "yesterday", "2019-1-1", "2019-13-01"])
def test_a_date_is_a_date(published):
    from pydantic import ValidationError

    from sublora.certificate.model import PretrainedBase

    facts = {"kind": "pretrained", "name": "x", "licence": None, "evidence": "assumed", "sha256": "ab" * 32}
    assert PretrainedBase(**facts, published="2019-02-14")
    with pytest.raises(ValidationError):
        PretrainedBase(**facts, published=published)


def test_uninteresting_is_not_avoided_by_the_tolerance(run, folder, monkeypatch):
    """Simple codes may differ a little between machines; that one beats the certificate must be said all the same."""
    from sublora.certificate import evidence
    from sublora.certificate.wording import statement

    first = reissue(run, folder, population(folder))
    bound = first.headline.bound
    changed = {"name": "a better code", "bound": 0.995 * bound, "bound_bpb": 0.995 * bound}
    better = first.baselines[0].model_copy(update=changed)
    make = evidence.baselines
    monkeypatch.setattr(evidence, "baselines", lambda *of: (*make(*of), better))
    honest = reissue(run, folder, population(folder))
    assert "a better code" in honest.statement
    assert verify(run.path, folder).measured
    raised = better.model_copy(update={"bound": bound + 1e-6, "bound_bpb": bound + 1e-6})
    c = honest.model_copy(update={"baselines": (*honest.baselines[:-1], raised)})
    said = statement(c.claims, c.setting, c.corpus, c.prior, c.message.bits, c.beside)
    assert "a better code" not in said
    write_certificate(run, c.model_copy(update={"statement": said}))
    with pytest.raises(CertificateError, match="no better than a better code"):
        verify(run.path, folder)


def test_held_out_losses_have_the_tolerance_of_losses(run, folder):
    certificate = reissue(run, folder, population(folder))
    held_out = certificate.held_out
    better = held_out.model_copy(update={"bpd": 0.993 * held_out.bpd})
    write_certificate(run, certificate.model_copy(update={"held_out": better}))
    with pytest.raises(CertificateError, match="held-out"):
        verify(run.path, folder)


# Files


def test_writing_does_not_follow_a_link(tmp_path):
    """A folder from elsewhere may hold a link under the temporary name of its index: nothing behind it is touched."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f".train.index.npy.{os.getpid()}.tmp").symlink_to(victim)
    write_bytes(folder / "train.index.npy", b"new")
    assert victim.read_text() == "precious"
    assert (folder / "train.index.npy").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["certificate", "message", "losses"])
def test_a_run_holds_files_and_nothing_else(run, name):
    """A pipe is never finished, and a device has no end."""
    path = getattr(run, name)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(CertificateError, match="no ordinary file"):
        verify(run.path, None)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CertificateError, match="no ordinary file"):
        verify(run.path, None)


@pytest.mark.parametrize("name", ["certificate", "message"])
def test_files_of_a_run_are_small(run, name):
    with getattr(run, name).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CertificateError, match="bytes long"):
        verify(run.path, None)


def test_repeated_fields_are_found_quickly():
    """Counting every name among all of them would take hours."""
    fields = ",".join(f'"{i}":0' for i in range(60_000))
    with pytest.raises(CertificateError, match="'59999' is there twice"):
        parse_certificate('{"format":3,"x":{' + fields + ',"59999":0}}', "it")


def test_an_index_cannot_ask_for_memory(folder):
    """The head of an array file names any size."""
    path = index_path(folder / "train.bin")
    head = path.read_bytes()[:128].decode("latin1")
    n = len(np.load(path))
    assert f"({n}, 3)" in head
    path.write_bytes(head.replace(f"({n}, 3)", "(99999999999999, 3)").ljust(128)[:128].encode("latin1"))
    assert len(open_corpus(folder).train) == n


@pytest.mark.parametrize(
    "change",
    [
        {"splits": {}},
        {"splits": {"train": {}}},
        {"splits": {"train": None}},
        {"min_characters": "many"},
        {"vocab_size": 1 << 31},
        {"eot_token": -1},
    ],
    ids=str,
)
def test_a_damaged_description_is_said_in_one_line(run, folder, change):
    meta = json.loads((folder / "meta.json").read_text()) | change
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SubloraError):
        verify(run.path, folder)


@pytest.mark.parametrize("name", ["meta.json", "train.index.npy", "train.index.json"])
def test_a_folder_of_data_holds_files_and_nothing_else(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name == "meta.json":
        with pytest.raises(CorpusError, match="no ordinary file"):
            open_corpus(folder)
    else:
        assert len(open_corpus(folder).train)


def test_a_description_is_not_nested_without_end(folder):
    (folder / "meta.json").write_text("[" * 10**5 + "]" * 10**5)
    with pytest.raises(CorpusError, match="damaged"):
        open_corpus(folder)


def test_a_stamp_may_say_anything(folder):
    """The record of an index is a cache: one that is damaged costs another pass, and nothing else."""
    n = len(open_corpus(folder).train)
    path = next(folder.glob("train.index.json*"))
    stamp = json.loads(path.read_text())
    for key in ("documents", "sha256", "max_token"):
        path.write_text(json.dumps({k: v for k, v in stamp.items() if k != key}))
        assert len(open_corpus(folder).train) == n
    path.write_text("[" * 10**5 + "]" * 10**5)
    assert len(open_corpus(folder).train) == n


# Messages that ask for too much


def test_a_vocabulary_has_a_limit():
    """The code known beforehand has a price for every token: 2^31 of them would be 16 GB for a message of 60 bytes."""
    assert Setting(tokenizer_tag=0, vocab_size=1 << 20, eot_token=0)
    with pytest.raises(MessageError):
        Setting(tokenizer_tag=0, vocab_size=(1 << 20) + 1, eot_token=0)


def test_draws_are_few_enough_to_be_held():
    architecture = Architecture("random", 1, 1, 4, BLOCK, 257)
    spec = ModelSpec(seed=0, intrinsic_dim=0, adapter="none")
    assert Header(Setting(), architecture, spec, 1, 1 << 24, BLOCK)
    with pytest.raises(MessageError, match="draws"):
        Header(Setting(), architecture, spec, 1, (1 << 24) + 1, BLOCK)


def test_windows_are_no_wider_than_documents(folder):
    """A context of a thousand million tokens costs nothing where documents are short."""
    from sublora.corpus.batches import pack_windows

    split = open_corpus(folder).train
    rows = np.arange(5)
    packed = pack_windows(split, rows, 1 << 40, 1 << 40)
    assert packed.inputs.shape == (5, split.lengths[:5].max())
    usual = pack_windows(split, rows, 4096, 4096)
    for a, b in zip(packed, usual, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a | {"bits": a["bits"][None]},
        lambda a: a | {"lengths": a["lengths"][:1]},
        lambda a: a | {"base_bits": a["bits"]},
        lambda a: a | {"smoothed": a["smoothed"][:, :1]},
        lambda a: a | {"misses": a["misses"][:, :1]},
        lambda a: a | {"lengths": a["lengths"].astype(np.float32) * np.nan},
        lambda a: a | {"lengths": 0 * a["lengths"]},
        lambda a: a | {"bits": a["bits"] * np.nan},
        lambda a: a | {"bits": -a["bits"]},
    ],
)
def test_losses_of_another_shape_are_refused(run, change):
    from safetensors.numpy import load, save

    data = save({name: np.ascontiguousarray(a) for name, a in change(load(run.losses.read_bytes())).items()})
    run.losses.write_bytes(data)
    certificate = read_certificate(run.certificate)
    write_certificate(run, certificate.model_copy(update={"losses_sha256": sha256(data)}))
    with pytest.raises(SubloraError):
        verify(run.path, None)
