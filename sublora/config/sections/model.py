"""The model, the adapter on it, and the subspace that is trained."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from sublora.config.sections.checks import check_choice, check_range
from sublora.errors import ConfigError

# A message has numbers of its own for these names: sublora/coding/choices.py.
AllocationMode = Literal["uniform", "fixed", "learned"]
ALLOCATION_MODES: tuple[AllocationMode, ...] = get_args(AllocationMode)
AllocationScope = Literal["layer", "shared"]
ALLOCATION_SCOPES: tuple[AllocationScope, ...] = get_args(AllocationScope)
GatingGranularity = Literal["layer", "module"]
GATING_GRANULARITIES: tuple[GatingGranularity, ...] = get_args(GatingGranularity)
Adapter = Literal["none", "lora", "spectral", "weights", "unilora", "vera"]
ADAPTERS: tuple[Adapter, ...] = get_args(Adapter)
Targets = Literal["attention", "linear"]
TARGETS: tuple[Targets, ...] = get_args(Targets)
Size = Literal["", "small", "medium", "large", "xlarge", "vlarge"]
InitFrom = Literal["scratch", "best_ckpt"]
INITS: tuple[InitFrom, ...] = get_args(InitFrom)
# Layers, heads and width (Radford et al. 2019, table 2). The largest goes by two names in the literature's code.
GPT2_SIZES: dict[Size, tuple[int, int, int]] = {
    "small": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "xlarge": (48, 25, 1600),
    "vlarge": (48, 25, 1600),
}
# What a pretrained base knows itself.
SIZES = ("size", "n_layer", "n_head", "n_embd", "bias", "apply_rope", "use_mistral_sliding_window", "attention_window")


@dataclass
class Model:
    """The base model, where its weights are random, and where training begins."""

    size: Size = ""
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
    init_from: InitFrom = "scratch"
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
            check_range(f"model.{name}", getattr(self, name), 1)
        check_range("model.dropout", self.dropout, 0, 1)
        if self.init_from not in INITS:
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
        check_choice("model.size", self.size, list(GPT2_SIZES))
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

    adapter: Adapter = "lora"
    """what is moved: lora; spectral (cores between the singular vectors of the base's linear layers); weights (all of
    them; with intrinsic_dim > 0 a linear subspace); none (the base as it is); unilora, vera (of PEFT, only imported)"""
    use_lora: bool = True
    """false is another way to say adapter: weights"""
    targets: Targets = "attention"
    """linear layers that LoRA or cores are on: attention (query and value projections) or linear (all inside the
    layers)"""
    target_modules: list[str] = field(default_factory=list)
    """lora: the linear layers inside the layers that it is on, instead of targets, by their names or ends of them as in
    PEFT: q_proj, mlp.c_fc"""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """lora: ranks other than attention_linear_lora_r, by names as in target_modules: {down_proj: 8}"""
    kinds: int = 0
    """unilora and vera: bit i stands for the i-th kind of linear layer, as `sublora import` writes it"""
    spectral_r: int = 8
    """spectral: leading singular vectors of every target; a core has spectral_r x spectral_r numbers"""
    spectral_tied: bool = False
    """spectral: one core for every kind of linear layer, which all layers share, as in TinyLoRA"""
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
    allocation_mode: AllocationMode = "uniform"
    """uniform, fixed or learned"""
    allocation_ratio: float = 0.5
    """fixed mode: d_B / (d_A + d_B); learned mode: where gating_init is not given, gamma at the start"""
    allocation_scope: AllocationScope = "shared"
    """learned mode: shared (all parameters read all of alpha; gates divide energy) or layer (slices and masks)"""
    gating_granularity: GatingGranularity = "layer"
    """learned mode, scope shared: what has a gate, every layer or every module of it; all are paid for"""
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
        check_choice("allocation_mode", self.allocation_mode, ALLOCATION_MODES)
        check_choice("allocation_scope", self.allocation_scope, ALLOCATION_SCOPES)
        check_choice("gating_granularity", self.gating_granularity, GATING_GRANULARITIES)
        check_choice("sublora.adapter", self.adapter, ADAPTERS)
        check_choice("sublora.targets", self.targets, TARGETS)
        if not self.use_lora and self.adapter == "lora":
            self.adapter = "weights"
        self.use_lora = self.adapter == "lora"
        self._check_names()
        check_range("sublora.spectral_r", self.spectral_r, 1)
        check_range("sublora.kinds", self.kinds, 0)
        check_range("sublora.allocation_ratio", self.allocation_ratio, 0, 1)
        check_range("sublora.intrinsic_dim", self.intrinsic_dim, 0)
        check_range("sublora.lora_alpha", self.lora_alpha, 1)
        check_range("sublora.lora_dropout", self.lora_dropout, 0, 1)
        check_range("sublora.attention_linear_lora_r", self.attention_linear_lora_r, 1)
        check_range("sublora.linear_head_lora_r", self.linear_head_lora_r, 1)
        check_range("sublora.gating_lr", self.gating_lr, 0)
        check_range("sublora.gating_steepness", self.gating_steepness, 1)
        if self.gating_steepness_init is not None:
            check_range("sublora.gating_steepness_init", self.gating_steepness_init, 1)
        if self.allocation_mode == "learned" and not 0 < self.gamma_init < 1:
            name = "allocation_ratio" if self.gating_init is None else "gating_init"
            raise ConfigError(f"sublora.{name} must lie inside (0, 1) in learned mode: a gate starts there")
        if self.gating_granularity == "module" and self.allocation_scope == "layer":
            raise ConfigError("sublora.gating_granularity=module divides energy: set sublora.allocation_scope=shared")

    def _check_names(self) -> None:
        for key in ("target_modules", "rank_pattern"):
            if getattr(self, key) and not (self.use_lora and self.attention_linear_use_lora):
                raise ConfigError(f"sublora.{key} is for LoRA on linear layers, and there is none: leave it out")
        if self.target_modules and self.targets != Sublora.targets:
            raise ConfigError(f"sublora.targets={self.targets} contradicts sublora.target_modules: choose one")
        for name, rank in self.rank_pattern.items():
            check_range(f"sublora.rank_pattern of {name}", rank, 1)

    @property
    def names_layers(self) -> bool:
        """Whether what it is on depends on the names that a base gives its layers."""
        return bool(self.target_modules or self.rank_pattern)

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
