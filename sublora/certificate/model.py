"""The certificate as one typed object; `reading` has its file. Torch-free.

Nothing in it names anything that is loaded.
"""

import datetime
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sublora.config import BoundType
from sublora.files import canonical_json, sha256
from sublora.run_folder import Files, RunFolder

FORMAT: Literal[3] = 3

Sha256 = Field(pattern="^[0-9a-f]{64}$")
Delta = Field(pattern=r"^0\.[0-9]{0,62}[1-9]$")
Why = Literal[
    "assumed", "documents absent from an older copy", "known documents", "known documents, from an assumed start"
]


class Part(BaseModel):
    """What parts of a certificate have in common: no other fields, no changes, no conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Claim(Part):
    """One claim: the mean loss over what the certificate is about is at most (or a gain is at least) the bound."""

    metric: str
    """bpd, bpb, bpd_gain, bpb_gain, top_1_error, ..."""
    name: str
    """the metric in words"""
    sense: Literal["at most", "at least"]
    """at most: an upper bound on a loss; at least: a lower bound on a gain"""
    bound: float
    """what is claimed, rounded to the side on which it stays true"""
    empirical: float
    """mean over what was measured, of the decoded model mixed with what it falls back on"""
    model_alone: float
    """mean over the same of the decoded model without that mixture"""
    limit: float
    """no document can have a larger loss (or a smaller gain)"""


class Comparison(Part):
    """What another bound gives for the same message and losses; not a claim."""

    name: str
    """of the other bound"""
    metric: str
    """of the loss that it bounds"""
    bound: float
    """what it gives"""
    smoothing: float
    """weight of the uniform distribution that it needs to be bounded"""
    empirical: float
    """mean loss with that smoothing"""
    note: str
    """where it is from"""


class Baseline(Part):
    """A simple code through the same bound: what the certificate has to beat. Bits per token, and per byte if known."""

    name: str
    """of the code"""
    bits: int = Field(ge=0)
    """K of its message; 0 for a code known beforehand"""
    held_out: float | None
    """bits per token on held-out documents"""
    bound: float = Field(ge=0)
    """certified bits per token"""
    held_out_bpb: float | None
    """bits per byte on held-out documents"""
    bound_bpb: float | None = Field(ge=0)
    """certified bits per byte"""


class Decomposition(Part):
    """The first claim's bound, split into what the model loses and what each step of the proof adds, in bits per
    token.
    """

    empirical: float
    """mean loss of the decoded model alone"""
    smoothing: float
    """what the mixture adds to it (negative: it helps)"""
    complexity: float
    """what K, n and delta add if the losses measured were all n of them"""
    sampling: float
    """what measuring a draw adds"""


class HeldOut(Part):
    """Losses on test documents, which had no part in training or in choosing; beside the claims, not one of them."""

    documents: int = Field(ge=1)
    """how many were measured"""
    part: Literal["test", "validation"]
    """validation: the corpus has no test part, and these documents chose the checkpoint"""
    sha256: str = Sha256
    """of the part's documents"""
    bpd: float
    """bits per token of the decoded model with its fallback"""
    bpb: float | None
    """bits per byte of the same"""
    base_bpb: float | None
    """of the base alone, without any fallback, where it is pretrained and bytes are known"""
    top_1_error: float
    """share of tokens that are not the most probable one, of the decoded model"""
    standard_error: float
    """of bpd"""


class PredictionPart(Part):
    """The predicted loss max(c g + a / s, g - R) of a document of s bytes (or tokens) that costs g bits per byte (or
    token) in the known code. Only what the model does otherwise is bounded for all messages at once.
    """

    slope: float = Field(gt=0, le=1)
    """c"""
    document_bits: int = Field(ge=0)
    """a"""
    ceiling: float = Field(ge=0)
    """R per byte; per token 4 times as much, unless a token is a byte"""


class Setting(Part):
    """What the claims are about; read off the message."""

    bound_type: BoundType
    """what a unit is: documents, blocks, or the tokens of blocks"""
    about: Literal["population", "source"]
    """population: the average over the documents that the seed divided; source: new documents"""
    delta: str = Delta
    """probability that a claim may fail: a decimal fraction, exact"""
    joint: bool
    """all claims hold at once, with delta divided between them"""
    mixture_weight: float
    """of what the model falls back on"""
    stride: int
    """new tokens per window where a document is longer than the context"""
    block_size: int
    """context length in tokens"""
    prediction: PredictionPart
    """of losses, from their price in the known code"""
    samples: int
    """units drawn to measure the risk; 0: all were measured"""
    min_tokens: int
    """of the shortest document"""
    min_characters: int
    """of the shortest document, by the rule of the corpus; 0: no rule is known"""
    vocab_size: int
    """tokens that can occur, end-of-text included"""
    eot_token: int
    """the end-of-text token"""


