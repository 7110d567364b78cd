"""What a decoder must know about the adapter and its subspace: the last part of a message's header."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sublora.coding.bits import (
    BitReader,
    BitWriter,
    read_decimal,
    read_delta,
    read_gamma,
    read_uniform,
    write_decimal,
    write_delta,
    write_gamma,
    write_uniform,
)
from sublora.coding.choices import (
    ADAPTERS,
    ALLOCATION_MODES,
    ALLOCATION_SCOPES,
    INTRINSIC_MODES,
    LATER_ADAPTERS,
    LATER_GATES,
    TARGETS,
    read_choice,
    write_choice,
)
from sublora.errors import MessageError

SHARED = ("unilora", "vera")
"""adapters whose fixed matrices come from a seed of PEFT's"""
_MOST = 2**31 - 1


@dataclass(frozen=True)
class ModelSpec:
    """The choices that may have been made after seeing data.

    A field that the other fields make meaningless takes the neutral value noted below whatever was passed, so that
    equal models have equal specs and the message need not hold it. The defaults are those of the
    configuration.
    """

    seed: int
    """root seed of the operators and of LoRA's initialisation, 0..2**63-1"""
    intrinsic_dim: int
    """d; 0: the symbols are the parameters themselves; unilora: the length of its vector, which is what is coded"""
    intrinsic_mode: str = "rdkronqr"
    """kind of operator; "identity" if intrinsic_dim is 0"""
    adapter: str = "lora"
    """what is moved: nothing (the base as it is, no symbols), LoRA, a core between the base's singular vectors, all
    weights, or UniLoRA or VeRA as PEFT has them"""
    targets: str = "attention"
    """linear layers that LoRA or cores are on: the attention projections, or all inside the layers; "attention" for
    other adapters"""
    kinds: int = 0
    """the kinds of linear layers that it is on (`sublora.nn.places.kinds_of`): unilora and vera, and lora where they
    are not targets; 0 for others"""
    rank: int = 4
    """on the targets or kinds, 0 for none; 0 where nothing has a rank, or ranks differ"""
    ranks: tuple[int, ...] = ()
    """lora on kinds: a rank for every kind, the lowest bit first; none where they are equal"""
    tied: bool = False
    """spectral: layers share one core for every kind of linear layer; False for others"""
    head_rank: int = 4
    """rank of LoRA on the output head, 0 for none; 0 without LoRA"""
    lora_alpha: int = 32
    """LoRA is scaled by lora_alpha / rank; 0 without LoRA"""
    allocation_mode: str = "uniform"
    """how the coordinates are divided between the groups of parameters; "uniform" if intrinsic_dim is 0"""
    allocation_scope: str = "shared"
    """what gates divide: energy (shared) or each layer's coordinates (layer); "shared" unless the mode is learned"""
    budget_b: int = 0
    """coordinates of side B, 0..d; 0 unless the mode is fixed"""
    gating_steepness: int = 0
    """of the mask in scope layer; 0 unless the mode is learned"""
    gating_granularity: str = "layer"
    """what has a gate, every layer or every module; "layer" unless the mode is learned, in scope shared"""
    n_gates: int = 0
    """how many gates the message holds; 0 unless the mode is learned"""

    def __post_init__(self) -> None:
        if self.adapter == "none":
            self._set(intrinsic_dim=0)
        if self.adapter == "vera":
            self._set(intrinsic_dim=0)
        if self.intrinsic_dim == 0 or self.adapter in SHARED:
            self._set(intrinsic_mode="identity", allocation_mode="uniform")
        if self.adapter != "lora":
            self._set(head_rank=0, lora_alpha=0)
        if self.adapter not in ("lora", "spectral", *SHARED):
            self._set(rank=0)
        if self.adapter not in ("lora", *SHARED):
            self._set(kinds=0)
        if self.adapter != "spectral":
            self._set(tied=False)
        if self.adapter != "lora" or not self.kinds:
            self._set(ranks=())
        if self.ranks:
            self._check_ranks()
            equal = len(set(self.ranks)) == 1
            self._set(rank=self.ranks[0] if equal else 0, ranks=() if equal else tuple(self.ranks))
        if not self.rank or self.kinds or self.adapter in SHARED:
            self._set(targets="attention")
        if self.allocation_mode != "fixed":
            self._set(budget_b=0)
        if self.allocation_mode != "learned":
            self._set(allocation_scope="shared", gating_steepness=0, n_gates=0)
        if self.allocation_mode != "learned" or self.allocation_scope != "shared":
            self._set(gating_granularity="layer")
        for name, legal in (
            ("adapter", tuple(dict.fromkeys((*ADAPTERS, *LATER_ADAPTERS)))),
            ("targets", TARGETS),
            ("intrinsic_mode", INTRINSIC_MODES),
            ("allocation_mode", ALLOCATION_MODES),
            ("allocation_scope", ALLOCATION_SCOPES),
            ("gating_granularity", ("layer", *LATER_GATES)),
        ):
            if getattr(self, name) not in legal:
                raise MessageError(f"{name} {getattr(self, name)!r} is none of {', '.join(legal)}")
        for name, highest in (
            ("seed", 2**63 - 1),
            ("intrinsic_dim", _MOST),
            ("kinds", _MOST),
            ("rank", _MOST),
            ("head_rank", _MOST),
            ("lora_alpha", _MOST),
            ("budget_b", self.intrinsic_dim),
            ("gating_steepness", _MOST),
            ("n_gates", 2**16),
        ):
            if not 0 <= getattr(self, name) <= highest:
                raise MessageError(f"{name} {getattr(self, name)} is outside 0..{highest}")
        if (self.adapter in SHARED and not self.kinds) or (self.kinds and not (self.rank or self.ranks)):
            raise MessageError(f"{self.adapter} of rank {self.rank} on the kinds {self.kinds} is on nothing")
        if self.tied and not self.rank:
            raise MessageError("tied cores of rank 0 are nothing")
        if self.adapter == "unilora" and not self.intrinsic_dim:
            raise MessageError("unilora needs a vector of at least one number")

    def _check_ranks(self) -> None:
        if len(self.ranks) != self.kinds.bit_count():
            raise MessageError(f"there are {len(self.ranks)} ranks for the kinds {self.kinds:b}, and each has one")
        if not 1 <= min(self.ranks) <= max(self.ranks) <= _MOST:
            raise MessageError(f"ranks {self.ranks} are not all in 1..{_MOST}")

    def _set(self, **values: int | str | tuple[int, ...]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _write_adapter(writer: BitWriter, spec: ModelSpec) -> None:
    if spec.kinds or spec.tied:
        _write_later(writer, spec)
        return
    if spec.adapter == "lora" and not (spec.rank or spec.head_rank):
        raise MessageError("LoRA is on nothing: give it a rank")
    write_choice(writer, spec.adapter, ADAPTERS)
    if spec.adapter in ("lora", "spectral"):
        write_gamma(writer, spec.rank + 1)
        if spec.rank:
            write_choice(writer, spec.targets, TARGETS)
    if spec.adapter == "lora":
        write_gamma(writer, spec.head_rank + 1)
        write_delta(writer, spec.lora_alpha + 1)


def _write_later(writer: BitWriter, spec: ModelSpec) -> None:
    # It stands where a LoRA on nothing would: both ranks are 0.
    write_choice(writer, "lora", ADAPTERS)
    write_gamma(writer, 1)
    write_gamma(writer, 1)
    write_gamma(writer, LATER_ADAPTERS.index(spec.adapter) + 1)
    if spec.adapter in SHARED:
        write_gamma(writer, spec.rank)
        write_delta(writer, spec.kinds)
        return
    if spec.tied:
        write_gamma(writer, spec.rank)
        write_choice(writer, spec.targets, TARGETS)
        return
    write_delta(writer, spec.kinds)
    write_uniform(writer, int(bool(spec.ranks)), 2)
    for rank in spec.ranks or (spec.rank,):
        write_gamma(writer, rank)
    write_gamma(writer, spec.head_rank + 1)
    write_delta(writer, spec.lora_alpha + 1)


def _read_adapter(reader: BitReader) -> dict[str, Any]:
    adapter: str = read_choice(reader, ADAPTERS)
    rank = head_rank = lora_alpha = 0
    targets = "attention"
    if adapter in ("lora", "spectral"):
        rank = read_gamma(reader) - 1
        if rank:
            targets = read_choice(reader, TARGETS)
    if adapter == "lora":
        head_rank = read_gamma(reader) - 1
        if not (rank or head_rank):
            return _read_later(reader)
        lora_alpha = read_delta(reader) - 1
    return {"adapter": adapter, "targets": targets, "rank": rank, "head_rank": head_rank, "lora_alpha": lora_alpha}


def _read_later(reader: BitReader) -> dict[str, Any]:
    number = read_gamma(reader) - 1
    if number >= len(LATER_ADAPTERS):
        raise MessageError("an adapter that this program does not know")
    adapter = LATER_ADAPTERS[number]
    if adapter in SHARED:
        return {"adapter": adapter, "rank": read_gamma(reader), "kinds": read_delta(reader)}
    if adapter == "spectral":
        return {"adapter": adapter, "tied": True, "rank": read_gamma(reader), "targets": read_choice(reader, TARGETS)}
    kinds = read_delta(reader)
    if kinds > _MOST:
        raise MessageError(f"kinds {kinds} is outside 0..{_MOST}")
    differ = bool(read_uniform(reader, 2))
    ranks = tuple(read_gamma(reader) for _ in range(kinds.bit_count() if differ else 1))
    if differ and len(set(ranks)) == 1:
        raise MessageError("equal ranks are written as different ones")
    on: dict[str, Any] = {"ranks": ranks} if differ else {"rank": ranks[0]}
    return {
        "adapter": adapter,
        "kinds": kinds,
        **on,
        "head_rank": read_gamma(reader) - 1,
        "lora_alpha": read_delta(reader) - 1,
    }


def write_spec(writer: BitWriter, spec: ModelSpec) -> None:
    """Write every field that has a meaning, each under its own name in the ledger."""
    writer.field("adapter")
    _write_adapter(writer, spec)
    writer.field("seed")
    write_delta(writer, spec.seed + 1)
    if spec.adapter == "none":
        return
    if spec.adapter != "vera":
        writer.field("intrinsic_dim")
        write_decimal(writer, spec.intrinsic_dim)
    if spec.intrinsic_dim == 0 or spec.adapter in SHARED:
        return
    writer.field("intrinsic_mode")
    write_choice(writer, spec.intrinsic_mode, INTRINSIC_MODES)
    writer.field("allocation")
    write_choice(writer, spec.allocation_mode, ALLOCATION_MODES)
    if spec.allocation_mode == "fixed":
        write_uniform(writer, spec.budget_b, spec.intrinsic_dim + 1)
    if spec.allocation_mode == "learned":
        write_choice(writer, spec.allocation_scope, ALLOCATION_SCOPES)
        write_decimal(writer, spec.gating_steepness)
        _write_gates(writer, spec)


def _write_gates(writer: BitWriter, spec: ModelSpec) -> None:
    if spec.allocation_scope == "layer":
        # Where no parameter is inside the layers there is none.
        write_gamma(writer, spec.n_gates + 1)
        return
    if not spec.n_gates:
        raise MessageError("learned allocation without a gate divides nothing")
    if spec.gating_granularity == "layer":
        write_gamma(writer, spec.n_gates + 1)
        return
    # It stands where no gates at all would.
    write_gamma(writer, 1)
    write_gamma(writer, LATER_GATES.index(spec.gating_granularity) + 1)
    write_gamma(writer, spec.n_gates)


def _read_gates(reader: BitReader, scope: str) -> tuple[str, int]:
    """Return what has gates, and how many there are."""
    n_gates = read_gamma(reader) - 1
    if n_gates or scope == "layer":
        return "layer", n_gates
    number = read_gamma(reader) - 1
    if number >= len(LATER_GATES):
        raise MessageError("gates of something that this program does not know")
    return LATER_GATES[number], read_gamma(reader)


def read_spec(reader: BitReader, book: Callable[[str], None] = lambda name: None) -> ModelSpec:
    """Read what `write_spec` wrote.

    Args:
        reader: at the beginning of the spec.
        book: is told the name of every field that has been read.

    Raises:
        MessageError: a value outside its range.
    """
    adapter = _read_adapter(reader)
    book("adapter")
    seed = read_delta(reader) - 1
    book("seed")
    if adapter["adapter"] == "none":
        return ModelSpec(seed=seed, intrinsic_dim=0, **adapter)
    if adapter["adapter"] == "vera":
        return ModelSpec(seed=seed, intrinsic_dim=0, **adapter)
    intrinsic_dim = read_decimal(reader)
    book("intrinsic_dim")
    if adapter["adapter"] == "unilora":
        return ModelSpec(seed=seed, intrinsic_dim=intrinsic_dim, **adapter)
    mode, allocation, scope, granularity = "identity", "uniform", "shared", "layer"
    budget_b = gating_steepness = n_gates = 0
    if intrinsic_dim:
        mode = read_choice(reader, INTRINSIC_MODES)
        book("intrinsic_mode")
        allocation = read_choice(reader, ALLOCATION_MODES)
    if allocation == "fixed":
        budget_b = read_uniform(reader, intrinsic_dim + 1)
    if allocation == "learned":
        scope = read_choice(reader, ALLOCATION_SCOPES)
        gating_steepness = read_decimal(reader)
        granularity, n_gates = _read_gates(reader, scope)
    if intrinsic_dim:
        book("allocation")
    return ModelSpec(
        seed=seed,
        intrinsic_dim=intrinsic_dim,
        intrinsic_mode=mode,
        **adapter,
        allocation_mode=allocation,
        allocation_scope=scope,
        budget_b=budget_b,
        gating_steepness=gating_steepness,
        gating_granularity=granularity,
        n_gates=n_gates,
    )
