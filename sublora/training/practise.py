"""Learning from known documents where the adapters of a base live, and how far they move.

The known documents are cut into consecutive parts. To each part alone, LoRA is fitted for some steps, from the base on:
S small shifts of the kind that the certified documents will ask for. What they moved, dW_1 ... dW_S, gives every linear
layer a frame: the leading left singular vectors of [dW_1 ... dW_S], the right ones of their stack, and for every entry
of the core between them its root mean square over the shifts. It is a prior over adaptations, learned like
meta-learning's (Reptile: Nichol et al. 2018, arXiv:1803.02999) and as an informed subspace (Larsen et al. 2022,
arXiv:2107.05802, train in the span of earlier trajectories); the cores are LoRA-XS's (`sublora.nn.spectral`).

Shape suffixes: S parts, o outputs, i inputs, k rank of LoRA, r rank of the frame.
"""

import dataclasses
import importlib.metadata
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float32, Float64
from torch import nn

import sublora
from sublora import seeds
from sublora.config import Config, LearningRate
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import Corpus, configured_corpus
from sublora.errors import ConfigError, CorpusError, TrainingError
from sublora.files import whole_folder, write_text
from sublora.nn.lora import ADAPTER, add_lora
from sublora.nn.loss import NextTokenLoss, call_on_batch
from sublora.nn.practised import hash_frames, write_frames
from sublora.nn.pretrained import describe_pretrained, load_pretrained
from sublora.nn.quiet import quiet_transformers
from sublora.nn.sources import find_source
from sublora.nn.spectral import Frame
from sublora.progress import progress
from sublora.run_folder import RunFolder
from sublora.training.known import known_documents, known_rows, part_of
from sublora.training.practice_record import PracticeRecord, read_practice, settings_of
from sublora.training.pretrain import BETAS, CLIP, LORA_SCALING
from sublora.training.schedule import learning_rate_factor

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Shift:
    """What adapting to one part moved in one layer: dW = up @ down."""

    up: Float64[np.ndarray, "o k"]
    down: Float64[np.ndarray, "k i"]


def practise(config: Config) -> Path:
    """Give the base that prior.base names a frame, write both into practise.out_dir, and return that folder.

    The folder is one that transformers loads; practice.json says what the frame was learned from and how.

    Raises:
        CorpusError: the corpus has no known documents, or fewer than two for a part.
        ConfigError: no base or folder, a folder that holds something else, or settings that cannot be used.
        TrainingError: the loss is not a number.
    """
    if not config.practise.out_dir or not config.prior.base:
        raise ConfigError("name the base and the folder to write: --prior.base=BASE --practise.out_dir=FOLDER")
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    corpus = configured_corpus(config.data)
    out_dir = Path(config.practise.out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        return _finished(out_dir, config, corpus)
    frames, record = learn_frames(config, corpus)
    with whole_folder(out_dir) as scratch:
        _write(scratch, config.prior.base, frames, record)
    return out_dir


def _finished(out_dir: Path, config: Config, corpus: Corpus) -> Path:
    record = read_practice(out_dir)
    if (
        record is None
        or record.settings != settings_of(config)
        or record.documents_sha256 != known_documents(corpus).content_sha256()
        or record.weights_sha256 != load_pretrained(config.prior.base)[1]
    ):
        raise ConfigError(f"{out_dir} holds something else: choose another practise.out_dir, or remove it")
    log.info("%s holds this base and frame already", out_dir)
    return out_dir


def learn_frames(config: Config, corpus: Corpus) -> tuple[Mapping[str, Frame], PracticeRecord]:
    """Return the frame of every linear layer, and how it came about; see `practise`."""
    p = config.practise
    known = known_documents(corpus)
    chosen = known_rows(corpus, p.documents)
    rows = np.array_split(chosen, p.parts)
    if min(len(part) for part in rows) < 2:
        raise CorpusError(f"{len(chosen)} known documents cannot be cut into {p.parts} parts: lower practise.parts")
    base, weights_sha256 = load_pretrained(config.prior.base, corpus.vocab_size, config.data.block_size)
    practice = _Practice(config, base)
    shifts: dict[str, list[Shift]] = {}
    losses = []
    parts = [Batches(part_of(known, part), config.data.block_size, config.data.batching) for part in rows]
    with progress("practising", p.parts * p.max_iters) as advance:
        for number, batches in enumerate(parts):
            if not batches.enough:
                raise CorpusError("a part has fewer tokens than data.block_size: lower it, or practise.parts")
            steps = practice.fit(number, batches, advance)
            losses.append([steps[0], steps[-1]])
            for name, shift in practice.shifts():
                shifts.setdefault(name, []).append(shift)
    frames = frames_from_shifts(shifts, p.rank)
    record = PracticeRecord(
        settings=settings_of(config),
        documents=len(chosen),
        documents_sha256=known.content_sha256(),
        weights_sha256=weights_sha256,
        frame_sha256=hash_frames(frames),
        losses=losses,
        unit=parts[0].unit,
        threads=torch.get_num_threads(),
        versions={"sublora": sublora.__version__}
        | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "numpy")},
    )
    return frames, record


