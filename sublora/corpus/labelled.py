"""Labelled text: a document is a text, a cue and a label, and the label is one token that a model has to predict.

A label is read as the first token in which the labels differ behind the cue; so there is nothing to choose but the
names of the labels, and how much of a text is read. Torch-free.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.tokenizers import Tokenizer
from sublora.errors import CorpusError

CUE = "\nLabel:"
"""Stands between text and label; a label is one line, so the last cue of a document is the one."""
LABEL = "label"
"""The field of a line of JSON that holds the label."""
MOST_LABELS = 256
MOST_CHARACTERS = 1000
"""of a text, unless given"""


def render(text: str, label: str, most_characters: int) -> str:
    """Return the document of a text and its label: what is behind so many characters of the text is left out."""
    return f"{text.strip()[:most_characters].strip()}{CUE} {label}"


def read_labelled(path: Path, lines: Iterable[str], column: str) -> Iterator[tuple[str, str]]:
    """Yield text and label of every line of JSON.

    Args:
        path: of the file, for errors.
        lines: of it.
        column: field that holds the text.

    Raises:
        CorpusError: a line without text or label, an empty text, a label of several lines.
    """
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            text, label = row[column], row[LABEL]
            text.encode()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f'{path}, line {number}: not a JSON object with a text in its field "{column}" and a label in its '
                f'field "{LABEL}"'
            ) from error
        # Data sets number their labels as often as they name them.
        label = str(label) if type(label) in (str, int) else ""
        if not text.strip():
            raise CorpusError(f"{path}, line {number}: the text is empty: leave the line out")
        if not label or label != label.strip() or not label.isprintable():
            raise CorpusError(
                f"{path}, line {number}: a label is a word or a number in one line, without space around it"
            )
        yield text, label


def label_names(labels: Iterable[str], where: str) -> tuple[str, ...]:
    """Return the different labels in the order of their names.

    Args:
        labels: of all documents.
        where: they are from, for errors.

    Raises:
        CorpusError: fewer than two, or too many to be classes.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        only = f"all documents are labelled {names[0]!r}" if names else "there are no documents"
        raise CorpusError(f"{where}: {only}, and there is nothing to tell apart: give documents of two labels or more")
    if len(names) > MOST_LABELS:
        raise CorpusError(f"{where} has {len(names)} different labels: {MOST_LABELS} are the most")
    return names


@dataclass(frozen=True)
class Labels:
    """The classes of a corpus, and the tokens that stand for them.

    Attributes:
        names: of the classes, in order.
        tokens: the token of each class.
        cue: tokens between text and label.
        most_characters: of a text that are read.
    """

    names: tuple[str, ...]
    tokens: tuple[int, ...]
    cue: tuple[int, ...]
    most_characters: int

    def to_meta(self) -> dict[str, Any]:
        """Return what the description of a corpus says of its labels."""
        return {
            "names": list(self.names),
            "tokens": list(self.tokens),
            "cue": list(self.cue),
            "most_characters": self.most_characters,
        }

    def classes(self, split: Split) -> Int64[np.ndarray, " n"]:
        """Return the class of every document: the number of its label.

        Raises:
            CorpusError: a document is not a text, the cue and a label.
        """
        ends = split.starts + split.lengths
        column = np.array(self.cue)
        # What is too short is refused below; until then it may be read at any place.
        before = np.maximum(ends - 1 - len(column), 0)[:, None] + np.arange(len(column))
        order = np.argsort(self.tokens)
        last = split.tokens[ends - 1].astype(np.int64)
        found = order[np.searchsorted(np.array(self.tokens)[order], last).clip(max=len(order) - 1)]
        right = (np.array(self.tokens)[found] == last) & (split.tokens[before] == column).all(axis=1)
        right &= split.lengths >= len(self.cue) + 2
        if not right.all():
            wrong = int(np.argmin(right))
            raise CorpusError(
                f"document {wrong} of {split.path} does not end with one of the labels "
                f"{', '.join(self.names)}: prepare the corpus with --source labelled"
            )
        return found.astype(np.int64)

    def text(self, split: Split, i: int) -> np.ndarray:
        """Return the tokens of document i without cue and label."""
        return split.document(i)[: -1 - len(self.cue)]


class LabelTokenizer:
    """A tokenizer of labelled documents: the tokens of the text, those of the cue, and one of the label.

    Args:
        inner: the tokenizer of text.
        names: the labels.
        most_characters: of a text that are read, for the description.

    Raises:
        CorpusError: two labels begin with the same token.
    """

    def __init__(self, inner: Tokenizer, names: Sequence[str], most_characters: int) -> None:
        self._inner = inner
        self.eot_token, self.vocab_size, self.special_tokens = inner.eot_token, inner.vocab_size, inner.special_tokens
        rows = [row.tolist() for row in inner.encode([f"{CUE} {name}" for name in names])]
        common = next(i for i in range(max(map(len, rows)) + 1) if len({tuple(row[: i + 1]) for row in rows}) > 1)
        tokens = [row[common] if len(row) > common else None for row in rows]
        for number, token in enumerate(tokens):
            if token is None or token in tokens[:number]:
                other = names[tokens.index(token)] if token is not None else names[(number + 1) % len(names)]
                raise CorpusError(
                    f"the labels {other!r} and {names[number]!r} begin with the same token: rename one of them"
                )
        known = tuple(token for token in tokens if token is not None)
        self.labels = Labels(tuple(names), known, tuple(rows[0][:common]), most_characters)
        pairs = ", ".join(f"{name} ({token})" for name, token in zip(names, known, strict=True))
        self.description = (
            f"{inner.description}; of a text the first {most_characters} characters, then {list(self.labels.cue)} and "
            f"the token of its label: {pairs}"
        )

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of documents that `render` made."""
        pairs = [text.rpartition(f"{CUE} ") for text in texts]
        token = dict(zip(self.labels.names, self.labels.tokens, strict=True))
        encoded = self._inner.encode([text for text, _, _ in pairs])
        return [
            np.concatenate([tokens, self.labels.cue, [token[label]]]).astype(np.int64)
            for tokens, (_, _, label) in zip(encoded, pairs, strict=True)
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return self._inner.decode(tokens)


def labels_of(corpus: Corpus) -> Labels:
    """Return the classes of a labelled corpus.

    Raises:
        CorpusError: it has none, or its description is damaged.
    """
    found = corpus.meta.get("labels")
    if found is None:
        raise CorpusError(f"the documents of {corpus.path} have no labels: prepare it with --source labelled")
    try:
        names, tokens, cue, most = (found[key] for key in ("names", "tokens", "cue", "most_characters"))
        known = (
            all(type(name) is str for name in names)
            and all(type(token) is int and 0 <= token < corpus.vocab_size for token in (*tokens, *cue))
            and (type(most) is int and most >= 1)
            and len(set(names)) == len(set(tokens)) == len(names) == len(tokens)
            and 2 <= len(names) <= MOST_LABELS
            and len(cue) >= 1
        )
    except (KeyError, TypeError) as error:
        raise CorpusError(f"the labels in the meta.json of {corpus.path} are damaged: prepare it again") from error
    if not known:
        raise CorpusError(f"the labels in the meta.json of {corpus.path} are damaged: prepare it again")
    return Labels(tuple(names), tuple(tokens), tuple(cue), most)
