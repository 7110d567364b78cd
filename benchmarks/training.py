"""What a training step costs, beside PEFT's LoRA, Uni-LoRA, TinyLoRA and VeRA on the same shapes.

    python benchmarks/training.py [--model smollm2] [--subjects NAME ...] [--rounds 5] [--threads 1]
        [--reference CHECKOUT] [--toy] [--out FILE]

writes benchmarks/results/training.json; training_gpt2_adapters.json has some of the subjects. The model is GPT-2 small
with 50,257 tokens, or has the sizes of SmolLM2-135M; its weights are random, which a step's time does not depend on.
The batch is 2 x 512 tokens, LoRA has rank 4 on c_attn (or q_proj and v_proj) and on the head, d is 1,000. A step is
forward, backward and AdamW.

Every subject is a process of its own, since memory is measured as the largest resident set of a process during its
steps (VmHWM, reset before them). The processes take turns, one step at a time, so that whatever else the machine does
falls on all of them. `cpu_s` is processor time, `wall_s` is time on the clock; both are medians over the rounds.

* sublora, sublora without a subspace (d = 0: the LoRA parameters themselves), and sublora in bfloat16
* peft lora: transformers' GPT2LMHeadModel and PEFT's LoRA as they come; bfloat16: under autocast
* peft unilora: PEFT's adapter that shares d coordinates
* peft tinylora: as many values for each of these layers as make up d, up to rounding
* peft vera: a layer has as many values as outputs and ranks, so with d of them it is on one layer: the output
  projection of the first layer's attention, so that the gradient goes all the way back
* floor: the forward pass of the base model and the gradient of its activations, with no adapter at all
* reference: the implementation of Lotfi et al. (2024), from the checkout that is named

`trained` is how many numbers a subject trains. --toy: model and batch are tiny, and nothing is written.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "training.json"
SUBJECTS = (
    "sublora",
    "sublora without a subspace",
    "peft lora",
    "peft unilora",
    "peft tinylora",
    "peft vera",
    "floor",
    "sublora, bfloat16",
    "peft lora, bfloat16",
)
BATCH, RANK, SEED, SCALE = 2, 4, 0, 32


@dataclass(frozen=True)
class Sizes:
    """Of model and batch; d is the number of coordinates of a subspace."""

    family: str
    layers: int
    heads: int
    width: int
    block: int
    vocabulary: int
    d: int
    key_value_heads: int = 0
    feed_forward: int = 0

    @property
    def attention(self) -> list[str]:
        """The names of the layers that read queries and values."""
        return ["c_attn"] if self.family == "gpt2" else ["q_proj", "v_proj"]


FULL = {
    "gpt2": Sizes("gpt2", 12, 12, 768, 512, 50_257, 1_000),
    "smollm2": Sizes("llama", 30, 9, 576, 512, 49_152, 1_000, key_value_heads=3, feed_forward=1_536),
}
TOY = {
    "gpt2": Sizes("gpt2", 2, 2, 32, 16, 300, 36),
    "smollm2": Sizes("llama", 2, 2, 32, 16, 300, 36, key_value_heads=1, feed_forward=48),
}


@dataclass(frozen=True)
class Subject:
    """What is measured: a step, and how many numbers it trains."""

    step: Callable[[], None]
    trained: int


def batch(sizes: Sizes) -> tuple[Any, Any]:
    """Return inputs and targets."""
    import torch

    from sublora.seeds import stream

    tokens = torch.from_numpy(
        stream(SEED, "benchmark", "tokens").integers(0, sizes.vocabulary, (BATCH, sizes.block + 1))
    )
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def optimizer_step(loss: Callable[[], Any], parameters: list[Any], bfloat16: bool = False) -> Subject:
    """Return a whole training step."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Subject(step, sum(p.numel() for p in parameters))


def our_base(sizes: Sizes) -> Any:
    """Return the base that `sublora train` adapts."""
    from sublora.coding.architecture import Architecture
    from sublora.nn.base import create_base, named
    from sublora.nn.weights import hash_weights

    if sizes.family == "gpt2":
        own = Architecture("random", sizes.layers, sizes.heads, sizes.width, sizes.block, sizes.vocabulary)
        return create_base(own, SEED)
    # A random base of ours has as many heads for keys as for queries; a pretrained one has its own sizes.
    base = base_model(sizes)
    return named(base, hash_weights(base))


