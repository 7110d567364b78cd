"""What a training step of GPT-2 small costs, beside PEFT's LoRA and Uni-LoRA on the same shapes.

    python benchmarks/training.py [--rounds 5] [--threads 1] [--reference CHECKOUT] [--toy]

writes benchmarks/results/training.json. The model is GPT-2 small with 50,257 tokens and random weights, the batch is
2 x 512 tokens, LoRA has rank 4 on c_attn and on the head, d is 1,000. A step is forward, backward and AdamW.

Every subject is a process of its own, since memory is measured as the largest resident set of a process during its
steps (VmHWM, reset before them). The processes take turns, one step at a time, so that whatever else the machine does
falls on all of them. `cpu_s` is processor time, `wall_s` is time on the clock; both are medians over the rounds.

* sublora, sublora without a subspace (d = 0: the LoRA parameters themselves), and sublora in bfloat16
* peft lora: transformers' GPT2LMHeadModel and PEFT's LoRA as they come; bfloat16: under autocast
* peft unilora: PEFT's adapter that shares d coordinates
* floor: the forward pass of the base model and the gradient of its activations, with no adapter at all
* reference: the implementation of Lotfi et al. (2024), from the checkout that is named

--toy: model and batch are tiny, and nothing is written.
"""

import argparse
import json
import os
import platform
import resource
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
    "floor",
    "sublora, bfloat16",
    "peft lora, bfloat16",
)
BATCH, RANK, SEED, SCALE = 2, 4, 0, 32


@dataclass(frozen=True)
class Sizes:
    """Of model and batch; d is the number of coordinates of a subspace."""

    layers: int
    heads: int
    width: int
    block: int
    vocabulary: int
    d: int


FULL, TOY = Sizes(12, 12, 768, 512, 50_257, 1_000), Sizes(2, 2, 32, 16, 300, 20)


def architecture(sizes: Sizes) -> Any:
    """Return the architecture of the base model of `sublora train`."""
    from sublora.coding.architecture import Architecture

    return Architecture("random", sizes.layers, sizes.heads, sizes.width, sizes.block, sizes.vocabulary)


def batch(sizes: Sizes) -> tuple[Any, Any]:
    """Return inputs and targets."""
    import torch

    from sublora.seeds import stream

    tokens = torch.from_numpy(
        stream(SEED, "benchmark", "tokens").integers(0, sizes.vocabulary, (BATCH, sizes.block + 1))
    )
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def optimizer_step(loss: Callable[[], Any], parameters: list[Any], bfloat16: bool) -> Callable[[], None]:
    """Return a whole training step."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours(sizes: Sizes, intrinsic_dim: int, bfloat16: bool) -> Callable[[], None]:
    """Return the step of `sublora train`."""
    import torch

    from sublora.coding.spec import ModelSpec
    from sublora.nn.create_model import build_model
    from sublora.nn.loss import SubspaceLoss
    from sublora.nn.precision import prepare_for_bfloat16

    spec = ModelSpec(seed=SEED, intrinsic_dim=intrinsic_dim, rank=RANK, head_rank=RANK, lora_alpha=SCALE)
    model = build_model(architecture(sizes), spec)
    if bfloat16:
        prepare_for_bfloat16(model.net, torch.device("cpu"))
    loss = SubspaceLoss(model).train()
    x, y = batch(sizes)
    return optimizer_step(lambda: loss(x, y), [model.subspace_params], bfloat16)


def base_model(sizes: Sizes) -> Any:
    """Return transformers' GPT-2 as it comes, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    of_ours: dict[str, Any] = {
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "n_embd": sizes.width,
        "n_positions": sizes.block,
        "vocab_size": sizes.vocabulary,
        "bos_token_id": sizes.vocabulary - 1,
        "eos_token_id": sizes.vocabulary - 1,
    }
    quiet: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(use_cache=False, **of_ours, **quiet)).train()


def peft_step(sizes: Sizes, kind: str, bfloat16: bool) -> Callable[[], None]:
    """Return the step of transformers with an adapter of PEFT."""
    import peft

    targets = ["c_attn", "lm_head"]
    config = (
        peft.LoraConfig(r=RANK, lora_alpha=SCALE, target_modules=targets, fan_in_fan_out=True)
        if kind == "lora"
        else peft.UniLoraConfig(r=RANK, theta_d_length=sizes.d, target_modules=targets, proj_seed=SEED)
    )
    model = peft.get_peft_model(base_model(sizes), config)
    x, _ = batch(sizes)
    trained = [p for p in model.parameters() if p.requires_grad]
    return optimizer_step(lambda: model(input_ids=x, labels=x).loss, trained, bfloat16)


def floor(sizes: Sizes) -> Callable[[], None]:
    """Return the forward pass and the gradient of the activations of the base model that `sublora train` uses."""
    import torch

    from sublora.nn.base import create_base
    from sublora.nn.loss import NextTokenLoss

    model = create_base(architecture(sizes), SEED).requires_grad_(False).train()
    # The only parameter that is left makes every activation need its gradient, at the cost of one vector's.
    first = model.get_parameter("transformer.h.0.ln_1.bias").requires_grad_()
    loss, (x, y) = NextTokenLoss(model), batch(sizes)
    return lambda: torch.autograd.backward(loss(x, y), inputs=[first])


def reference_step(sizes: Sizes, checkout: str) -> Callable[[], None]:
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
    return optimizer_step(lambda: model(x, y)[1], trained, False)


def make(sizes: Sizes, subject: str, reference: str | None) -> Callable[[], None]:
    """Return the step of a subject."""
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
    step = make(sizes, subject, reference)
    # The peak of building the model is not the peak of training it.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        answer = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb()}
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
    words = [sys.executable, "-W", "ignore", __file__, "--threads", str(options.threads)]
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
    parser.add_argument("--rounds", type=int, default=5, help="steps of every subject that count")
    parser.add_argument("--threads", type=int, default=1, help="threads of a step")
    parser.add_argument("--toy", action="store_true", help="tiny model and batch; nothing is written")
    parser.add_argument("--reference", help="checkout of the reference implementation")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(TOY if options.toy else FULL, options.work, options.threads, options.reference)
        return
    rows = measure([*SUBJECTS, *(["reference"] if options.reference else [])], options)
    import peft
    import torch
    import transformers

    beside = next(row for row in rows if row["subject"] == "peft lora")
    for row in rows:
        row["cpu_over_peft_lora"] = round(row["cpu_s"] / beside["cpu_s"], 3)
        row["memory_over_peft_lora"] = round(row["peak_mb"] / beside["peak_mb"], 3)
    result = {
        "command": " ".join(["python benchmarks/training.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
        "batch": [BATCH, FULL.block],
        "threads": options.threads,
        "load": [round(load, 1) for load in os.getloadavg()],
        "rows": rows,
    }
    if not options.toy:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        sys.stdout.write(
            f"{row['subject']:28} {row['wall_s']:7.3f} s wall {row['cpu_s']:7.3f} s cpu {row['peak_mb']:6.0f} MB   "
            f"over peft lora: {row['cpu_over_peft_lora']:.2f} time, {row['memory_over_peft_lora']:.2f} memory\n"
        )


if __name__ == "__main__":
    main()
