"""The division of documents by a seed, and the hash of documents that shows it."""

import hashlib
import json
import struct

import numpy as np
import pytest
from corpora import TEXTS, rewrite, write_text, write_tokens
from hypothesis import given
from hypothesis import strategies as st

from sublora.corpus.corpus import open_corpus
from sublora.corpus.digest import DocumentHash, count_distinct, document_digests
from sublora.corpus.prepare import prepare
from sublora.corpus.split import PRIOR, TEST, TRAIN, VAL, Sizes, assign, check_split, split_sizes
from sublora.draws import shuffled
from sublora.errors import CorpusError


@given(st.integers(1, 10**7), st.integers(3, 3000), st.none() | st.floats(1e-6, 0.5))
def test_sizes(n, every, share):
    try:
        sizes = split_sizes(n, every, share)
    except CorpusError:
        assert n - 2 * max(1, round(n / every)) - max(1, round((share or 0) * n)) < 1
        return
    assert sizes.train >= 1 and sizes.population + sizes.prior == n
    assert sizes.val == sizes.test == (max(1, round(n / every)) if n >= 3 else 0)
    assert (sizes.prior == 0) == (share is None)


def test_without_a_prior_something_is_always_left_to_train_on():
    for n in range(1, 200):
        for every in (3, 4, 5, 7, 25):
            assert split_sizes(n, every, None).train >= 1


def test_places_of_the_shuffle_are_the_parts():
    parts = assign(20, 5, Sizes(train=10, val=3, test=2, prior=5))
    order = shuffled("split", (5).to_bytes(8, "big"), 20)
    assert [parts[i] for i in order] == [TEST] * 2 + [VAL] * 3 + [PRIOR] * 5 + [TRAIN] * 10
    # The same by its definition: sorted by 64-bit words of SHA-256.
    digests = [hashlib.sha256(b"split\x1f" + bytes(8) + struct.pack("<Q", i)).digest() for i in range(3)]
    words = struct.unpack("<12Q", b"".join(digests))
    by_word = sorted(range(10), key=words.__getitem__)
    parts = assign(10, 0, Sizes(train=6, val=2, test=2, prior=0))
    assert [parts[i] for i in by_word] == [TEST] * 2 + [VAL] * 2 + [TRAIN] * 6


@pytest.fixture
def folder(tmp_path):
    old = write_text(tmp_path / "old.txt", TEXTS[:7])
    new = write_text(tmp_path / "new.txt", TEXTS)
    settings = {"val_every": 8, "prior_before": 5, "prior_share": 0.2, "absent_from": [old]}
    return prepare("text", tmp_path / "out", paths=[new], **settings)


def change(folder, **fields):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | fields))


def documents_of(split):
    return [split.document(i).tolist() for i in range(len(split))]


def test_the_split_of_prepare_is_that_of_the_seed(folder):
    check_split(open_corpus(folder))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"split_seed": 1}, "put together again"),
        ({"val_every": 5}, "documents instead of"),
        ({"val_every": None}, "damaged"),
        ({"prior_share": None}, "documents instead of"),
        ({"population": 10**6}, "the population is"),
        ({"shuffled_sha256": "00" * 32}, "put together again"),
    ],
)
def test_another_description_is_found(folder, fields, match):
    change(folder, **fields)
    with pytest.raises(CorpusError, match=match):
        check_split(open_corpus(folder))


def test_documents_that_change_places_are_found(folder):
    corpus = open_corpus(folder)
    train, test, prior = (documents_of(split) for split in (corpus.train, corpus.test, corpus.prior))
    rewrite(folder, "train", train)
    check_split(open_corpus(folder))
    # A document that is easy comes from the test part, one that is hard goes there.
    rewrite(folder, "train", [test[0], *train[1:]])
    rewrite(folder, "test", [train[0], *test[1:]])
    with pytest.raises(CorpusError, match="put together again"):
        check_split(open_corpus(folder))
    rewrite(folder, "test", test)
    rewrite(folder, "train", train[::-1])
    with pytest.raises(CorpusError, match="put together again"):
        check_split(open_corpus(folder))
    rewrite(folder, "train", train[1:])
    with pytest.raises(CorpusError, match="train has"):
        check_split(open_corpus(folder))
    rewrite(folder, "train", train)
    rewrite(folder, "prior", [*prior[:-1], train[0]])
    with pytest.raises(CorpusError, match="put together again"):
        check_split(open_corpus(folder))