class _Practice:
    """LoRA on all linear layers of a base, fitted to one part after the other, each time from its start."""

    def __init__(self, config: Config, base: Any) -> None:
        self.config = config
        self.net = add_lora(
            base,
            seed=config.system.seed,
            rank=config.practise.lora_r,
            head_rank=0,
            lora_alpha=LORA_SCALING * config.practise.lora_r,
            targets="linear",
        ).eval()
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.start = {name: p.detach().clone() for name, p in self.trained.items()}
        self.loss = NextTokenLoss(self.net)

    def fit(self, number: int, batches: Batches, advance: Any) -> list[float]:
        """Fit LoRA to a part; return the loss of every step in bits."""
        p, seed = self.config.practise, self.config.system.seed
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.start[name])
        optimizer = torch.optim.AdamW(self.trained.values(), lr=p.learning_rate, betas=BETAS, weight_decay=0.0)
        schedule = LearningRate(warmup_iters=p.warmup_iters)
        losses = []
        for step in range(p.max_iters):
            for group in optimizer.param_groups:
                group["lr"] = p.learning_rate * learning_rate_factor(step, schedule, p.learning_rate, p.max_iters)
            batch = batches.sample(seeds.stream(seed, "practise", number, step), p.batch_size)
            loss = call_on_batch(self.loss, self.net, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained.values(), CLIP)
            losses.append(float(loss.detach()) / math.log(2))
            if not math.isfinite(losses[-1]):
                raise TrainingError(f"the loss is {losses[-1]} on part {number}: lower practise.learning_rate")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            advance(1, f"part {number + 1}, loss {losses[-1]:.3f}")
        return losses

    def shifts(self) -> list[tuple[str, Shift]]:
        """Return what the part moved in every layer, under the names of the base."""
        found = []
        for name, module in self.net.named_modules():
            if hasattr(module, "lora_A") and ADAPTER in module.lora_A:
                adapted: Any = module
                up = adapted.lora_B[ADAPTER].weight.detach().double().numpy() * adapted.scaling[ADAPTER]
                down = adapted.lora_A[ADAPTER].weight.detach().double().numpy()
                found.append((name.removeprefix("base_model.model."), Shift(up.copy(), down.copy())))
        return found


def frames_from_shifts(shifts: Mapping[str, Sequence[Shift]], rank: int) -> dict[str, Frame]:
    """Return the frame of every layer from what was moved there.

    The scales' mean square over all layers is 1, so that learning rates carry over between bases.

    Args:
        shifts: by the names of the layers, one for each part.
        rank: r, of both sides.

    Raises:
        ConfigError: a layer is too small for the rank, the shifts do not span it, or nothing was moved.
    """
    sides, sizes = {}, {}
    for name, parts in shifts.items():
        left = _leading_left(np.hstack([part.up @ _root(part.down @ part.down.T) for part in parts]), rank, name)
        right = _leading_left(np.hstack([part.down.T @ _root(part.up.T @ part.up) for part in parts]), rank, name).T
        cores = np.stack([(left.T @ part.up) @ (part.down @ right.T) for part in parts])
        sides[name], sizes[name] = (left, right), np.sqrt(np.mean(cores**2, axis=0))
    total = math.sqrt(np.mean([np.mean(size**2) for size in sizes.values()]))
    if not total > 0:
        raise ConfigError("practising moved nothing: raise practise.learning_rate")
    return {name: Frame(*map(_single, (*sides[name], sizes[name] / total))) for name in sides}


def _root(gram: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k k"]:
    """The symmetric square root of a positive matrix."""
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _leading_left(matrix: Float64[np.ndarray, "o m"], rank: int, name: str) -> Float64[np.ndarray, "o r"]:
    """The leading left singular vectors; the largest entry of each is positive."""
    if rank > min(matrix.shape):
        raise ConfigError(f"the shifts of {name} have at most {min(matrix.shape)} directions: lower practise.rank")
    vectors = np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]
    return vectors * np.where(vectors[np.abs(vectors).argmax(0), np.arange(rank)] < 0, -1.0, 1.0)


def _single(values: Float64[np.ndarray, "m n"]) -> Float32[np.ndarray, "m n"]:
    return np.ascontiguousarray(values, np.float32)


def _write(folder: Path, source: str, frames: Mapping[str, Frame], record: PracticeRecord) -> None:
    model, sha256 = load_pretrained(source)
    facts = describe_pretrained(source, sha256, model.num_parameters())
    with quiet_transformers():
        model.save_pretrained(folder)
    card = {"model_name": facts.name} | ({"license": facts.licence} if facts.licence else {})
    names = RunFolder(folder)
    write_text(folder / "README.md", f"---\n{yaml.safe_dump(card)}---\n\nSee {names.practice.name}.\n")
    found = find_source(source)
    if found.kind == "folder" and (fitted := RunFolder(found.path).pretrain).is_file():
        shutil.copyfile(fitted, names.pretrain)
    write_frames(folder, frames)
    write_text(names.practice, json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False) + "\n")
