"""What a bound depends on besides the losses. Torch-free."""

from dataclasses import dataclass

from sublora.certificate.known import KNOWN_SHARE
from sublora.certificate.model import Known
from sublora.coding.message import Header
from sublora.coding.prediction import BYTES_OF_A_TOKEN, NEUTRAL, Prediction
from sublora.coding.prompt import prompt_bits
from sublora.coding.setting import Setting

# Weight of the known code in the base's mixture with it: fixed by the format.
BASE_MIXTURE = 2.0**-4
# Weight of that in the mixture of the base behind the message's prompt with it: the two are about equally good.
PROMPT_MIXTURE = 2.0**-1


@dataclass(frozen=True)
class Terms:
    """What a bound depends on besides the losses.

    bound_type: document_level and sequence_level claims are about units (documents, blocks) that are drawn
        independently or without replacement from a population, token_level claims about the next token after each
        context of the training text.
    bits: K, length of the message in bits.
    division_bits: paid beside it for the choice of how a population was divided.
    n: units in the sample; tokens, for token_level.
    delta: probability that the claim may fail.
    joint: split delta over all claims, so that all hold at once.
    mixture_weight: e, of what the model falls back on in the document mixture; for token_level a, of the uniform
        distribution in token smoothing.
    n_symbols: number of tokens that can occur inside a unit.
    min_tokens: every unit has at least this many tokens.
    min_bytes: and at least this many bytes of text.
    known: the code known beforehand.
    has_base: the model falls back on its pretrained base, which falls back on the known code with weight BASE_MIXTURE.
    subsampled: the losses are a draw with replacement from the units, rather than all of them.
    prediction: of losses, from their price in the known code.
    bytes_of_a_token: its ceiling per token is so many times that per byte.
    prompt_bits: what the prompt takes of K, where the base is compared behind it; else 0.
    """

    bound_type: str
    bits: int
    division_bits: int
    n: int
    delta: float
    joint: bool
    mixture_weight: float
    n_symbols: int
    min_tokens: int
    min_bytes: int
    known: Known
    has_base: bool
    subsampled: bool
    prediction: Prediction = NEUTRAL
    bytes_of_a_token: int = 1
    prompt_bits: int = 0

    @property
    def paid_bits(self) -> int:
        """What the union over messages and divisions costs."""
        return self.bits + self.division_bits

    @property
    def excess_delta(self) -> float:
        """The share of delta that is left for what a message decides."""
        return self.delta if self.known.exact else (1 - KNOWN_SHARE) * self.delta

    @property
    def about_tokens(self) -> bool:
        """Whether losses are those of tokens."""
        return self.bound_type == "token_level"


def min_bytes(setting: Setting) -> int:
    """Return how many bytes every document has at least."""
    # A token is at least one byte, and so is a character: whichever the rule for documents is stricter on.
    return max(setting.min_tokens, setting.min_characters)


def bytes_of_a_token(setting: Setting) -> int:
    """Return how many bytes a token counts for where a ceiling is per byte."""
    return 1 if setting.tokenizer_tag is None else BYTES_OF_A_TOKEN


def make_terms(header: Header, bits: int, n: int, known: Known) -> Terms:
    """Return the terms of a message's claim.

    Args:
        header: the message's.
        bits: its length.
        n: units of the sample, or tokens.
        known: the code known beforehand.
    """
    setting = header.setting
    documents = setting.bound_type == "document_level"
    return Terms(
        bound_type=setting.bound_type,
        bits=bits,
        division_bits=header.division_bits,
        n=n,
        delta=float(setting.delta),
        joint=setting.joint,
        mixture_weight=2.0**-header.mixture_exponent,
        # A document's length is given, so end-of-text cannot occur inside it.
        n_symbols=setting.vocab_size - documents,
        min_tokens=setting.min_tokens if documents else header.architecture.block_size,
        min_bytes=min_bytes(setting),
        known=known,
        has_base=header.architecture.kind == "pretrained" and setting.bound_type != "token_level",
        subsampled=header.samples > 0,
        prompt_bits=prompt_bits(header.prompt, setting) if header.compares_prompt else 0,
        prediction=header.prediction,
        bytes_of_a_token=bytes_of_a_token(setting),
    )
