"""From texts to distinct documents in one token file, in the order of the source; a killed process goes on."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sublora.corpus.digest import DIGEST_BYTES
from sublora.corpus.sources import Source
from sublora.corpus.token_type import token_type
from sublora.corpus.tokenizers import Tokenizer
from sublora.corpus.writer import SplitWriter
from sublora.errors import CorpusError
from sublora.progress import progress

log = logging.getLogger(__name__)

DOCUMENTS_AT_ONCE = 1000
# So much work at most is done again after a process was killed.
DOCUMENTS_BETWEEN_SAVES = 50_000


@dataclass
class Rule:
    """Which texts are documents: stripped, long enough, not seen before, and not in an older copy.

    Attributes:
        source: its name, for errors.
        min_characters: shorter texts are left out.
        older: digests of the documents of an older copy.
        boundary: how many texts of the source come before a date.
        seen: digests of the documents so far.
        too_short, repeated, in_older: texts left out so far, and why.
        before: documents among the first `boundary` texts.
    """

    source: str
    min_characters: int
    older: AbstractSet[bytes] = frozenset()
    boundary: int = 0
    seen: set[bytes] = field(default_factory=set)
    too_short: int = 0
    repeated: int = 0
    in_older: int = 0
    before: int = 0

    def documents(self, texts: Iterable[str]) -> Iterator[tuple[int, str]]:
        """Yield the documents, each with the number (from 1) of its text in the source.

        Raises:
            CorpusError: a text that UTF-8 cannot hold.
        """
        for number, text in enumerate(texts, 1):
            text = text.strip()
            if len(text) < self.min_characters:
                self.too_short += 1
                continue
            try:
                digest = hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]
            except UnicodeEncodeError as error:
                raise CorpusError(f"text {number} of {self.source} is not valid Unicode: {error.reason}") from error
            if digest in self.older:
                self.in_older += 1
            elif digest in self.seen:
                self.repeated += 1
            else:
                self.seen.add(digest)
                self.before += number <= self.boundary
                yield number, text

    @property
    def dropped(self) -> dict[str, int]:
        """How many texts were left out, by reason, for meta.json."""
        return {"too_short": self.too_short, "repeated": self.repeated, "in_older_copy": self.in_older}


def tokenize(
    source: Source,
    rule: Rule,
    tokenizer: Tokenizer,
    path: Path,
    *,
    limit: int | None,
    state: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> np.ndarray:
    """Write the documents of a source into the token file `path`, and return their rows (start, length, bytes).

    The source is read again from its beginning after a kill, since digests of what was read are not stored; but what
    was written is not tokenized again.

    Args:
        source: what is read.
        rule: what of it is kept.
        tokenizer: encodes many texts at a time.
        path: the token file.
        limit: stop after this many documents.
        state: what `save` was last called with in an earlier process, else empty.
        save: stores a state.

    Raises:
        CorpusError: the source cannot be read or holds no document, or the tokenizer fails at one.
    """
    read, kept = state.get("read", 0), state.get("documents", 0)
    if kept:
        log.info("going on after %d documents of %s", kept, source.name)
    token = token_type(tokenizer.vocab_size)
    totals = [n for n in (source.total, limit) if n is not None]
    with (
        SplitWriter(path, tokenizer.eot_token, token, tokens=state.get("tokens", 0), documents=kept) as writer,
        progress("preparing", min(totals, default=None), done=kept) as advance,
    ):
        saved = read
        for batch in _batches(islice(rule.documents(source.texts), limit), DOCUMENTS_AT_ONCE):
            texts = [text for number, text in batch if number > read]
            for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
                _check_tokens(tokens, tokenizer, text)
                writer.add(tokens, len(text.encode()))
            read = max(read, batch[-1][0])
            advance(len(texts))
            if read - saved >= DOCUMENTS_BETWEEN_SAVES:
                save({"read": read, **writer.save()})
                saved = read
        if not writer.rows:
            none = f"{source.name} holds no document of at least {rule.min_characters} characters"
            raise CorpusError(f"{none} that the older copy does not hold" if rule.in_older else none)
        if len(writer.rows) // 3 >= DOCUMENTS_BETWEEN_SAVES:
            save({"read": read, **writer.save()})
        return np.array(writer.rows, np.int64).reshape(-1, 3)


def _check_tokens(tokens: np.ndarray, tokenizer: Tokenizer, text: str) -> None:
    if not len(tokens) or (tokens == tokenizer.eot_token).any():
        what = "makes end-of-text out of" if len(tokens) else "makes no token out of"
        raise CorpusError(f"the tokenizer {what} the text {text[:40]!r}: choose one that can encode all text")


def _batches(documents: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    while batch := list(islice(documents, size)):
        yield batch
