"""The message of a classifier: which tokens stand for the classes, and then the message of a language model.

No message of a classifier is a prefix of another, nor of a language model's, because those begin with another bit.
"""

from dataclasses import dataclass

from sublora.coding.bits import (
    BitReader,
    BitWriter,
    read_decimal,
    read_delta,
    read_gamma,
    write_decimal,
    write_delta,
    write_gamma,
)
from sublora.coding.message import Message, decode_message
from sublora.corpus.labelled import MOST_LABELS, Labels
from sublora.corpus.token_type import MAX_VOCABULARY
from sublora.errors import MessageError

VERSION = 1
"""of the first part; a language model's message begins with 3"""
MOST_CUE = 64


@dataclass(frozen=True)
class Verbalizer:
    """How a language model classifies: it reads the first characters of a text and the cue, and of the classes' tokens
    predicts the likeliest next.

    Raises:
        MessageError: fewer than two classes, two of one token, no cue, a token outside every vocabulary.
    """

    labels: tuple[int, ...]
    """the token of each class"""
    cue: tuple[int, ...]
    """tokens between text and label"""
    most_characters: int
    """of a text that are read"""

    def __post_init__(self) -> None:
        tokens = (*self.labels, *self.cue)
        known = (
            2 <= len(self.labels) <= MOST_LABELS
            and 1 <= len(self.cue) <= MOST_CUE
            and len(set(self.labels)) == len(self.labels)
            and all(0 <= token < MAX_VOCABULARY for token in tokens)
            and self.most_characters >= 1
        )
        if not known:
            raise MessageError(f"no classifier reads labels like this: {self}")


def verbalizer_of(labels: Labels) -> Verbalizer:
    """Return how a model is asked for the labels of a corpus."""
    return Verbalizer(labels.tokens, labels.cue, labels.most_characters)


def encode_classifier(verbalizer: Verbalizer, model: bytes) -> bytes:
    """Return the message of a classifier.

    Args:
        verbalizer: how the model is asked.
        model: the message of the language model.
    """
    writer = BitWriter()
    write_gamma(writer, VERSION)
    write_decimal(writer, verbalizer.most_characters)
    write_gamma(writer, len(verbalizer.cue))
    write_gamma(writer, len(verbalizer.labels) - 1)
    for token in (*verbalizer.cue, *verbalizer.labels):
        write_delta(writer, token + 1)
    return writer.to_bytes() + model


@dataclass(frozen=True)
class Classifier:
    """A decoded message of a classifier.

    ledger: bits of every field, adding up to those of the message.
    """

    verbalizer: Verbalizer
    model: Message
    ledger: dict[str, float]


def is_classifier_message(data: bytes) -> bool:
    """Whether bytes begin as the message of a classifier does, and no language model's."""
    return bool(data) and read_gamma(BitReader(data)) == VERSION


def decode_classifier(data: bytes, *, max_symbols: int) -> Classifier:
    """Read what `encode_classifier` wrote.

    Args:
        data: of the file.
        max_symbols: see `sublora.coding.message.decode_message`.

    Raises:
        MessageError: bytes that are not exactly one message of a classifier.
    """
    reader = BitReader(data)
    if (version := read_gamma(reader)) != VERSION:
        raise MessageError(f"version {version} is no classifier's: is it the message of a language model?")
    most_characters, cue, labels = read_decimal(reader), read_gamma(reader), read_gamma(reader) + 1
    if cue > MOST_CUE or labels > MOST_LABELS:
        raise MessageError(f"a classifier has at most {MOST_LABELS} classes and a cue of {MOST_CUE} tokens")
    tokens = tuple(read_delta(reader) - 1 for _ in range(cue + labels))
    if reader.read(-reader.position % 8):
        raise MessageError("the classes of the message are not in their canonical form")
    own, verbalizer = reader.position, Verbalizer(tokens[cue:], tokens[:cue], most_characters)
    model = decode_message(data[own // 8 :], max_symbols=max_symbols)
    setting = model.header.setting
    if setting.bound_type != "document_level" or setting.split_seed is None:
        raise MessageError("a classifier is certified for the documents of a population, and this message for others")
    if max(tokens) >= setting.vocab_size or setting.eot_token in tokens:
        raise MessageError("the classes have tokens that no document holds")
    return Classifier(verbalizer, model, {"classes": float(own)} | model.ledger)