def ours(sizes: Sizes, intrinsic_dim: int, bfloat16: bool) -> Subject:
    """Return the step of `sublora train`."""
    import torch

    from sublora.coding.spec import ModelSpec
    from sublora.nn.create_model import adapt
    from sublora.nn.loss import SubspaceLoss
    from sublora.nn.precision import prepare_for_bfloat16

    spec = ModelSpec(seed=SEED, intrinsic_dim=intrinsic_dim, rank=RANK, head_rank=RANK, lora_alpha=SCALE)
    model = adapt(our_base(sizes), spec)
    if bfloat16:
        prepare_for_bfloat16(model.net, torch.device("cpu"))
    loss = SubspaceLoss(model).train()
    x, y = batch(sizes)
    return optimizer_step(lambda: loss(x, y), [model.subspace_params], bfloat16)


def base_model(sizes: Sizes) -> Any:
    """Return transformers' model as it comes, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    last = sizes.vocabulary - 1
    shared: dict[str, Any] = {
        "vocab_size": sizes.vocabulary, "bos_token_id": last, "eos_token_id": last, "use_cache": False,
    }  # fmt: skip
    if sizes.family == "gpt2":
        own: dict[str, Any] = {
            "n_layer": sizes.layers, "n_head": sizes.heads, "n_embd": sizes.width, "n_positions": sizes.block,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        }  # fmt: skip
        return GPT2LMHeadModel(GPT2Config(**shared, **own)).train()
    own = {
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "hidden_size": sizes.width,
        "num_key_value_heads": sizes.key_value_heads, "intermediate_size": sizes.feed_forward,
        "max_position_embeddings": sizes.block, "tie_word_embeddings": True,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**shared, **own)).train()


def peft_config(sizes: Sizes, kind: str) -> Any:
    """Return the configuration of one of PEFT's adapters; all but LoRA's train d numbers, up to rounding."""
    import peft

    targets, transposed = [*sizes.attention, "lm_head"], sizes.family == "gpt2"
    if kind == "lora":
        return peft.LoraConfig(r=RANK, lora_alpha=SCALE, target_modules=targets, fan_in_fan_out=transposed)
    if kind == "unilora":
        return peft.UniLoraConfig(r=RANK, theta_d_length=sizes.d, target_modules=targets, proj_seed=SEED)
    if kind == "tinylora":
        each = round(sizes.d / (sizes.layers * len(sizes.attention) + 1))
        return peft.TinyLoraConfig(u=each, target_modules=targets, fan_in_fan_out=transposed)
    output = "h.0.attn.c_proj" if sizes.family == "gpt2" else "layers.0.self_attn.o_proj"
    return peft.VeraConfig(r=sizes.d - sizes.width, target_modules=[output], fan_in_fan_out=transposed)


def peft_step(sizes: Sizes, kind: str, bfloat16: bool) -> Subject:
    """Return the step of transformers with an adapter of PEFT."""
    import peft

    model = peft.get_peft_model(base_model(sizes), peft_config(sizes, kind))
    x, _ = batch(sizes)
    trained = [p for p in model.parameters() if p.requires_grad]
    return optimizer_step(lambda: model(input_ids=x, labels=x).loss, trained, bfloat16)


def floor(sizes: Sizes) -> Subject:
    """Return the forward pass and the gradient of the activations of the base model that `sublora train` uses."""
    import torch

    from sublora.nn.loss import NextTokenLoss

    model = our_base(sizes).requires_grad_(False).train()
    # The only parameter that is left makes every activation need its gradient, at the cost of one vector's.
    name = "transformer.h.0.ln_1.bias" if sizes.family == "gpt2" else "model.layers.0.input_layernorm.weight"
    first = model.get_parameter(name).requires_grad_()
    loss, (x, y) = NextTokenLoss(model), batch(sizes)
    return Subject(lambda: torch.autograd.backward(loss(x, y), inputs=[first]), 0)


def reference_step(sizes: Sizes, checkout: str) -> Subject:
    """Return the step of a checkout of the reference implementation (github.com/Sanaelotfi/sublora-bounds-for-llms)."""
    import importlib
    import tempfile

    sys.path.insert(0, checkout)
    # Of the checkout, which has a package of the same name.
    there: Any = importlib.import_module("sublora.nn.create_model")

    with tempfile.TemporaryDirectory() as folder:
        model = there.get_model(
            n_layer=sizes.layers, n_head=sizes.heads, n_embd=sizes.width, bias=False,
            dropout=0.0, use_mergedlinear=False, apply_rope=False,
            use_mistral_sliding_window=False, use_lora=True, lora_alpha=SCALE, lora_dropout=0.0,
            attention_linear_use_lora=True, attention_linear_lora_r=RANK, linear_head_lora_r=RANK,
            linear_head_enable_lora=True, intrinsic_dim=sizes.d, block_size=sizes.block, data_dir=folder,
            out_dir=folder, init_from="scratch", master_process=False, device="cpu", best_checkpoint_path=folder,
        )[0].train()  # fmt: skip
    x, y = batch(sizes)
    trained = [p for p in model.parameters() if p.requires_grad]
    return optimizer_step(lambda: model(x, y)[1], trained)


def make(sizes: Sizes, subject: str, reference: str | None) -> Subject:
    """Return what a subject's name stands for."""
    kind, _, precision = subject.partition(", ")
    bfloat16 = precision == "bfloat16"
    if kind == "reference":
        assert reference is not None
        return reference_step(sizes, reference)
    if kind == "floor":
        return floor(sizes)
    if kind.startswith("peft"):
        return peft_step(sizes, kind.removeprefix("peft "), bfloat16)
    return ours(sizes, 0 if kind.endswith("without a subspace") else sizes.d, bfloat16)


