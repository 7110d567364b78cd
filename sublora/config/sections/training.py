"""How long to train, with which optimizer, and on what machine."""

from dataclasses import dataclass
from typing import Literal, get_args

from sublora.config.sections.checks import check_choice, check_range
from sublora.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "auto"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass
class Training:
    """How long to train and what to record."""

    gradient_accumulation_steps: int = 1
    """micro-batches per step"""
    max_iters: int = 600000
    """optimizer steps"""
    eval_interval: int = 2000
    """steps between evaluations and checkpoints"""
    eval_iters: int = 200
    """batches of an evaluation"""
    log_interval: int = 10
    """steps between lines of the metrics file"""
    always_save_checkpoint: bool = False
    """keep a checkpoint of every evaluation, not only the best and the last"""
    eval_only: bool = False
    """evaluate once and stop"""

    def __post_init__(self) -> None:
        for name in ("gradient_accumulation_steps", "eval_interval", "eval_iters", "log_interval"):
            check_range(f"training.{name}", getattr(self, name), 1)
        check_range("training.max_iters", self.max_iters, 0)


@dataclass
class Optimizer:
    """AdamW (Loshchilov & Hutter 2019)."""

    learning_rate: float = 5e-3
    """peak learning rate of subspace_params"""
    weight_decay: float = 1e-2
    """decoupled weight decay of subspace_params; gates are never decayed"""
    beta1: float = 0.9
    """decay of the first moment"""
    beta2: float = 0.999
    """decay of the second moment"""
    grad_clip: float = 0.0
    """clip the gradient norm to this (0: do not)"""
    adam_epsilon: float = 1e-6
    """term added to the denominator"""
    correct_bias: bool = True
    """bias correction of the moments; only true is supported"""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "grad_clip", "adam_epsilon"):
            check_range(f"optimizer.{name}", getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            check_range(f"optimizer.{name}", getattr(self, name), 0, 1)
        if not self.correct_bias:
            raise ConfigError(
                "optimizer.correct_bias=false is not supported: torch's AdamW always corrects; set it to true"
            )


@dataclass
class LearningRate:
    """Cosine schedule with linear warm-up."""

    decay_lr: bool = True
    """follow the schedule; false keeps the rate constant after the warm-up"""
    warmup_iters: int = 0
    """steps of linear warm-up"""
    lr_decay_iters: int | None = None
    """steps until min_lr is reached; max_iters unless given"""
    min_lr: float = 0.0
    """final learning rate"""

    def __post_init__(self) -> None:
        check_range("learning_rate.warmup_iters", self.warmup_iters, 0)
        check_range("learning_rate.min_lr", self.min_lr, 0)


@dataclass
class System:
    """The machine and the seed."""

    device: str = "auto"
    """auto, cpu, cuda, mps, ..."""
    dtype: Dtype = "float32"
    """precision of training: float32, bfloat16, or auto: bfloat16 where the hardware has it; scoring is in float32"""
    compile: bool = False
    """torch.compile the model for training"""
    gradient_checkpointing: bool = False
    """keep only the inputs of layers for the backward pass: less memory, a third more time"""
    seed: int = 42
    """root of every random stream"""
    threads: int = 0
    """CPU threads (0: as many as torch chooses)"""

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_range("system.seed", self.seed, 0)
