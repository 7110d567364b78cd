"""What a document is: columns, units, saved data sets, the shortest and the last document."""

import json
import shutil

import datasets
import pytest
from corpora import TEXTS, everything, write_text

from sublora.cli import main
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.sources import UNITS
from sublora.errors import CorpusError

STRIPPED = sorted(text.strip() for text in TEXTS)
POEM = "one\ntwo\n\nthree  \n   \nfour\nfive\n"


def run(*words):
    return main(["prepare", *map(str, words)])


@pytest.mark.parametrize(
    ("unit", "documents"),
    [
        (None, ["one\ntwo", "three", "four\nfive", "another"]),
        ("paragraph", ["one\ntwo", "three", "four\nfive", "another"]),
        ("line", ["one", "two", "three", "four", "five", "another"]),
        ("file", [POEM.strip(), "another"]),
    ],
)
def test_units_of_text(tmp_path, unit, documents):
    (tmp_path / "a.txt").write_text(POEM)
    (tmp_path / "b.txt").write_text("another\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    words = [] if unit is None else ["--unit", unit]
    assert run("--source", "text", "--input", *paths, "--out", tmp_path / "out", *words) == 0
    corpus = open_corpus(tmp_path / "out")
    assert sorted(everything(corpus)) == sorted(documents)
    words = UNITS[unit or "paragraph"]
    assert corpus.meta["unit"] == words and corpus.meta["rule"].startswith(f"{words}, stripped")
    # Another unit makes another corpus, which is not taken for this one.
    with pytest.raises(CorpusError, match="another corpus"):
        prepare("text", tmp_path / "out", paths=paths, unit="file" if unit == "line" else "line")


def test_a_column_of_jsonl(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": "no", "body": text}) + "\n" for text in TEXTS))
    assert run("--source", "jsonl", "--input", path, "--column", "body", "--out", tmp_path / "out") == 0
    corpus = open_corpus(tmp_path / "out")
    assert sorted(everything(corpus)) == STRIPPED
    assert 'the field "body" of a line' in corpus.meta["rule"]
    with pytest.raises(CorpusError, match="another corpus"):
        prepare("jsonl", tmp_path / "out", paths=[path])
    with pytest.raises(CorpusError, match=r'line 1: .* its field "title": name another with --column'):
        prepare("jsonl", tmp_path / "none", paths=[path], column="title")


def save(folder, column="text", rows=TEXTS, split=None):
    table = datasets.Dataset.from_dict({column: list(rows), "number": list(range(len(rows)))})
    (table if split is None else datasets.DatasetDict({split: table})).save_to_disk(str(folder))
    return f"hf:{folder}"


@pytest.mark.parametrize("split", [None, "train"])
def test_a_saved_data_set(tmp_path, split):
    source = save(tmp_path / "set", "body", split=split)
    words = ("--source", source, "--column", "body", "--tokenizer", "bytes", "--out", tmp_path / "out")
    assert run(*words) == 0
    corpus = open_corpus(tmp_path / "out")
    assert sorted(everything(corpus)) == STRIPPED
    # It is named by what it holds: not by where it lies.
    assert str(tmp_path) not in json.dumps(corpus.meta) and "SHA-256" in corpus.meta["source"]
    shutil.copytree(tmp_path / "set", tmp_path / "elsewhere" / "set")
    prepare(f"hf:{tmp_path / 'elsewhere' / 'set'}", tmp_path / "out", column="body", tokenizer="bytes")
    shutil.rmtree(tmp_path / "set")
    save(tmp_path / "set", "body", [*TEXTS[1:], "a new one"], split=split)
    with pytest.raises(CorpusError, match="another corpus"):
        prepare(source, tmp_path / "out", column="body", tokenizer="bytes")


def test_saved_data_sets_that_are_refused(tmp_path):
    def fails(source, match, **options):
        with pytest.raises(CorpusError, match=match) as caught:
            prepare(source, tmp_path / "out", tokenizer="bytes", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    good = save(tmp_path / "good")
    fails(good, 'has no column "body", but text, number: name one with --column', column="body")
    fails(good, 'row 1 .* has no text in its column "number", but int', column="number")
    fails(save(tmp_path / "test", split="test"), "has no split train: give the folder of one of its splits")
    state = tmp_path / "good" / "state.json"
    description = json.loads(state.read_text())
    for damaged in ("{", "[]", "{}", '{"_data_files": [{"filename": 3}]}'):
        state.write_text(damaged)
        fails(good, r"state\.json is damaged: save the data set again")
    # A file is looked for in the folder itself, whatever its name says.
    state.write_text(json.dumps(description | {"_data_files": [{"filename": "../../none.arrow"}]}))
    fails(good, r"cannot read .*good/none\.arrow")
    state.write_text(json.dumps(description))
    (arrow,) = (tmp_path / "good").glob("*.arrow")
    arrow.write_bytes(b"no rows")
    fails(good, "cannot read the data set")


def test_the_shortest_and_the_last_document(tmp_path):
    source = write_text(tmp_path / "in.txt", ["x", *TEXTS])
    words = ("--source", "text", "--input", source, "--min-characters", 14, "--max-documents", 20)
    assert run(*words, "--out", tmp_path / "out") == 0
    corpus = open_corpus(tmp_path / "out")
    long_enough = [text.strip() for text in TEXTS if len(text.strip()) >= 14]
    assert sorted(everything(corpus)) == sorted(long_enough[:20])
    assert (corpus.meta["min_characters"], corpus.min_tokens, corpus.meta["max_documents"]) == (14, 14, 20)
    assert "of at least 14 characters" in corpus.meta["rule"] and "the first 20 of them" in corpus.meta["rule"]


@pytest.mark.parametrize(("every", "parts"), [(4, [20, 10, 10]), (10, [32, 4, 4])])
def test_the_size_of_the_held_out_parts(tmp_path, every, parts):
    source = write_text(tmp_path / "in.txt", [f"document number {i}" for i in range(40)])
    assert run("--source", "text", "--input", source, "--val-every", every, "--out", tmp_path / "out") == 0
    corpus = open_corpus(tmp_path / "out")
    assert [corpus.meta["splits"][part]["documents"] for part in ("train", "val", "test")] == parts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "text", "--input", "one.txt", "--val-every", "2"], "must be at least 3"),
        (["--source", "text", "--input", "one.txt"], "--unit paragraph or line or file"),
        (["--source", "text", "--input", "one.txt", "--unit", "word"], "'word' is not known: paragraph, line, file"),
        (["--source", "text", "--input", "one.txt", "--column", "a"], "--column is for jsonl, labelled and hf:NAME"),
        (["--source", "sotu", "--unit", "line"], "--unit is for text"),
        (["--source", "text", "--input", "one.txt", "--max-documents", "1"], "must be at least 2"),
        (["--source", "text", "--input", "one.txt", "--min-characters", "0"], "must be at least 1"),
    ],
)
def test_bad_options_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("a single paragraph\nof two lines\n")
    assert run(*words, "--out", "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("sublora: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out" / "meta.json").exists()


def test_one_document_is_divided_as_the_error_says(tmp_path):
    (tmp_path / "one.txt").write_text("a single paragraph\nof two lines\n")
    with pytest.raises(CorpusError, match="is one document"):
        prepare("text", tmp_path / "out", paths=[tmp_path / "one.txt"])
    assert list((tmp_path / "out").iterdir()) == []
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[tmp_path / "one.txt"], unit="line"))
    assert everything(corpus) == ["a single paragraph", "of two lines"]