def work(sizes: Sizes, subject: str, threads: int, reference: str | None) -> None:
    """Take a step for every line on standard input, and answer with seconds and the largest resident set so far."""
    import torch

    torch.set_num_threads(threads)
    made = make(sizes, subject, reference)
    # The peak of building the model is not the peak of training it.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        made.step()
        answer = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb()}
        answer["trained"] = made.trained
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def peak_mb() -> float:
    """Return the largest resident set of this process in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(subjects: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the subjects take turns; return their medians, the first step not counted."""
    words = [sys.executable, "-W", "ignore", __file__, "--model", options.model, "--threads", str(options.threads)]
    if options.toy:
        words.append("--toy")
    if options.reference:
        words += ["--reference", options.reference]
    workers = [
        subprocess.Popen([*words, "--work", s], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for s in subjects
    ]
    answers: list[list[dict[str, float]]] = [[] for _ in subjects]
    for _ in range(options.rounds + 1):
        for worker, seen in zip(workers, answers, strict=True):
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            seen.append(json.loads(worker.stdout.readline()))
    for worker in workers:
        worker.communicate()
    return [
        {
            "subject": subject,
            "trained": seen[-1]["trained"],
            "wall_s": round(statistics.median(a["wall_s"] for a in seen[1:]), 3),
            "cpu_s": round(statistics.median(a["cpu_s"] for a in seen[1:]), 3),
            "min_cpu_s": round(min(a["cpu_s"] for a in seen[1:]), 3),
            "peak_mb": round(seen[-1]["peak_mb"]),
        }
        for subject, seen in zip(subjects, answers, strict=True)
    ]


def main() -> None:
    """Measure, write and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=FULL, default="gpt2")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, help="peft lora among them")
    parser.add_argument("--rounds", type=int, default=5, help="steps of every subject that count")
    parser.add_argument("--threads", type=int, default=1, help="threads of a step")
    parser.add_argument("--toy", action="store_true", help="tiny model and batch; nothing is written")
    parser.add_argument("--reference", help="checkout of the reference implementation")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work((TOY if options.toy else FULL)[options.model], options.work, options.threads, options.reference)
        return
    rows = measure([*options.subjects, *(["reference"] if options.reference else [])], options)
    import peft
    import torch
    import transformers

    beside = next(row for row in rows if row["subject"] == "peft lora")
    for row in rows:
        row["cpu_over_peft_lora"] = round(row["cpu_s"] / beside["cpu_s"], 3)
        row["memory_over_peft_lora"] = round(row["peak_mb"] / beside["peak_mb"], 3)
    result = {
        "command": shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
        "batch": [BATCH, FULL[options.model].block],
        "threads": options.threads,
        "load": [round(load, 1) for load in os.getloadavg()],
        "rows": rows,
    }
    if not options.toy:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        sys.stdout.write(
            f"{row['subject']:28} {row['wall_s']:7.3f} s wall {row['cpu_s']:7.3f} s cpu {row['peak_mb']:6.0f} MB   "
            f"over peft lora: {row['cpu_over_peft_lora']:.2f} time, {row['memory_over_peft_lora']:.2f} memory\n"
        )


if __name__ == "__main__":
    main()