class MessagePart(Part):
    """The message."""

    bits: int = Field(ge=8)
    """K: 8 times the number of bytes"""
    division_bits: int = Field(ge=0)
    """paid beside K for the choice of how the population was divided"""
    setting_bits: int = Field(ge=1)
    """what pays for the choice of the code known beforehand where no population gives its mean: the setting's bits in
    the message, and division_bits"""
    coordinates: int = Field(ge=0)
    """numbers that the message holds for the adapter"""
    sha256: str = Sha256
    """of the message"""
    ledger: dict[str, float]
    """bits of every field, read off the bytes"""


class RandomBase(Part):
    """Weights from the message's seed: nothing is loaded."""

    kind: Literal["random"]
    """random: made from the seed"""
    family: str
    """of the architecture"""
    n_layer: int
    """layers"""
    n_head: int
    """attention heads"""
    n_embd: int
    """width"""
    attention_window: int
    """of a Mistral, in tokens; 0 for others"""
    seed: int
    """of the weights, of LoRA and of the operator"""
    sha256: str = Sha256
    """of the weights"""


class PretrainedBase(Part):
    """Weights that were known beforehand. Whoever verifies brings them; the hash is compared, the name is only a
    name.
    """

    kind: Literal["pretrained"]
    """pretrained: loaded from the verifier's own copy"""
    name: str
    """as the base names itself"""
    licence: str | None
    """as the base states it"""
    published: str | None
    """date that the issuer states, YYYY-MM-DD"""
    evidence: Why
    """why the weights cannot have been fitted to the documents; known documents: the base's folder says that random
    weights were fitted to those alone (from an assumed start: that another base was)"""
    sha256: str = Sha256
    """of the weights: names, shapes and float32 bytes of all parameters"""

    @field_validator("published")
    @classmethod
    def _is_a_date(cls, value: str | None) -> str | None:
        # The limits quote it: other words would be the issuer's own sentences.
        if value is not None and datetime.date.fromisoformat(value).isoformat() != value:
            raise ValueError(f"{value!r} is not a date")
        return value


class Known(Part):
    """The code known beforehand that the model falls back on, and its expected length on a new document."""

    code: str
    """its name"""
    limit: float = Field(gt=0)
    """longest price of a token, in bits"""
    exact: bool
    """true: what follows are means over the whole population; false: upper bounds on the mean of a new document"""
    per_token: float = Field(ge=0)
    """bits per token"""
    per_byte: float | None = Field(ge=0)
    """the same per byte; null where bytes are not known"""
    predicted_per_token: float = Field(ge=0)
    """the loss that the message predicts, in bits per token"""
    predicted_per_byte: float | None = Field(ge=0)
    """the same per byte"""


class Beforehand(Part):
    """What is known beforehand under a certificate of any kind."""

    base: RandomBase | PretrainedBase = Field(discriminator="kind")
    """the base model"""
    D: int = Field(ge=0)
    """parameters that the message moves"""
    tokenizer: str
    """what it is, and what it was fitted on"""
    documents: int = Field(ge=0)
    """known documents that n does not count"""
    documents_sha256: str | None
    """of the known documents"""


class Prior(Beforehand):
    """Everything that was known beforehand."""

    prompt_tokens: int = Field(ge=0)
    """tokens that stand before every document; the message says which"""
    known: Known
    """the code known beforehand"""


class CorpusPart(Part):
    """The documents that are certified."""

    source: str
    """where the text is from"""
    rule: str
    """what a document is, and which are left out"""
    sha256: str = Sha256
    """of the kept documents: their tokens and their lengths in tokens and bytes"""
    n: int = Field(ge=1)
    """certified units; tokens of blocks for claims about tokens"""
    distinct: int = Field(ge=1)
    """how many of the n units differ (token-level claims: of the blocks)"""
    population: int | None
    """N documents of which the n were drawn at random by the seed; None: drawn from a source"""
    population_sha256: str | None = Field(pattern="^[0-9a-f]{64}$")
    """of the kept documents of all its parts: training, validation and test"""
    split_seed: int | None
    """that divided the population; null: none did"""


