"""LoRA of PEFT on a causal language model, with a forward pass of fewer operations."""

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sublora import seeds
from sublora.errors import ConfigError
from sublora.nn.places import ranks_by_layer
from sublora.nn.targets import find_targets
from sublora.nn.weights import fill

log = logging.getLogger(__name__)

ADAPTER = "default"


class LoraLinear(lora.Linear):
    """PEFT's LoRA layer for the one adapter there is: W x + (alpha / r) B A x (Hu et al. 2021, eq. 3).

    PEFT multiplies by the scale and adds in passes of their own over all outputs; here the second product adds to the
    first as it is computed.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        transposed = isinstance(base_layer, Conv1D)
        config.fan_in_fan_out = transposed
        super().__init__(base_layer, adapter_name, config, is_target_conv_1d_layer=transposed, **kwargs)

    def forward(self, x: Float[Tensor, "*batch n_in"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch n_out"]:
        """Return the adapted layer's output."""
        if self.merged or self.disable_adapters:
            return super().forward(x, *args, **kwargs)
        rows = x.flatten(0, -2)
        low = self.lora_A[ADAPTER](self.lora_dropout[ADAPTER](self._as_adapter(rows)))
        out = self.base_layer(rows)
        # Not always a parameter: a subspace puts a tensor in its place.
        up = cast(Tensor, self.lora_B[ADAPTER].weight).t()
        return out.addmm_(low.to(out.dtype), up.to(out.dtype), alpha=self.scaling[ADAPTER]).view(*x.shape[:-1], -1)

    def _as_adapter(self, rows: Float[Tensor, "n n_in"]) -> Float[Tensor, "n n_in"]:
        """The inputs in the adapter's precision: float32 on a base of bfloat16 too. Autocast sees to its own."""
        if torch.is_autocast_enabled(rows.device.type):
            return rows
        return rows.to(cast(Tensor, self.lora_A[ADAPTER].weight).dtype)


def add_lora(
    model: PreTrainedModel,
    *,
    seed: int,
    rank: int,
    head_rank: int,
    lora_alpha: int,
    targets: str = "attention",
    kinds: int = 0,
    ranks: Sequence[int] = (),
    lora_dropout: float = 0.0,
) -> nn.Module:
    """Add PEFT LoRA: A uniform in +-1/sqrt(d_in) from the named seed, B zero (Hu et al. 2021; PEFT's initialisation).

    Args:
        model: is changed in place.
        seed: root of the stream that A is drawn from.
        rank: on the targets; 0 leaves them as they are.
        head_rank: on the output head; 0 leaves it as it is.
        kinds: of linear layers, instead of the targets, see `ranks_by_layer`; 0: none.
        ranks: of these kinds.
        lora_alpha: the scaling is lora_alpha / r.
        targets: "attention" or "linear", see `find_targets`.
        lora_dropout: share of the adapter's inputs that is dropped while training.

    Raises:
        ConfigError: both ranks are 0, or the targets or the head are not found.
        MessageError: as `ranks_by_layer`.
    """
    found: dict[str, int] = {}
    if kinds:
        found |= ranks_by_layer(model, kinds, ranks)
    elif rank:
        # A sorted list: PEFT's layers come in the model's order, and the configuration must be repeatable.
        found |= dict.fromkeys(sorted({name.rpartition(".")[2] for name, _ in find_targets(model, targets)}), rank)
    if head_rank:
        head = model.get_output_embeddings()
        if head is None:
            raise ConfigError(f"{type(model).__name__} has no output head: take a causal language model")
        found[next(name for name, module in model.named_modules() if module is head)] = head_rank
    if not found:
        raise ConfigError(
            "LoRA is on nothing: enable sublora.attention_linear_use_lora or sublora.linear_head_enable_lora"
        )
    config = LoraConfig(
        r=max(found.values()),
        rank_pattern=found,
        alpha_pattern=dict.fromkeys(found, lora_alpha),
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(found),
    )
    config._register_custom_module({nn.Linear: LoraLinear, Conv1D: LoraLinear})
    with warnings.catch_warnings():
        # GPT-2's head is tied to its embedding; `merge` unties it first.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name:
            limit = 1 / math.sqrt(parameter.shape[1])
            fill(parameter, seeds.stream(seed, "lora", name).uniform(-limit, limit, parameter.shape).astype("float32"))
    return adapted
