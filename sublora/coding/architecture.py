"""Which base model is adapted: the second part of a message's header."""

from dataclasses import dataclass

from sublora.coding.bits import (
    BitReader,
    BitWriter,
    read_decimal,
    read_gamma,
    write_decimal,
    write_gamma,
)
from sublora.coding.choices import read_choice, write_choice
from sublora.errors import ConfigError, MessageError

FAMILIES = ("gpt2", "llama", "mistral")
BASE_KINDS = ("random", "pretrained")
MAX_SIZE, MAX_LAYERS = 1 << 16, 1 << 12
TAG_BITS = 24
"""What is named by a hash is named by so many bits of it: any of 16.8 million candidates is paid for."""


def tag(sha256: str) -> int:
    """Return the first `TAG_BITS` bits of a hash in hexadecimal."""
    return int(sha256, 16) >> (4 * len(sha256) - TAG_BITS)


@dataclass(frozen=True)
class Architecture:
    """The base model, and the context that it reads.

    Raises:
        ConfigError: a size below 1, a width that is not a multiple of the number of heads, heads of odd width where
            positions are rotations, an unknown family, or a window where there is none.
    """

    kind: str
    """"random": weights from the message's seed; "pretrained": weights that were known beforehand, named by a tag"""
    n_layer: int
    """transformer layers; 0 for pretrained weights, whose sizes are their own"""
    n_head: int
    """attention heads; 0 for pretrained weights"""
    n_embd: int
    """width; 0 for pretrained weights"""
    block_size: int
    """context length in tokens"""
    vocab_size: int
    """number of tokens that can occur, end-of-text included: the corpus's; not coded again"""
    bias: bool = False
    """whether biases move where all weights are trained"""
    family: str = "gpt2"
    """of a random base; "gpt2" for pretrained weights, whatever they are"""
    attention_window: int = 0
    """Mistral's, in tokens; 0 for the others"""
    base_tag: int = 0
    """of the hash of pretrained weights: its first 24 bits"""

    def __post_init__(self) -> None:
        if self.kind not in BASE_KINDS or self.block_size < 1 or self.vocab_size < 1:
            raise ConfigError(f"no base model is like this: {self}")
        if self.kind == "pretrained":
            # What the weights say themselves is not a choice of its own.
            for name, value in (("n_layer", 0), ("n_head", 0), ("n_embd", 0), ("bias", False), ("attention_window", 0)):
                object.__setattr__(self, name, value)
            object.__setattr__(self, "family", "gpt2")
            if not 0 <= self.base_tag < 1 << TAG_BITS:
                raise ConfigError(f"a tag of {TAG_BITS} bits is not {self.base_tag}")
            return
        sizes = (self.n_layer, self.n_head, self.n_embd)
        possible = (
            min(sizes) >= 1
            and max(sizes) <= MAX_SIZE
            and self.n_layer <= MAX_LAYERS
            and self.n_embd % self.n_head == 0
            and self.family in FAMILIES
            and not self.base_tag
        )
        if possible and self.family != "gpt2":
            possible = self.n_embd // self.n_head % 2 == 0
        if not possible or (self.family == "mistral") != (self.attention_window >= 1) or self.attention_window < 0:
            raise ConfigError(f"no model has these sizes: {self}")


def write_architecture(writer: BitWriter, architecture: Architecture) -> None:
    """Write the base model and the context length; the vocabulary stands in the setting."""
    writer.field("base")
    write_choice(writer, architecture.kind, BASE_KINDS)
    write_decimal(writer, architecture.block_size)
    if architecture.kind == "pretrained":
        writer.write(architecture.base_tag, TAG_BITS)
        return
    write_choice(writer, architecture.family, FAMILIES)
    write_gamma(writer, architecture.n_layer)
    write_gamma(writer, architecture.n_head)
    write_decimal(writer, architecture.n_embd)
    writer.write(int(architecture.bias), 1)
    if architecture.family == "mistral":
        write_decimal(writer, architecture.attention_window)


def read_architecture(reader: BitReader, vocab_size: int) -> Architecture:
    """Read what `write_architecture` wrote.

    Raises:
        MessageError: no model has these sizes.
    """
    kind = read_choice(reader, BASE_KINDS)
    block_size = read_decimal(reader)
    try:
        if kind == "pretrained":
            return Architecture(kind, 0, 0, 0, block_size, vocab_size, base_tag=reader.read(TAG_BITS))
        family = read_choice(reader, FAMILIES)
        n_layer, n_head, n_embd = read_gamma(reader), read_gamma(reader), read_decimal(reader)
        bias = bool(reader.read(1))
        window = read_decimal(reader) if family == "mistral" else 0
        return Architecture(kind, n_layer, n_head, n_embd, block_size, vocab_size, bias, family, window)
    except ConfigError as error:
        raise MessageError(str(error)) from error
