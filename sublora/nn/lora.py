"""LoRA of PEFT on a causal language model, with a forward pass of fewer operations."""

import logging
import math
import warnings
from typing import Any, cast

from jaxtyping import Float
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sublora import seeds
from sublora.errors import ConfigError
from sublora.nn.base import fill

log = logging.getLogger(__name__)

# The attention projections that LoRA adapts, by the names that architectures give them; the first that exist are taken.
ATTENTION_TARGETS = (["c_attn"], ["q_proj", "v_proj"], ["query_key_value"], ["query", "value"])
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
        low = self.lora_A[ADAPTER](self.lora_dropout[ADAPTER](rows))
        out = self.base_layer(rows)
        # Not always a parameter: a subspace puts a tensor in its place.
        up = cast(Tensor, self.lora_B[ADAPTER].weight).t()
        return out.addmm_(low.to(out.dtype), up.to(out.dtype), alpha=self.scaling[ADAPTER]).view(*x.shape[:-1], -1)


def add_lora(
    model: PreTrainedModel, *, seed: int, attention_r: int, head_r: int, lora_alpha: int, lora_dropout: float = 0.0
) -> nn.Module:
    """Add PEFT LoRA: A uniform in +-1/sqrt(d_in) from the named seed, B zero (Hu et al. 2021; PEFT's initialisation).

    Args:
        attention_r, head_r: ranks on the attention projections and on the output head; 0 leaves them as they are.
        lora_alpha: the scaling is lora_alpha / r.

    Raises:
        ConfigError: both ranks are 0, or the attention projections are not found.
    """
    names = {name for name, _ in model.named_modules()}
    ranks: dict[str, int] = {}
    if attention_r:
        found = next((t for t in ATTENTION_TARGETS if any(n.endswith(f".{t[0]}") for n in names)), None)
        if found is None:
            raise ConfigError(
                f"no attention projections found in {type(model).__name__}: set sublora.attention_linear_use_lora=false"
            )
        ranks |= dict.fromkeys(found, attention_r)
    if head_r:
        head = model.get_output_embeddings()
        ranks[next(name for name, module in model.named_modules() if module is head)] = head_r
    if not ranks:
        raise ConfigError(
            "LoRA is on nothing: enable sublora.attention_linear_use_lora or sublora.linear_head_enable_lora"
        )
    config = LoraConfig(
        r=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=dict.fromkeys(ranks, lora_alpha),
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(ranks),
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
