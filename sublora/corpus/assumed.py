"""What is taken for true of a folder of tokens without meta.json, as nanoGPT's scripts write it. Torch-free."""

import logging
from pathlib import Path
from typing import Any

from sublora.corpus.index import scan
from sublora.corpus.token_type import NARROW, token_type
from sublora.errors import CorpusError

log = logging.getLogger(__name__)

GPT2_EOT, GPT2_VOCAB = 50256, 50257
"""of nanoGPT's data/openwebtext/prepare.py"""
CHARACTERS = "meta.pkl"
"""what nanoGPT writes beside tokens that are characters; a pickle can run any code, so it is never opened"""


def assumed_meta(folder: Path, eot_token: int | None, vocab_size: int | None) -> dict[str, Any]:
    """Return what meta.json would say, as far as it is known.

    Tokens are GPT-2's. Beside a meta.pkl they are characters: then the vocabulary is what occurs in the files, and
    end-of-text a token behind it, which does not occur.

    Args:
        folder: that holds train.bin.
        eot_token: id of end-of-text, where somebody gave it.
        vocab_size: number of tokens, where somebody gave it.

    Raises:
        CorpusError: tokens are characters, and the files are damaged or leave no token for end-of-text.
    """
    if vocab_size is None and (folder / CHARACTERS).exists():
        eot_token, vocab_size = _characters(folder, eot_token)
    gpt2 = eot_token in (None, GPT2_EOT) and vocab_size in (None, GPT2_VOCAB)
    return {
        "source": "a token file without meta.json",
        "tokenizer": "GPT-2 byte-pair encoding (assumed: no meta.json)" if gpt2 else "unknown (no meta.json)",
        "rule": "what stands between two end-of-text tokens is a document",
        "eot_token": GPT2_EOT if eot_token is None else eot_token,
        "vocab_size": GPT2_VOCAB if vocab_size is None else vocab_size,
        "min_tokens": 1,
    }


def _characters(folder: Path, eot_token: int | None) -> tuple[int, int]:
    """The end-of-text token and the vocabulary of characters."""
    files = [path for path in (folder / "train.bin", folder / "val.bin") if path.exists()]
    largest = max(scan(path, eot_token or 0, 1).max_token for path in files)
    found = largest + 1 if eot_token is None else eot_token
    size = max(largest, found) + 1
    how = "set data.vocab_size and data.eot_token (the token of a line feed, usually 0, where a line is a document)"
    if token_type(size) != NARROW:
        raise CorpusError(f"the tokens of {folder} leave none for end-of-text: {how}")
    log.warning(
        "%s is not opened, since a pickle can run any code: assumed are the %d tokens of the files, 0 to %d, and "
        "end-of-text %d, so vocab_size=%d; %s otherwise",
        folder / CHARACTERS, largest + 1, largest, found, size, how,
    )  # fmt: skip
    return found, size
