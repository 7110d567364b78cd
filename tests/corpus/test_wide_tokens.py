"""Vocabularies over 65,536: token files of 32 bits, from a text to a verified certificate."""

import hashlib
import json
import shutil
import struct

import numpy as np
import pytest
from certified_run import flags
from corpora import make_old, write_text
from tokenizers.pre_tokenizers import ByteLevel

from sublora.certificate.issue import certify
from sublora.certificate.verify import verify
from sublora.config import load_config
from sublora.corpus.baselines import zlib_bits
from sublora.corpus.batches import Batches, pack_windows
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.split import check_split
from sublora.corpus.token_type import NARROW, WIDE, token_type
from sublora.corpus.tokenizers import make_tokenizer
from sublora.errors import CorpusError, SubloraError
from sublora.training.known import part_of
from sublora.training.loop import train

WORDS = ["union", "state", "congress", "treaty", "peace", "revenue"]
VOCABULARY = 70_000
FIRST_WORD = 66_000
"""of the merged tokens: cut to 16 bits, they would be other tokens"""


def write_large_tokenizer(folder, size=VOCABULARY):
    """Write a byte-level vocabulary in which all pieces of words stand behind 65,536 tokens that no text has."""
    pairs = dict.fromkeys((word[:i], word[i]) for word in WORDS for i in range(1, len(word)))
    tokens = {token: i for i, token in enumerate(sorted(ByteLevel.alphabet()))}
    tokens |= {"".join(pair): FIRST_WORD + i for i, pair in enumerate(pairs)} | {"<|endoftext|>": size - 1}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("\n".join(map(" ".join, pairs)))
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Return the folder of a corpus of 300 sentences of these words."""
    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    source = write_text(folder / "in.txt", [" ".join(rng.choice(WORDS, 8)) for _ in range(300)])
    tokenizer = str(write_large_tokenizer(folder / "tokenizer"))
    return prepare("text", folder / "data", paths=[source], tokenizer=tokenizer, prior_share=0.2)


def test_the_type_follows_from_the_vocabulary():
    assert [token_type(size) for size in (2, 65_536, 65_537, 1 << 20)] == [NARROW, NARROW, WIDE, WIDE]


def test_tokens_are_those_of_the_tokenizer(wide):
    corpus = open_corpus(wide)
    tokenizer = make_tokenizer(str(wide.parent / "tokenizer"))
    assert corpus.vocab_size == VOCABULARY and corpus.eot_token == VOCABULARY - 1
    text = (wide.parent / "in.txt").read_text().split("\n\n")
    expected = {tuple(row.tolist()) for row in tokenizer.encode([t.strip() for t in text])}
    parts = [*corpus.parts, corpus.prior]
    assert {tuple(part.document(i).tolist()) for part in parts for i in range(len(part))} == expected
    assert corpus.train.tokens.dtype == WIDE and (corpus.train.tokens > 65_535).mean() > 0.2
    assert (wide / "train.bin").stat().st_size == 4 * (corpus.train.lengths + 1).sum()
    check_split(corpus)


def test_the_hash_is_that_of_the_layout(wide):
    corpus = open_corpus(wide)
    by_hand = hashlib.sha256(b"sublora documents 2\n")
    for i in range(len(corpus.train)):
        tokens = corpus.train.document(i).tolist()
        by_hand.update(struct.pack("<qq", len(tokens), corpus.train.byte_lengths[i]))
        by_hand.update(struct.pack(f"<{len(tokens)}I", *tokens))
    assert corpus.train.content_sha256() == by_hand.hexdigest() == corpus.meta["splits"]["train"]["content_sha256"]


def test_a_changed_upper_half_is_found(wide, tmp_path):
    """The two bytes that 16 bits would not have."""
    shutil.copytree(wide, tmp_path / "data")
    data = bytearray((tmp_path / "data" / "train.bin").read_bytes())
    data[2] ^= 1
    (tmp_path / "data" / "train.bin").write_bytes(data)
    with pytest.raises(CorpusError, match=r"not the file that meta.json describes"):
        open_corpus(tmp_path / "data")
    original = open_corpus(wide).train
    tokens = np.array(original.tokens)
    first = int(original.starts[0])
    tokens[first] ^= 1 << 16
    assert tokens[first] % 65_536 == original.tokens[first] % 65_536
    changed = type(original)(**{**vars(original), "tokens": tokens})
    assert (changed.digests()[0] != original.digests()[0]).any()
    assert (changed.digests()[1:] == original.digests()[1:]).all()


def test_the_same_command_again_does_nothing(wide, caplog):
    before = {p.name: p.stat().st_mtime_ns for p in wide.glob("*.bin")}
    tokenizer = str(wide.parent / "tokenizer")
    with caplog.at_level("INFO"):
        prepare("text", wide, paths=[wide.parent / "in.txt"], tokenizer=tokenizer, prior_share=0.2)
    assert "nothing to do" in caplog.text
    assert {p.name: p.stat().st_mtime_ns for p in wide.glob("*.bin")} == before


def test_a_killed_preparation_goes_on(wide, tmp_path, monkeypatch):
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_AT_ONCE", 8)
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_BETWEEN_SAVES", 16)
    tokenizer, arguments = str(wide.parent / "tokenizer"), {"paths": [wide.parent / "in.txt"], "prior_share": 0.2}
    kind = type(make_tokenizer(tokenizer))
    encode, calls = kind.encode, []

    def killed(self, batch):
        calls.append(batch)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return encode(self, batch)

    monkeypatch.setattr(kind, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare("text", tmp_path / "out", tokenizer=tokenizer, **arguments)
    with (tmp_path / "out" / ".prepare" / "newer.tokens").open("ab") as file:
        file.write(b"half")
    prepare("text", tmp_path / "out", tokenizer=tokenizer, **arguments)
    for name in ("train.bin", "prior.bin", "train.index.npy", "meta.json"):
        assert (tmp_path / "out" / name).read_bytes() == (wide / name).read_bytes()


def test_batches_windows_and_parts_keep_every_bit(wide):
    train_split = open_corpus(wide).train
    rows = np.arange(5)
    packed = pack_windows(train_split, rows, 8, 4)
    joined = np.concatenate([train_split.document(i) for i in range(5)])
    assert np.array_equal(packed.targets[packed.mask], joined) and joined.max() > 65_535
    part = part_of(train_split, rows)
    assert all(np.array_equal(part.document(i), train_split.document(i)) for i in range(5))
    batch = Batches(train_split, 32, "documents").sample(np.random.default_rng(0), 4)
    assert batch.targets.max() > 65_535
    bits = zlib_bits(train_split, rows[:1], VOCABULARY)
    lowest = type(train_split)(**{**vars(train_split), "tokens": train_split.tokens.astype(NARROW)})
    assert bits[0] > zlib_bits(lowest, rows[:1], VOCABULARY)[0]


def test_files_without_meta_are_read_as_the_vocabulary_says(tmp_path):
    documents = [[69_000, 1, 2], [3], [66_000]]
    np.array([t for d in documents for t in [*d, 69_999]], "<u4").tofile(tmp_path / "train.bin")
    for _ in range(2):  # the second time from the cache
        split = open_corpus(tmp_path, eot_token=69_999, vocab_size=VOCABULARY).train
        assert [split.document(i).tolist() for i in range(3)] == documents
        make_old(tmp_path)
    # The cache of another width is not believed: 69,999 is 4,463 and 1.
    narrow = open_corpus(tmp_path, eot_token=4_463, vocab_size=65_536).train
    assert narrow.document(0).tolist() == [69_000 - 65_536, 1, 1, 0, 2, 0]
    with pytest.raises(CorpusError, match="token 69999, outside the vocabulary of 69999"):
        open_corpus(tmp_path, eot_token=3, vocab_size=69_999)
    with (tmp_path / "train.bin").open("ab") as file:
        file.write(b"ab")
    with pytest.raises(CorpusError, match="no whole number of 32-bit tokens"):
        open_corpus(tmp_path, eot_token=69_999, vocab_size=VOCABULARY)


def test_a_vocabulary_that_is_too_large(tmp_path):
    np.zeros(4, "<u4").tofile(tmp_path / "train.bin")
    with pytest.raises(CorpusError, match="1,048,577 tokens, and 1,048,576 are the most"):
        open_corpus(tmp_path, eot_token=3, vocab_size=(1 << 20) + 1)
    folder = write_large_tokenizer(tmp_path / "tokenizer", size=(1 << 20) + 1)
    with pytest.raises(CorpusError, match="more than 1,048,576 tokens"):
        make_tokenizer(str(folder))


def test_from_the_text_to_a_verified_certificate(wide, tmp_path):
    small = (
        "--model.n_layer=1",
        "--training.max_iters=20",
        "--sublora.linear_head_enable_lora=false",
        "--bounds.bound_samples=40",
    )
    words = flags(wide, tmp_path / "run", *small)
    train(load_config(words))
    path = certify(load_config(words))
    verified = verify(path, wide)
    assert verified.certificate.setting.vocab_size == VOCABULARY
    assert "arithmetic only" not in verified.in_words()

    # The same documents with one token that differs above the lowest 16 bits are others.
    shutil.copytree(wide, tmp_path / "forged")
    tokens = np.fromfile(tmp_path / "forged" / "train.bin", "<u4")
    tokens[0] ^= 1 << 16
    tokens.tofile(tmp_path / "forged" / "train.bin")
    meta = json.loads((wide / "meta.json").read_text())
    meta["splits"]["train"]["sha256"] = hashlib.sha256(tokens.tobytes()).hexdigest()
    (tmp_path / "forged" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SubloraError):
        verify(path, tmp_path / "forged")
