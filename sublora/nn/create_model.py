"""The model: a causal language model of transformers, an adapter, and the subspace around it."""

import logging
import warnings
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from sublora.coding.architecture import Architecture, tag
from sublora.coding.spec import SHARED, ModelSpec
from sublora.config import Config, Sublora
from sublora.errors import ConfigError
from sublora.nn.adapted import merge_adapted
from sublora.nn.allocation import TIED, split_budget
from sublora.nn.base import create_base
from sublora.nn.lora import add_lora
from sublora.nn.places import fields_of, ranks_by_place
from sublora.nn.pretrained import source_sha256
from sublora.nn.projectors import create_intrinsic_model
from sublora.nn.spectral import add_spectral
from sublora.nn.subspace import SubspaceModule
from sublora.nn.unilora import VECTOR, add_unilora
from sublora.nn.vera import add_vera

log = logging.getLogger(__name__)


def build_model(
    architecture: Architecture,
    spec: ModelSpec,
    source: str = "",
    *,
    dropout: float = 0.0,
    lora_dropout: float = 0.0,
    gating_init: float = 0.5,
) -> SubspaceModule:
    """Return the model in its subspace, at theta0.

    The hash of the base weights is its attribute `base_sha256`.

    Args:
        architecture: the base.
        spec: adapter, subspace and allocation, as a message has them; its number of gates is not looked at.
        source: of pretrained weights, see `sublora.nn.sources.find_source`.
        dropout: of the base, while training.
        lora_dropout: of the adapter, while training.
        gating_init: gamma at the start, where gates are learned.

    Raises:
        ConfigError: sizes that do not fit each other, a base that cannot be loaded, or no adapter (`build_base`).
    """
    base = create_base(architecture, spec.seed, source, dropout)
    return build_on(base, spec, lora_dropout=lora_dropout, gating_init=gating_init)


def build_on(
    base: PreTrainedModel, spec: ModelSpec, *, lora_dropout: float = 0.0, gating_init: float = 0.5
) -> SubspaceModule:
    """Return what `build_model` returns, on a base from `create_base`, which is changed in place.

    Raises:
        ConfigError: sizes that do not fit each other, or no adapter (`build_base`).
    """
    if spec.adapter == "none":
        raise ConfigError("without an adapter nothing can be trained: set sublora.adapter to lora, spectral or weights")
    model = adapt(base, spec, lora_dropout=lora_dropout, gating_init=gating_init)
    model.base_sha256, model.base_parameters = base.base_sha256, base.base_parameters
    log.info("model: D = %d trainable parameters, d = %d coordinates", model.D, model.d)
    return model


def adapt(
    base: PreTrainedModel, spec: ModelSpec, *, lora_dropout: float = 0.0, gating_init: float = 0.5
) -> SubspaceModule:
    """Return a base with an adapter in its subspace, at theta0.

    Args:
        base: is changed in place; with spectral cores, what `create_base` returns.
        spec: adapter, subspace and allocation.
        lora_dropout: of the adapter, while training.
        gating_init: gamma at the start, where gates are learned.

    Raises:
        ConfigError: sizes that do not fit each other.
    """
    rank = max(spec.rank, spec.head_rank, *spec.ranks)
    width = cast(nn.Embedding, base.get_input_embeddings()).embedding_dim
    # VeRA's ranks are large, and its matrices are shared: a width of 768 has been given 1,024.
    if spec.adapter in ("lora", "unilora", "vera") and rank > (16 * width if spec.adapter == "vera" else width):
        raise ConfigError(f"a rank of {rank} is too large for a base of width {width}: lower it")
    net: nn.Module = base
    if spec.adapter == "lora":
        net = add_lora(
            base,
            seed=spec.seed,
            rank=spec.rank,
            head_rank=spec.head_rank,
            lora_alpha=spec.lora_alpha,
            targets=spec.targets,
            kinds=spec.kinds,
            ranks=spec.ranks or (spec.rank,) * spec.kinds.bit_count(),
            lora_dropout=lora_dropout,
        )
    elif spec.adapter == "spectral":
        net = add_spectral(
            base,
            rank=spec.rank,
            targets=spec.targets,
            base_sha256=cast(str, base.base_sha256),
            practised=getattr(base, "practised_frames", None),
            tied=spec.tied,
        )
    elif spec.adapter == "unilora":
        net = add_unilora(base, rank=spec.rank, kinds=spec.kinds, length=spec.intrinsic_dim, seed=spec.seed)
    elif spec.adapter == "vera":
        net = add_vera(base, rank=spec.rank, kinds=spec.kinds, key=spec.seed)
    return create_intrinsic_model(
        net,
        intrinsic_dim=spec.intrinsic_dim,
        seed=spec.seed,
        allocation_mode=spec.allocation_mode,
        allocation_scope=spec.allocation_scope,
        gating_granularity=spec.gating_granularity,
        intrinsic_mode=spec.intrinsic_mode,
        gating_init=gating_init,
        gating_steepness=spec.gating_steepness,
        budget_b=spec.budget_b,
    )


