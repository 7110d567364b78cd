"""What a claim is about and what was known beforehand: the first part of a message's header.

Everything that the bound on a known code depends on stands here, so that this part alone pays for the choice of it
(docs/message.md, "What an issuer could choose").
"""

from dataclasses import dataclass
from fractions import Fraction

from sublora.coding.architecture import TAG_BITS
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
from sublora.coding.choices import BOUND_TYPES, read_choice, write_choice
from sublora.config import BoundType
from sublora.corpus.token_type import MAX_VOCABULARY
from sublora.errors import MessageError

BYTES_VOCABULARY, BYTES_EOT = 257, 256
USUAL_DELTA = Fraction(1, 20)
MAX_DELTA_DIGITS = 18
MAX_SPLIT_SEED = 2**40 - 1
MAX_ORDER = 16


@dataclass(frozen=True)
class Setting:
    """The claim, the corpus as far as somebody could choose it, and the codes known beforehand.

    Raises:
        MessageError: a value outside its range.
    """

    bound_type: BoundType = "document_level"
    """what is drawn and measured: documents, blocks, or training contexts"""
    delta: Fraction = USUAL_DELTA
    """probability that the claim may fail: a decimal fraction of at most 18 digits in (0, 1)"""
    joint: bool = False
    """all claims hold at once: delta is divided between them"""
    split_seed: int | None = None
    """the population's documents were divided by this seed; None: documents are drawn from a source"""
    tokenizer_tag: int | None = None
    """of the hash of the tokenizer's description; None: bytes"""
    vocab_size: int = BYTES_VOCABULARY
    """tokens that can occur, end-of-text included"""
    eot_token: int = BYTES_EOT
    """end-of-text"""
    min_tokens: int = 1
    """no document has fewer tokens"""
    min_characters: int = 1
    """no document has fewer characters, by the rule that prepared the corpus; 0 where no rule is known"""
    prior_tag: int | None = None
    """of the hash of the documents known beforehand; None: there are none, or they are not used"""
    ngram_order: int = 0
    """order of the n-gram code that is fitted to them and that the model falls back on; 0: a code fitted to nothing"""

    def __post_init__(self) -> None:
        bytes_ = self.tokenizer_tag is None
        known = (
            self.bound_type in BOUND_TYPES
            and 0 < self.delta < 1
            and (self.split_seed is None or 0 <= self.split_seed <= MAX_SPLIT_SEED)
            and 0 <= self.eot_token < self.vocab_size <= MAX_VOCABULARY
            and min(self.min_tokens, self.min_characters + 1) >= 1
            and 0 <= self.ngram_order <= MAX_ORDER
            and (self.prior_tag is not None or not self.ngram_order)
        )
        if not known or 10**MAX_DELTA_DIGITS % self.delta.denominator:
            raise MessageError(f"no claim is like this: {self}")
        if bytes_ and (self.vocab_size, self.eot_token) != (BYTES_VOCABULARY, BYTES_EOT):
            raise MessageError(f"bytes have {BYTES_VOCABULARY} tokens, end-of-text is {BYTES_EOT}")
        for value in (self.tokenizer_tag, self.prior_tag):
            if value is not None and not 0 <= value < 1 << TAG_BITS:
                raise MessageError(f"a tag of {TAG_BITS} bits is not {value}")


def _delta_digits(delta: Fraction) -> tuple[int, int]:
    """M and t with delta = m / 10^t and t as small as possible."""
    t = next(t for t in range(1, MAX_DELTA_DIGITS + 1) if 10**t % delta.denominator == 0)
    return int(delta * 10**t), t


def write_setting(writer: BitWriter, setting: Setting) -> None:
    """Write every field, all under the name `setting` in the ledger."""
    writer.field("setting")
    write_choice(writer, setting.bound_type, BOUND_TYPES)
    writer.write(int(setting.delta == USUAL_DELTA), 1)
    if setting.delta != USUAL_DELTA:
        m, t = _delta_digits(setting.delta)
        write_gamma(writer, t)
        write_delta(writer, m)
    writer.write(int(setting.joint), 1)
    _write_optional(writer, setting.split_seed)
    writer.write(int(setting.tokenizer_tag is not None), 1)
    if setting.tokenizer_tag is not None:
        writer.write(setting.tokenizer_tag, TAG_BITS)
        write_decimal(writer, setting.vocab_size)
        write_delta(writer, setting.eot_token + 1)
    write_decimal(writer, setting.min_tokens)
    write_decimal(writer, setting.min_characters)
    writer.write(int(setting.prior_tag is not None), 1)
    if setting.prior_tag is not None:
        writer.write(setting.prior_tag, TAG_BITS)
        write_gamma(writer, setting.ngram_order + 1)


def read_setting(reader: BitReader) -> Setting:
    """Read what `write_setting` wrote; raises MessageError for values outside their range or not canonical."""
    bound_type = read_choice(reader, BOUND_TYPES)
    delta = USUAL_DELTA
    if not reader.read(1):
        t, m = read_gamma(reader), 0
        if t <= MAX_DELTA_DIGITS:
            m = read_delta(reader)
            delta = Fraction(m, 10**t)
        if t > MAX_DELTA_DIGITS or not 0 < delta < 1 or delta == USUAL_DELTA or _delta_digits(delta) != (m, t):
            raise MessageError("delta is not in its canonical form")
    joint = bool(reader.read(1))
    split_seed = _read_optional(reader)
    tokenizer_tag, vocab_size, eot_token = None, BYTES_VOCABULARY, BYTES_EOT
    if reader.read(1):
        tokenizer_tag = reader.read(TAG_BITS)
        vocab_size, eot_token = read_decimal(reader), read_delta(reader) - 1
    min_tokens, min_characters = read_decimal(reader), read_decimal(reader)
    prior_tag, order = None, 0
    if reader.read(1):
        prior_tag, order = reader.read(TAG_BITS), read_gamma(reader) - 1
    return Setting(
        bound_type,
        delta,
        joint,
        split_seed,
        tokenizer_tag,
        vocab_size,
        eot_token,
        min_tokens,
        min_characters,
        prior_tag,
        order,
    )


def setting_bits(setting: Setting) -> int:
    """Return the length of the setting's code: what the choice of a known code costs."""
    writer = BitWriter()
    write_setting(writer, setting)
    return writer.length


def _write_optional(writer: BitWriter, value: int | None) -> None:
    writer.write(int(value is not None), 1)
    if value is not None:
        write_delta(writer, value + 1)


def _read_optional(reader: BitReader) -> int | None:
    return read_delta(reader) - 1 if reader.read(1) else None