class How(Part):
    """How losses were computed; it changes their last digits only."""

    batch_size: int = Field(ge=1)
    """windows per forward pass"""
    versions: dict[str, str]
    """of the packages that computed"""


Kind = TypeVar("Kind", bound="Sealed")


class Sealed(Part):
    """A certificate with a digest: SHA-256 of the canonical JSON of everything else."""

    def sealed(self: Kind) -> Kind:
        """Return the certificate with its digest."""
        return self.model_copy(update={"digest": self.compute_digest()})

    def compute_digest(self) -> str:
        """Return SHA-256 of the canonical JSON of everything but the digest."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"digest"})))

    def files(self, run: RunFolder) -> Files:
        """Return where certificate and message lie in a run's folder."""
        raise NotImplementedError

    def to_text(self) -> str:
        """Return the one text of the certificate."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


class Upper(NamedTuple):
    """An upper bound on a mean loss: what is signed of a claim, and what new documents can refute.

    metric, name: of the loss.
    bound: on its mean.
    limit: that no loss exceeds.
    """

    metric: str
    name: str
    bound: float
    limit: float


def competitors(simple: Sequence[Baseline], *bases: Baseline | None) -> tuple[Baseline, ...]:
    """Return what a certificate has to beat: simple codes, and the base alone and behind the prompt, where they are."""
    return (*simple, *(base for base in bases if base))


class Certificate(Sealed):
    """A claim about the model in a message that anyone with the documents can check from the bytes."""

    format: Literal[3]
    """of the certificate"""
    statement: str
    """the claim in plain sentences"""
    limits: tuple[str, ...]
    """what the claims do not say"""
    claims: tuple[Claim, ...] = Field(min_length=1)
    """every claim; the first is in bits per token"""
    comparison: Comparison
    """an earlier bound for the same message"""
    decomposition: Decomposition
    """where the first claim comes from"""
    base_alone: Baseline | None
    """the pretrained base without adapter and prompt, with the same fallback, measured on the same documents"""
    base_prompted: Baseline | None = Field(default=None, exclude_if=lambda value: value is None)
    """the base behind the same prompt, which falls back on the base alone; where the message has prompt and adapter"""
    baselines: tuple[Baseline, ...]
    """simple codes through the same bound"""
    held_out: HeldOut | None
    """losses on documents that chose nothing"""
    setting: Setting
    """what the claims are about"""
    message: MessagePart
    """the message"""
    prior: Prior
    """what was known beforehand"""
    corpus: CorpusPart
    """the documents"""
    how: How
    """how losses were computed"""
    losses_sha256: str = Sha256
    """of the file of recorded losses"""
    digest: str = ""
    """SHA-256 of the canonical JSON of everything else"""

    def claim(self, metric: str) -> Claim | None:
        """Return the claim on a metric, None where there is none."""
        return next((claim for claim in self.claims if claim.metric == metric), None)

    @property
    def beside(self) -> tuple[Baseline, ...]:
        """What the certificate has to beat: simple codes, and the base alone and behind the message's prompt."""
        return competitors(self.baselines, self.base_alone, self.base_prompted)

    @property
    def headline(self) -> Claim:
        """The claim that stands for the certificate: bits per byte, or bits per token where bytes are unknown."""
        return self.claim("bpb") or self.claims[0]

    @property
    def delta(self) -> float:
        """The probability that a claim may fail."""
        return float(self.setting.delta)

    @property
    def joint(self) -> bool:
        """Whether all claims hold at once with probability 1 - delta."""
        return self.setting.joint

    @property
    def measured(self) -> int:
        """How many units were measured."""
        return self.setting.samples or self.corpus.n

    @property
    def inequality(self) -> str:
        """The name of the inequality that the claims follow from."""
        if self.setting.bound_type == "token_level":
            return "token_betting"
        return "betting_subsampled" if self.setting.samples else "betting"

    @property
    def uppers(self) -> tuple[Upper, ...]:
        """The claims of the form "at most"."""
        return tuple(Upper(c.metric, c.name, c.bound, c.limit) for c in self.claims if c.sense == "at most")

    def files(self, run: RunFolder) -> Files:
        """Return where certificate and message lie in a run's folder."""
        return run.of_model()
