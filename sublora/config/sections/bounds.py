"""Quantization, the message, and the bound."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from sublora.config.sections.checks import check_choice, check_range
from sublora.errors import ConfigError

BoundType = Literal["document_level", "sequence_level", "token_level"]
BOUND_TYPES: tuple[BoundType, ...] = get_args(BoundType)
ClaimAbout = Literal["auto", "population", "source"]
CLAIMS: tuple[ClaimAbout, ...] = get_args(ClaimAbout)
Quantizer = Literal["uniform", "kmeans", "trellis", "feedback"]
QUANTIZERS: tuple[Quantizer, ...] = get_args(Quantizer)


@dataclass
class Bounds:
    """Quantization, the message, and the bound."""

    levels: int = 11
    """number of quantization levels (uniform and kmeans)"""
    use_kmeans: bool = False
    """k-means codebook; the same as quantizer: kmeans"""
    quantizer: Quantizer = "uniform"
    """uniform or kmeans with so many levels; trellis or feedback, whose step minimises the estimated bound"""
    curvature_samples: int = 512
    """training sequences that the curvature of the loss is estimated from (feedback)"""
    max_quant_iters: int = 0
    """steps of quantization-aware training: with a learned codebook (uniform, kmeans), or while coordinates are rounded
    one after the other (feedback); 0: none"""
    quant_lr: float = 5e-5
    """learning rate of quantization-aware training with a learned codebook"""
    eval_batch_size: int = 32
    """windows scored at once"""
    bound_samples: int = 10000
    """documents or blocks drawn to measure the risk (0: all of them, which token_level needs)"""
    bound_type: BoundType = "document_level"
    """what the claim is about: document_level (new documents), sequence_level (new blocks of block_size tokens), or
    token_level (what could have followed the training contexts; it says nothing about new text)"""
    claim: ClaimAbout = "auto"
    """population: the average over the documents that the certified ones were drawn from at random by a seed; source:
    new documents, as if all were drawn independently; auto: population where `prepare` made the split"""
    sliding_window_size: int | None = None
    """new tokens per window when a document is longer than block_size; block_size unless given"""
    delta: float = 0.05
    """probability that the certificate may be wrong"""
    joint: bool = False
    """make all claims hold at once by splitting delta; otherwise each holds on its own"""
    candidates: list[str] = field(default_factory=list)
    """further runs on the same corpus and base, with other d, say: the one with the lowest estimated bound is
    certified, in its own folder"""

    def __post_init__(self) -> None:
        check_choice("bound_type", self.bound_type, BOUND_TYPES)
        check_choice("quantizer", self.quantizer, QUANTIZERS)
        check_choice("bounds.claim", self.claim, CLAIMS)
        if not all(self.candidates):
            raise ConfigError("bounds.candidates has an empty entry: give folders of runs, as [out/d200, out/d1000]")
        if self.claim == "population" and self.bound_type != "document_level":
            raise ConfigError("bounds.claim=population is about documents: set bounds.bound_type=document_level")
        check_range("bounds.levels", self.levels, 1)
        check_range("bounds.curvature_samples", self.curvature_samples, 1)
        check_range("bounds.eval_batch_size", self.eval_batch_size, 1)
        check_range("bounds.bound_samples", self.bound_samples, 0)
        if self.bound_type == "token_level" and self.bound_samples:
            raise ConfigError("bounds.bound_type=token_level measures every token: set bounds.bound_samples=0")
        if not 0 < self.delta < 1:
            raise ConfigError(f"bounds.delta is {self.delta}, but must lie inside (0, 1)")
        check_range("bounds.max_quant_iters", self.max_quant_iters, 0)
        check_range("bounds.quant_lr", self.quant_lr, 0)
        if self.max_quant_iters and self.quantizer == "trellis":
            raise ConfigError("bounds.max_quant_iters is for uniform, kmeans and feedback: trellis is not trained")
        if self.sliding_window_size is not None:
            check_range("bounds.sliding_window_size", self.sliding_window_size, 1)
        if self.use_kmeans:
            if self.quantizer in ("trellis", "feedback"):
                raise ConfigError(f"bounds.use_kmeans=true contradicts bounds.quantizer={self.quantizer}: choose one")
            self.quantizer = "kmeans"

    def claims_population(self, known: bool) -> bool:
        """Whether the claim is about a population, where the corpus records one (`known`) or does not."""
        return self.claim == "population" or (self.claim == "auto" and known and self.bound_type == "document_level")
