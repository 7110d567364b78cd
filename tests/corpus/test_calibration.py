"""The texts of a training loop's batches: whatever their form, what a text's own tokens give back."""

import itertools

import numpy as np
import pytest
import torch
from families import write_tokenizer
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from sublora.corpus.calibration import MOST_ROWS, texts_of
from sublora.corpus.tokenizers import ByteTokenizer, make_tokenizer
from sublora.errors import CorpusError

TEXTS = [f"Line {i}, é: {'x' * i}" for i in range(7)]
BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


def test_every_form_of_a_batch_gives_the_texts_back(folder):
    tokenizer, own = AutoTokenizer.from_pretrained(folder), make_tokenizer(str(folder))
    tokenizer.pad_token = "<|endoftext|>"
    rows = [tokenizer(text, add_special_tokens=False) for text in TEXTS]
    collated = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)
    assert collated["attention_mask"].min() == 0 and {"input_ids", "labels"} < set(collated)
    forms = {
        "a collator's": [collated],
        "two of a collator's": [{name: value[:3] for name, value in collated.items()},
                                {name: value[3:] for name, value in collated.items()}],
        "padded with end-of-text, without a mask": [collated["input_ids"]],
        "a tensor for each": [torch.tensor(row["input_ids"]) for row in rows],
        "of numpy": [np.array(row["input_ids"])[None] for row in rows],
        "a dictionary for each": rows,
        "one stream": [torch.tensor([t for row in rows for t in [*row["input_ids"], own.eot_token]])],
        "a generator": (batch for batch in [collated]),
    }  # fmt: skip
    for name, batches in forms.items():
        assert texts_of(batches, own) == TEXTS, name
    masked = collated["attention_mask"].clone()
    masked[2] = 0
    assert texts_of([{**collated, "attention_mask": masked}], own) == TEXTS[:2] + TEXTS[3:]


def test_special_tokens_are_no_text(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "<s>", "pad_token": "<pad>"})
    tokenizer.add_tokens(["plain"])
    tokenizer.save_pretrained(tmp_path)
    own = make_tokenizer(str(tmp_path))
    row = [tokenizer.bos_token_id, *tokenizer("a plain text", add_special_tokens=False).input_ids]
    assert texts_of([[*row, own.eot_token, *[tokenizer.pad_token_id] * 3]], own) == ["a plain text"]


def test_a_loop_without_end_is_read_in_part():
    endless = ([[65, 66, number % 256]] for number in itertools.count())
    assert len(texts_of(endless, BYTES)) == MOST_ROWS
    assert int(next(endless)[0][2]) == MOST_ROWS % 256


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "are empty: an iterator is used up"),
        (iter(()), "are empty"),
        ([[[256, 256]]], "special tokens alone"),
        ([torch.zeros(2, 3, dtype=torch.long)[:, :0]], "special tokens alone"),
        ([{"input_ids": [[65]], "attention_mask": [[0]]}], "special tokens alone"),
        ([[[65]], {"labels": [[65]]}], "batch 1 has no input_ids, but labels"),
        ([{"input_ids": [[65, 66]], "attention_mask": [[1]]}], "batch 0 has another shape"),
        ([torch.rand(2, 3)], "batch 0 is of type Tensor and holds no rows"),
        (["a text"], "batch 0 is of type str and holds no rows"),
        ([torch.zeros(2, 3, 4, dtype=torch.long)], "holds no rows"),
        ([[[65, 257]]], "has the token 257, and the base's tokenizer has 257"),
        ([[[-100, 65]]], "has the token -100"),
    ],
)
def test_other_batches_are_one_line(batches, words):
    with pytest.raises(CorpusError, match=words) as error:
        texts_of(batches, BYTES)
    assert "\n" not in str(error.value)
