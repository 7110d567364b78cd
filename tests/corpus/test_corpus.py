"""Opening a corpus: its index, its folder, and what is refused."""

import json
import os

import numpy as np
import pytest
from corpora import TEXTS, make_old, write_text, write_tokens
from scipy.stats import chisquare

from sublora import files
from sublora.corpus import index as index_module
from sublora.corpus.corpus import open_corpus, uniform_draw
from sublora.corpus.prepare import prepare
from sublora.errors import CorpusError


def test_index_without_meta_is_the_index_with_meta(tmp_path):
    out = prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", TEXTS)])
    written = np.load(out / "train.index.npy")
    with_meta = open_corpus(out).train
    for name in ("meta.json", "train.index.npy", "train.index.json"):
        (out / name).unlink()
    without = open_corpus(out, eot_token=256, vocab_size=257).train
    for split in (with_meta, without):
        assert (split.starts == written[:, 0]).all()
        assert (split.lengths == written[:, 1]).all()
    assert (with_meta.byte_lengths == written[:, 2]).all()
    assert without.byte_lengths is None


def test_byte_lengths_survive_a_lost_index_only_where_tokens_are_bytes(tmp_path):
    out = prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", TEXTS)])
    (out / "train.index.npy").unlink()
    assert (open_corpus(out).train.byte_lengths == open_corpus(out).train.lengths).all()
    meta = json.loads((out / "meta.json").read_text()) | {"tokenizer": "other"}
    (out / "meta.json").write_text(json.dumps(meta))
    assert open_corpus(out).train.byte_lengths is None


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("chunk_bytes", [2, 6, 1 << 20])
def test_foreign_index(tmp_path, monkeypatch, closed, chunk_bytes):
    monkeypatch.setattr(index_module, "CHUNK_BYTES", chunk_bytes)
    documents = [[1], [2, 3], [], [4, 5, 6], [], [7, 8]]
    write_tokens(tmp_path, documents, closed=closed)
    for _ in range(2):  # the first use makes the index, the second reads it
        train = open_corpus(tmp_path, eot_token=9, vocab_size=10).train
        assert [train.document(i).tolist() for i in range(len(train))] == [d for d in documents if d]
        make_old(tmp_path)


