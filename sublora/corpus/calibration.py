"""The texts of the batches that a training loop has, so that what is asked of documents can be asked of them."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sublora.corpus.tokenizers import Tokenizer
from sublora.errors import CorpusError

MOST_ROWS = 2_000
"""rows that are read: a loop may go on for ever, and choosing a quantization takes some hundreds"""


def texts_of(batches: Iterable[Any], tokenizer: Tokenizer) -> list[str]:
    """Return the texts of the first rows, in their order; a row is divided where a text in it ends.

    Labels are not looked at: what is certified is the loss of whole documents.

    Args:
        batches: dictionaries with `input_ids` and perhaps `attention_mask`, as collators make them, or the token ids
            alone; of shape (rows, length) or (length,).
        tokenizer: of the base. Its special tokens, and what is masked, are no text.

    Raises:
        CorpusError: no batch, one of another kind, a token that is not the tokenizer's, or nothing but special tokens.
    """
    texts: list[str] = []
    some = False
    for row in islice(_rows(batches), MOST_ROWS):
        some = True
        texts += _texts(row, tokenizer)
    if not texts:
        what = "hold special tokens alone" if some else "are empty: an iterator is used up after one pass"
        raise CorpusError(f"the calibration batches {what}")
    return texts


def _rows(batches: Iterable[Any]) -> Iterator[list[int]]:
    """The tokens of each row that are not masked."""
    for number, batch in enumerate(batches):
        named = isinstance(batch, Mapping)
        if named and "input_ids" not in batch:
            raise CorpusError(f"calibration batch {number} has no input_ids, but {', '.join(map(str, batch))}")
        rows = _lists(batch["input_ids"] if named else batch, number)
        mask = batch.get("attention_mask") if named else None
        masks = [[1] * len(row) for row in rows] if mask is None else _lists(mask, number)
        if list(map(len, rows)) != list(map(len, masks)):
            raise CorpusError(f"the attention_mask of calibration batch {number} has another shape than its input_ids")
        for row, kept in zip(rows, masks, strict=True):
            yield [token for token, keep in zip(row, kept, strict=True) if keep]


def _lists(values: Any, number: int) -> list[list[int]]:
    """Rows of whole numbers; of tensors on any device, without torch."""
    found = values.tolist() if hasattr(values, "tolist") else values
    rows = found if isinstance(found, list) and found and isinstance(found[0], list) else [found]
    if not all(isinstance(row, list) and all(isinstance(token, int) for token in row) for row in rows):
        raise CorpusError(
            f"calibration batch {number} is of type {type(values).__name__} and holds no rows of token ids: give what "
            "a collator makes, dictionaries with input_ids, or tensors of whole numbers"
        )
    return rows


def _texts(row: list[int], tokenizer: Tokenizer) -> Iterator[str]:
    text: list[int] = []
    for token in [*row, tokenizer.eot_token]:
        if not 0 <= token < tokenizer.vocab_size:
            raise CorpusError(
                f"a calibration batch has the token {token}, and the base's tokenizer has {tokenizer.vocab_size}: give "
                "batches of the base's own tokens"
            )
        if token == tokenizer.eot_token:
            if text:
                yield tokenizer.decode(text)
            text = []
        elif token not in tokenizer.special_tokens:
            text.append(token)