def build_base(architecture: Architecture, seed: int, source: str = "") -> PreTrainedModel:
    """Return the base as it is, frozen: what a message without an adapter describes.

    The hash of its weights is its attribute `base_sha256`.

    Raises:
        ConfigError: as `create_base`.
    """
    return create_base(architecture, seed, source).requires_grad_(False).eval()


def architecture_from_config(config: Config, vocab_size: int) -> Architecture:
    """Return the architecture that a configuration describes; a pretrained base is loaded to learn its hash.

    Raises:
        ConfigError: the base cannot be loaded.
    """
    m, block_size = config.model, config.data.block_size
    if config.prior.base:
        base_tag = tag(source_sha256(config.prior.base))
        return Architecture("pretrained", 0, 0, 0, block_size, vocab_size, base_tag=base_tag)
    return Architecture(
        kind="random",
        n_layer=m.n_layer,
        n_head=m.n_head,
        n_embd=m.n_embd,
        block_size=block_size,
        vocab_size=vocab_size,
        bias=m.bias,
        family=m.family,
        attention_window=m.attention_window if m.family == "mistral" else 0,
    )


def spec_from_config(config: Config, n_gates: int = 0, base: nn.Module | None = None) -> ModelSpec:
    """Return what a message says of a configuration's adapter and subspace.

    Args:
        config: sections sublora and system are read.
        n_gates: of the model, where gates are learned.
        base: as in `spec_of`.

    Raises:
        ConfigError: as `spec_of`.
    """
    return spec_of(config.sublora, config.system.seed, n_gates, base)


def spec_of(section: Sublora, seed: int, n_gates: int = 0, base: nn.Module | None = None) -> ModelSpec:
    """Return what a message says of an adapter and a subspace.

    Args:
        section: their configuration.
        seed: root seed.
        n_gates: of the model, where gates are learned.
        base: without an adapter; needed where the section names layers (`section.names_layers`).

    Raises:
        ConfigError: the base has no layers of a name.
    """
    s = section
    on: dict[str, Any] = {"targets": s.targets, "rank": s.rank, "kinds": s.kinds if s.adapter in SHARED else 0}
    if s.names_layers:
        assert base is not None
        on = fields_of(base, ranks_by_place(base, s))
    by_layer = s.allocation_mode == "learned" and s.allocation_scope == "layer"
    return ModelSpec(
        seed=seed,
        intrinsic_dim=s.intrinsic_dim,
        intrinsic_mode=s.intrinsic_mode,
        adapter=s.adapter,
        **on,
        tied=s.spectral_tied,
        head_rank=s.head_rank,
        lora_alpha=s.lora_alpha,
        allocation_mode=s.allocation_mode,
        allocation_scope=s.allocation_scope,
        budget_b=split_budget(s.intrinsic_dim, s.allocation_ratio)[1] if s.allocation_mode == "fixed" else 0,
        # Only masks have a steepness.
        gating_steepness=s.gating_steepness if by_layer else 0,
        gating_granularity=s.gating_granularity,
        n_gates=n_gates,
    )


def get_model(config: Config, vocab_size: int) -> SubspaceModule:
    """Return the model of a configuration, at theta0.

    Args:
        config: sections prior, model, sublora, data and system are read.
        vocab_size: number of tokens that can occur, end-of-text included.
    """
    architecture = architecture_from_config(config, vocab_size)
    base = create_base(architecture, config.system.seed, config.prior.base, config.model.dropout)
    spec = spec_from_config(config, base=base)
    section = config.sublora
    return build_on(base, spec, lora_dropout=section.lora_dropout, gating_init=section.gamma_init)


def merge(model: nn.Module) -> PreTrainedModel:
    """Write the trained parameters and the adapter into the base model, and return that plain transformers model.

    Args:
        model: a SubspaceModule, which is used up: its wrapped module is the returned one; or a base with PEFT's
            adapter, or without any, which is returned as it is.
    """
    net: Any = model.release() if isinstance(model, SubspaceModule) else model
    if not hasattr(net, "merge_and_unload"):
        merge_adapted(net)
        for shared in (VECTOR, TIED):
            if hasattr(net, shared):
                delattr(net, shared)
        return net.eval()
    base = getattr(net.get_output_embeddings(), "base_layer", None)
    if base is not None:
        # A tied head shares its weight with the input embedding, which merging must not move.
        base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net.merge_and_unload().eval()