def test_index_follows_the_file(tmp_path):
    def documents():
        train = open_corpus(tmp_path, eot_token=9, vocab_size=10).train
        return [train.document(i).tolist() for i in range(len(train))]

    for case in ([[1, 2, 3]], [[1], [3]], [[4, 5, 6], [7]], [[5], [5, 6, 7]]):
        write_tokens(tmp_path, case)
        assert documents() == case
    # A second write within one tick of the file system's clock, with the same size, is seen as well.
    stat = (tmp_path / "train.bin").stat()
    write_tokens(tmp_path, [[5, 5, 7], [6]])
    os.utime(tmp_path / "train.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert documents() == [[5, 5, 7], [6]]
    write_tokens(tmp_path, case)
    make_old(tmp_path)
    assert documents() == case
    train = open_corpus(tmp_path, eot_token=7, vocab_size=10).train
    assert [train.document(i).tolist() for i in range(len(train))] == [[5, 9, 5, 6], [9]]


def test_index_is_cached(tmp_path, monkeypatch):
    write_tokens(tmp_path, [[1, 2], [3]])
    make_old(tmp_path)
    open_corpus(tmp_path, eot_token=9, vocab_size=10)

    def forbidden(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(index_module, "scan", forbidden)
    assert len(open_corpus(tmp_path, eot_token=9, vocab_size=10).train) == 2
    (tmp_path / "train.index.json").write_text("{")
    with pytest.raises(AssertionError, match="read again"):
        open_corpus(tmp_path, eot_token=9, vocab_size=10)


def test_read_only_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "write_bytes", refuse)
    write_tokens(tmp_path, [[1, 2], [3]])
    assert len(open_corpus(tmp_path, eot_token=9, vocab_size=10).train) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["train.bin"]


def test_a_forged_index_is_found(tmp_path):
    write_tokens(tmp_path, [[1, 2], [3], [4]])
    make_old(tmp_path)
    honest = open_corpus(tmp_path, eot_token=9, vocab_size=10).train
    assert honest.compute_sha256() == honest.sha256
    forged = np.load(tmp_path / "train.index.npy")
    forged[2] = forged[1]
    np.save(tmp_path / "train.index.npy", forged)
    with pytest.raises(CorpusError, match="disagree"):
        open_corpus(tmp_path, eot_token=9, vocab_size=10).train.compute_sha256()


def test_folder_or_its_parent(tmp_path):
    (tmp_path / "set").mkdir()
    write_tokens(tmp_path / "set", [[1, 2]], eot=50256)
    write_tokens(tmp_path / "set", [[3]], eot=50256, name="val")
    for arguments in ((tmp_path, "set"), (tmp_path / "set",), (str(tmp_path / "set"), "set")):
        corpus = open_corpus(*arguments)
        assert (corpus.path, corpus.eot_token, corpus.vocab_size, corpus.min_tokens) == (
            tmp_path / "set",
            50256,
            50257,
            1,
        )
        assert {"source", "tokenizer", "rule"} <= corpus.meta.keys()
        assert corpus.val.document(0).tolist() == [3]


def test_errors_of_opening(tmp_path):
    def fails(match, **settings):
        with pytest.raises(CorpusError, match=match) as caught:
            open_corpus(tmp_path, **settings)
        assert "\n" not in str(caught.value)

    fails("no train.bin in .*run: sublora prepare --source sotu --out DIR")
    with pytest.raises(CorpusError, match=r"no folder .*sublora prepare"):
        open_corpus(tmp_path / "missing", "set")
    (tmp_path / "train.bin").write_bytes(b"")
    fails("is empty.*sublora prepare")
    (tmp_path / "train.bin").write_bytes(b"abc")
    fails("no whole number of 16-bit tokens")
    write_tokens(tmp_path, [[1, 2], [300]])
    fails("token 300, outside the vocabulary of 300", eot_token=9, vocab_size=300)
    assert len(open_corpus(tmp_path, eot_token=9, vocab_size=301).train) == 2
    fails("token 300, outside", eot_token=9, vocab_size=300)
    fails("end-of-text token 50256 .* outside", vocab_size=300)
    write_tokens(tmp_path, [[], []])
    fails("holds no document", eot_token=9)
    (tmp_path / "train.bin").unlink()
    prepare("text", tmp_path, paths=[write_text(tmp_path / "in.txt", TEXTS)])
    fails("data.vocab_size=300 contradicts", vocab_size=300)
    fails("data.eot_token=0 contradicts", eot_token=0)
    open_corpus(tmp_path, eot_token=256, vocab_size=257)
    (tmp_path / "val.bin").unlink()
    fails("val.bin.*prepare the corpus again")
    (tmp_path / "meta.json").write_text("[]")
    fails("damaged")


def test_one_document_without_end_of_text_is_warned_of(tmp_path, caplog):
    write_tokens(tmp_path, [[1, 2, 3]], closed=False)
    assert len(open_corpus(tmp_path, eot_token=9).train) == 1
    assert "does not occur" in caplog.text


def test_uniform_draw():
    draw = uniform_draw(50, 50_000, b"digest")
    counts = np.bincount(draw, minlength=50)
    assert len(counts) == 50
    assert chisquare(counts).pvalue > 1e-3
    # Draws are independent: the pairs of successive ones are uniform as well.
    assert chisquare(np.bincount(draw[::2] * 50 + draw[1::2], minlength=2500)).pvalue > 1e-3
    assert (draw == uniform_draw(50, 50_000, b"digest")).all()
    assert (draw != uniform_draw(50, 50_000, b"digesu")).any()
    assert draw.dtype == np.int64
