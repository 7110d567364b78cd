"""A step, scoring and a certificate of GPT-2 small and medium on a GPU, beside transformers and PEFT's LoRA.

    python benchmarks/gpu.py [--device cuda] [--rounds 10] [--no-compile] [--toy]

writes benchmarks/results/gpu.json. Weights are random, tokens are GPT-2's, d is 1,000 and 50,000. With --toy everything
is tiny, on the device that is there, and nothing is written.

* step: forward, backward and AdamW on 8 x 1,024 tokens in bfloat16. `sublora`: alpha in LoRA of rank 4 on c_attn and
  the head, with the chunked loss, the fused AdamW and torch.compile that `sublora train` has with
  system.dtype=bfloat16 and system.compile=true. `peft lora`: transformers' model and PEFT's LoRA of the same ranks on
  the same layers, compiled too, with the same AdamW. They take turns.
* scoring: `sublora bounds` on documents of up to 1,024 tokens in float32, and a plain forward pass with logits of the
  same documents, padded.
* certificate: `sublora train` for a few steps, `sublora bounds` and `sublora verify` on the device, and `verify` on the
  processor, which has to find that the claims hold there too.

A device is waited for before a clock is read. Memory is the largest that torch has allocated on it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from sublora.certificate.issue import certify
from sublora.certificate.verify import verify
from sublora.coding.architecture import Architecture
from sublora.coding.spec import ModelSpec
from sublora.config import Config, load_config
from sublora.corpus.assumed import GPT2_EOT, GPT2_VOCAB
from sublora.corpus.corpus import open_corpus
from sublora.corpus.units import sample_units
from sublora.nn.create_model import build_model, merge
from sublora.nn.loss import SubspaceLoss
from sublora.nn.precision import prepare_for_bfloat16
from sublora.scoring.risk import score_units
from sublora.seeds import stream
from sublora.training.loop import create_optimizer, train

RESULT = Path(__file__).resolve().parent / "results" / "gpu.json"
RANK, SCALE, SEED = 4, 32, 0


@dataclass(frozen=True)
class Sizes:
    """Of a model, its batch and its certificate."""

    layers: int
    heads: int
    width: int
    block: int
    batch: int
    dims: tuple[int, ...]
    documents: int
    measured: int


FULL = {
    "gpt2": Sizes(12, 12, 768, 1024, 8, (1_000, 50_000), 5_000, 1_000),
    "gpt2-medium": Sizes(24, 16, 1024, 1024, 8, (1_000, 50_000), 5_000, 1_000),
}
TOY = {"gpt2": Sizes(2, 2, 16, 32, 2, (20, 60), 60, 20)}
Step = Callable[[], None]


def clock(device: torch.device) -> float:
    """Return the time once a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Return how long a call takes on a device."""
    start = clock(device)
    call()
    return clock(device) - start


def memory_mb(device: torch.device) -> float | None:
    """Return the most memory that was allocated on a device since the last call; None on a processor."""
    if device.type != "cuda":
        return None
    most = torch.cuda.max_memory_allocated(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return round(most)


def architecture(sizes: Sizes) -> Architecture:
    """Return the architecture of the base."""
    return Architecture("random", sizes.layers, sizes.heads, sizes.width, sizes.block, GPT2_VOCAB)


def batch(sizes: Sizes, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets."""
    shape = sizes.batch, sizes.block + 1
    tokens = torch.from_numpy(stream(SEED, "gpu", "tokens").integers(0, GPT2_VOCAB, shape)).to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def taken(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, device: torch.device) -> Step:
    """Return a whole training step in bfloat16."""

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def our_step(sizes: Sizes, d: int, device: torch.device, compiled: bool) -> Step:
    """Return the step of `sublora train`."""
    spec = ModelSpec(seed=SEED, intrinsic_dim=d, rank=RANK, head_rank=RANK, lora_alpha=SCALE)
    model = build_model(architecture(sizes), spec)
    prepare_for_bfloat16(model.net, device)
    model = model.to(device)
    loss, (x, y) = SubspaceLoss(model, compile=compiled).train(), batch(sizes, device)
    return taken(lambda: loss(x, y), create_optimizer(model, load_config([])), device)


def peft_step(sizes: Sizes, device: torch.device, compiled: bool) -> Step:
    """Return the step of transformers and PEFT's LoRA."""
    config = GPT2Config(
        n_layer=sizes.layers, n_head=sizes.heads, n_embd=sizes.width, n_positions=sizes.block, vocab_size=GPT2_VOCAB,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    lora = peft.LoraConfig(r=RANK, lora_alpha=SCALE, target_modules=["c_attn", "lm_head"], fan_in_fan_out=True)
    model: nn.Module = peft.get_peft_model(GPT2LMHeadModel(config).train(), lora).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=device.type == "cuda")
    if compiled:
        model = torch.compile(model)  # type: ignore[assignment]
    x, _ = batch(sizes, device)
    return taken(lambda: model(input_ids=x, labels=x).loss, optimizer, device)


