"""A prompt: tokens that stand before every document, as a part of the message."""

from collections.abc import Sequence
from dataclasses import dataclass

from sublora.coding.bits import BitReader, BitWriter, read_gamma, read_uniform, write_gamma, write_uniform
from sublora.errors import MessageError

MAX_DOCUMENTS = 1 << 10
_WIDTHS = 40


@dataclass(frozen=True)
class Prompt:
    """Which documents known beforehand stand before every document, each closed by the end-of-text token.

    documents: their positions among the known documents, in the order in which they stand; none is no prompt.
    """

    documents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        largest = max(self.documents, default=0)
        if len(self.documents) > MAX_DOCUMENTS or min(self.documents, default=0) < 0 or largest >= 1 << (_WIDTHS - 1):
            raise MessageError(f"a prompt holds at most {MAX_DOCUMENTS} known documents")


def write_prompt(writer: BitWriter, prompt: Prompt) -> None:
    """Write how many documents there are, the bits of the largest position, and every position in so many bits."""
    writer.field("prompt")
    write_gamma(writer, len(prompt.documents) + 1)
    if prompt.documents:
        width = _width(prompt.documents)
        write_uniform(writer, width, _WIDTHS)
        for document in prompt.documents:
            writer.write(document, width)


def read_prompt(reader: BitReader) -> Prompt:
    """Read what `write_prompt` wrote; raises MessageError where it is not canonical."""
    count = read_gamma(reader) - 1
    if count > MAX_DOCUMENTS:
        raise MessageError(f"a prompt holds at most {MAX_DOCUMENTS} known documents")
    if not count:
        return Prompt()
    width = read_uniform(reader, _WIDTHS)
    documents = tuple(reader.read(width) for _ in range(count))
    if width != _width(documents):
        raise MessageError("the prompt is not in its canonical form")
    return Prompt(documents)


def _width(documents: Sequence[int]) -> int:
    return max(documents).bit_length()
