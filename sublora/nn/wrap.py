"""A model that somebody has, in a subspace: it is trained in any loop, and saved with the tools it came with."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from sublora.config import Sublora
from sublora.config.sections.model import Adapter, AllocationMode, Targets
from sublora.errors import ConfigError
from sublora.nn.base import named
from sublora.nn.create_model import adapt, spec_of
from sublora.nn.operators import OPERATORS
from sublora.nn.origin import Origin
from sublora.nn.projectors import create_intrinsic_model
from sublora.nn.subspace import SubspaceModule
from sublora.nn.weights import hash_weights, keep_numbers


def wrap(
    model: nn.Module,
    d: int = 500,
    *,
    allocation: str = "uniform",
    ratio: float = 0.5,
    seed: int = 42,
    operator: str = "rdkronqr",
    adapter: str = "lora",
    targets: str = "attention",
    target_modules: Sequence[str] = (),
    rank: int = 4,
    rank_pattern: Mapping[str, int] | None = None,
    head_rank: int = 4,
    lora_alpha: int = 32,
) -> SubspaceModule:
    """Return a model of which only d numbers, and the gates if there are any, are trained.

    A causal language model of transformers gets an adapter from the seed, so `sublora.compress` can write it down. A
    model that has an adapter of PEFT keeps it: that is trained and saved in the same way, but no message can say how
    its adapter was initialised.

    Args:
        model: of transformers, in any precision, or of PEFT with parameters that are trained. It is changed in place.
        d: number of subspace coordinates.
        allocation: how they are divided between A and B: "uniform", "fixed" or "learned" (docs/design.md).
        ratio: fixed: B's share of the coordinates; learned: where the gates start.
        seed: of the operator, and of the adapter that is added.
        operator: kind of P, see docs/operators.md.
        adapter: that is added: "lora", or "spectral" (cores between the base's singular vectors).
        targets: that it is on: "attention" (query and value) or "linear" (all linear layers).
        target_modules: that LoRA is on, by their names or ends of them as in PEFT (`q_proj`, `mlp.c_fc`); targets if
            there are none.
        rank: on the targets.
        rank_pattern: other ranks of LoRA, by names as in target_modules.
        head_rank: of LoRA on the output head; 0: none.
        lora_alpha: LoRA's scale is lora_alpha / rank.

    Raises:
        ConfigError: values that do not fit the model or each other, or a model that is wrapped already.
    """
    if isinstance(model, SubspaceModule):
        raise ConfigError("this model is in a subspace already: wrap the model that is in it before it was wrapped")
    if adapter not in ("lora", "spectral"):
        raise ConfigError(f"adapter {adapter!r} not recognized: lora or spectral")
    if operator not in OPERATORS:
        raise ConfigError(f"operator {operator!r} not recognized: {', '.join(OPERATORS)}")
    # The section refuses words that it does not know.
    section = Sublora(
        adapter=cast(Adapter, adapter),
        targets=cast(Targets, targets),
        target_modules=[target_modules] if isinstance(target_modules, str) else list(target_modules),
        rank_pattern=dict(rank_pattern or {}),
        spectral_r=max(rank, 1),
        lora_alpha=lora_alpha,
        attention_linear_use_lora=rank > 0,
        attention_linear_lora_r=max(rank, 1),
        linear_head_enable_lora=head_rank > 0,
        linear_head_lora_r=max(head_rank, 1),
        intrinsic_dim=d,
        allocation_mode=cast(AllocationMode, allocation),
        allocation_ratio=ratio,
        intrinsic_mode=operator,
    )
    if d < 1:
        raise ConfigError(f"d is {d}, but must be at least 1")
    keep_numbers(model)
    if _has_adapter(model):
        if section.names_layers:
            raise ConfigError(
                "this model has an adapter of PEFT, which stays on its own layers: leave target_modules and "
                "rank_pattern out, or wrap the base"
            )
        wrapped = create_intrinsic_model(
            model,
            intrinsic_dim=d,
            seed=seed,
            allocation_mode=allocation,
            allocation_ratio=ratio,
            intrinsic_mode=operator,
            gating_init=section.gamma_init,
        )
    else:
        wrapped = _with_adapter(model, section, seed)
    # The base may be sharded or quantized, and stays where it is.
    for name, part in wrapped.named_children():
        if name != "net":
            part.to(wrapped.theta0.device)
    if getattr(model, "is_activation_checkpointing", False):
        # As transformers does it, layers would be computed again without what is trained.
        wrapped.gradient_checkpointing_enable()
    return wrapped.train(model.training)


def _has_adapter(model: nn.Module) -> bool:
    """Whether PEFT has put an adapter on a model: around it, or inside it as transformers does."""
    return hasattr(model, "peft_config")


def _with_adapter(model: nn.Module, section: Sublora, seed: int) -> SubspaceModule:
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            f"{type(model).__name__} is no model of transformers or PEFT: "
            "use sublora.nn.projectors.create_intrinsic_model"
        )
    sha256 = hash_weights(model)
    wrapped = adapt(named(model, sha256), spec_of(section, seed, base=model), gating_init=section.gamma_init)
    wrapped.origin = Origin(section, seed, sha256, model.name_or_path or "")
    return wrapped