def steps(sizes: Sizes, device: torch.device, compiled: bool, rounds: int) -> dict[str, dict[str, float | None]]:
    """Return seconds of a step and its memory by subject, the first three steps not counted."""
    rows: dict[str, dict[str, float | None]] = {}
    subjects = {f"sublora, d = {d:,}": our_step(sizes, d, device, compiled) for d in sizes.dims}
    subjects["peft lora"] = peft_step(sizes, device, compiled)
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for i in range(rounds + 3):
        for name, step in subjects.items():
            memory_mb(device)
            taken_s = seconds(step, device)
            if i >= 3:
                times[name].append(taken_s)
            rows[name] = {"peak_mb": memory_mb(device)}
    return {name: {"seconds": round(statistics.median(times[name]), 5), **row} for name, row in rows.items()}


def write_corpus(folder: Path, sizes: Sizes) -> None:
    """Write a token file of documents of up to a block, with words that come again."""
    rng, parts = stream(SEED, "gpu", "documents"), []
    for _ in range(sizes.documents):
        length = int(rng.integers(sizes.block // 4, sizes.block))
        parts += [rng.integers(0, 40, length), np.array([GPT2_EOT])]
    folder.mkdir(parents=True)
    np.concatenate(parts).astype("<u2").tofile(folder / "train.bin")
    np.concatenate(parts[: 2 * max(2, sizes.documents // 20)]).astype("<u2").tofile(folder / "val.bin")


def scoring(sizes: Sizes, folder: Path, device: torch.device) -> dict[str, float]:
    """Return seconds for the same documents: scored, and in plain forward passes."""
    corpus = open_corpus(folder)
    units = sample_units(corpus, corpus.train, "document_level", sizes.block)
    spec = ModelSpec(seed=SEED, intrinsic_dim=sizes.dims[0], rank=RANK, head_rank=RANK, lora_alpha=SCALE)
    model = merge(build_model(architecture(sizes), spec)).eval().to(device)
    rows = np.arange(min(sizes.measured, len(units)))
    how: dict[str, Any] = {"block_size": sizes.block, "stride": sizes.block, "batch_size": 32}

    @torch.inference_mode()
    def plain() -> None:
        for start in range(0, len(rows), 32):
            texts = [corpus.train.document(int(i))[:-1].astype(np.int64) for i in rows[start : start + 32]]
            padded = np.zeros((len(texts), max(map(len, texts))), np.int64)
            for row, text in zip(padded, texts, strict=True):
                row[: len(text)] = text
            model(input_ids=torch.from_numpy(padded).to(device)).logits.sum().item()

    both = {"sublora": lambda: score_units(model, units, rows, **how), "plain forward": plain}
    for call in both.values():
        call()
    return {name: round(seconds(call, device), 4) for name, call in both.items()}


def configured(sizes: Sizes, d: int, data: Path, run: Path, device: torch.device) -> Config:
    """Return the configuration of a short run that is certified."""
    return load_config([
        f"--data.dataset_dir={data}", f"--login.out_dir={run}", f"--model.best_checkpoint_path={run}",
        f"--model.n_layer={sizes.layers}", f"--model.n_head={sizes.heads}", f"--model.n_embd={sizes.width}",
        f"--data.block_size={sizes.block}", f"--data.batch_size={sizes.batch}", f"--sublora.intrinsic_dim={d}",
        "--training.max_iters=10", "--training.eval_interval=10", "--training.eval_iters=1",
        "--learning_rate.warmup_iters=2", "--optimizer.learning_rate=5e-3", "--bounds.curvature_samples=64",
        f"--bounds.bound_samples={sizes.measured}", f"--system.device={device.type}",
    ])  # fmt: skip


def certificate(sizes: Sizes, d: int, data: Path, device: torch.device) -> dict[str, float]:
    """Return the seconds of every command."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = configured(sizes, d, data, run, device)
        commands: dict[str, Callable[[], Any]] = {
            "train, 10 steps": lambda: train(config),
            "bounds": lambda: certify(config),
            "verify": lambda: verify(run, data, device=device.type),
            "verify on the processor": lambda: verify(run, data),
        }
        return {name: round(seconds(command, device), 3) for name, command in commands.items()}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="of torch")
    parser.add_argument("--rounds", type=int, default=10, help="steps of every subject that count")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, on both sides")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on any device; nothing is written")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: --toy --device cpu tries the script out")
    models: dict[str, Any] = {}
    for name, sizes in (TOY if options.toy else FULL).items():
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            write_corpus(data, sizes)
            models[name] = {
                "step": steps(sizes, device, not options.no_compile, options.rounds),
                "scoring": scoring(sizes, data, device),
                "certificate": {f"d = {d:,}": certificate(sizes, d, data, device) for d in sizes.dims},
            }
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    result = {"command": "python benchmarks/gpu.py", "device": what, "torch": torch.__version__, "models": models}
    if not options.toy:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
