"""A prompt: tokens that stand before every document, as a part of the message."""

from collections.abc import Sequence
from dataclasses import dataclass

from sublora.coding.bits import BitReader, BitWriter, read_gamma, read_uniform, write_gamma, write_uniform
from sublora.coding.setting import Setting
from sublora.coding.text import MAX_TOKENS, read_texts, write_texts
from sublora.errors import MessageError

MAX_DOCUMENTS = 1 << 10
_WIDTHS = 40


@dataclass(frozen=True)
class Prompt:
    """Documents that stand before every document: known beforehand and named, or written out.

    documents: positions of known documents, in the order in which they stand; none is no prompt.
    texts: tokens of documents instead, each of at least one.
    """

    documents: tuple[int, ...] = ()
    texts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        largest = max(self.documents, default=0)
        if len(self.documents) > MAX_DOCUMENTS or min(self.documents, default=0) < 0 or largest >= 1 << (_WIDTHS - 1):
            raise MessageError(f"a prompt holds at most {MAX_DOCUMENTS} known documents")
        if self.documents and self.texts:
            raise MessageError("a prompt names known documents or writes out others, not both")
        sizes = [len(text) for text in self.texts]
        if len(sizes) > MAX_DOCUMENTS or min(sizes, default=1) < 1 or sum(sizes) > MAX_TOKENS:
            raise MessageError(f"a prompt writes out at most {MAX_DOCUMENTS} documents and {MAX_TOKENS:,} tokens")


def write_prompt(writer: BitWriter, prompt: Prompt, setting: Setting) -> None:
    """Write how many documents there are, and whether they are named or written out.

    Names are positions of as many bits as the largest has; tokens have the code that is fitted to nothing.
    """
    writer.field("prompt")
    write_gamma(writer, len(prompt.documents) + len(prompt.texts) + 1)
    if prompt == Prompt():
        return
    writer.write(int(bool(prompt.texts)), 1)
    if prompt.texts:
        write_texts(writer, prompt.texts, setting)
        return
    width = _width(prompt.documents)
    write_uniform(writer, width, _WIDTHS)
    for document in prompt.documents:
        writer.write(document, width)


def prompt_bits(prompt: Prompt, setting: Setting) -> int:
    """Return the length of a prompt's code: what a base behind it costs."""
    writer = BitWriter()
    write_prompt(writer, prompt, setting)
    return writer.length


def read_prompt(reader: BitReader, setting: Setting) -> Prompt:
    """Read what `write_prompt` wrote; raises MessageError where it is not canonical."""
    count = read_gamma(reader) - 1
    if count > MAX_DOCUMENTS:
        raise MessageError(f"a prompt holds at most {MAX_DOCUMENTS} known documents")
    if not count:
        return Prompt()
    if reader.read(1):
        return Prompt(texts=read_texts(reader, count, setting))
    width = read_uniform(reader, _WIDTHS)
    documents = tuple(reader.read(width) for _ in range(count))
    if width != _width(documents):
        raise MessageError("the prompt is not in its canonical form")
    return Prompt(documents)


def _width(documents: Sequence[int]) -> int:
    return max(documents).bit_length()