def test_of_other_tools_nothing_is_known(tmp_path):
    write_tokens(tmp_path, [[1, 2], [3]])
    write_tokens(tmp_path, [[4]], name="val")
    write_tokens(tmp_path, [[5]], name="test")
    corpus = open_corpus(tmp_path, eot_token=9, vocab_size=10)
    assert (corpus.val.document(0).tolist(), corpus.test, corpus.prior) == ([4], None, None)
    assert (corpus.population, corpus.split_seed) == (None, None)
    with pytest.raises(CorpusError, match="does not say how its documents were divided"):
        check_split(corpus)


def test_the_layout_of_the_hash():
    out = DocumentHash()
    out.add(np.array([1, 2, 40_000]), 7)
    out.add(np.array([5], np.uint8), -1)
    layout = b"sublora documents 1\n"
    layout += struct.pack("<qq3H", 3, 7, 1, 2, 40_000) + struct.pack("<qqH", 1, -1, 5)
    assert out.hexdigest() == hashlib.sha256(layout).hexdigest()


def content(folder, documents, eot=9, **options):
    write_tokens(folder, documents, eot, **options)
    return open_corpus(folder, eot_token=eot, vocab_size=10).train.content_sha256()


def test_the_content_is_the_documents_and_nothing_else(tmp_path):
    honest = content(tmp_path, [[1, 2], [3]])
    expected = DocumentHash()
    expected.add(np.array([1, 2]), -1)
    expected.add(np.array([3]), -1)
    assert honest == expected.hexdigest()
    # Padding, empty documents, a last document that is not closed, another end-of-text token: the same documents.
    for same in ([[], [1, 2], [], [3]], [[1, 2], [3], [], [], []]):
        assert content(tmp_path, same) == honest
    assert content(tmp_path, [[1, 2], [3]], closed=False) == honest
    assert content(tmp_path, [[1, 2], [3]], eot=8) == honest
    for other in ([[1], [2, 3]], [[3], [1, 2]], [[1, 2, 3]], [[1, 2]], [[1, 2], [3], [3]], [[1, 4], [3]]):
        assert content(tmp_path, other) != honest
    (tmp_path / "train.index.npy").unlink()
    assert content(tmp_path, [[1, 2], [3]]) == honest


def test_bytes_of_documents_are_under_the_hash(tmp_path):
    out = prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", TEXTS)])
    honest = open_corpus(out).train
    assert honest.content_sha256() == honest.content_sha256() != honest.sha256
    rows = np.load(out / "train.index.npy")
    np.save(out / "train.index.npy", rows * [1, 1, 10])
    # Bytes that are tokens cannot be said to be more.
    assert open_corpus(out).train.content_sha256() == honest.content_sha256()
    change(out, tokenizer="other")
    assert open_corpus(out).train.content_sha256() != honest.content_sha256()


def test_only_bytes_are_bytes(tmp_path):
    out = prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", TEXTS)])
    split = open_corpus(out).train
    forged = type(split)(**{**vars(split), "byte_lengths": 10 * split.lengths})
    with pytest.raises(CorpusError, match="said to have other lengths"):
        forged.content_sha256()
    change(out, vocab_size=300)
    with pytest.raises(CorpusError, match="bytes have 257 tokens"):
        open_corpus(out)


def test_a_file_that_changed_after_it_was_opened_has_no_content(tmp_path):
    split = open_corpus(write_tokens(tmp_path, [[1, 2], [3]]), eot_token=9, vocab_size=10).train
    write_tokens(tmp_path, [[1], [2, 3]])
    with pytest.raises(CorpusError, match="disagree"):
        split.content_sha256()


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=30))
def test_distinct_documents(documents):
    tokens = np.array([t for document in documents for t in [*document, 9]], np.uint16)
    lengths = np.array([len(document) for document in documents], np.int64)
    starts = np.cumsum(np.concatenate([[0], lengths[:-1] + 1])).astype(np.int64)
    assert count_distinct(document_digests(tokens, starts, lengths)) == len(set(map(tuple, documents)))
