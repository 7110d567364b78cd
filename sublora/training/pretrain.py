"""Fitting a base to the documents that are known beforehand, so that a message begins from what they teach.

The same numbers after any interruption, and the same bits again on one thread of the same machine: only this makes the
weights something that anyone can make again.
"""

import dataclasses
import importlib.metadata
import json
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

import sublora
from sublora import seeds
from sublora.config import Config, LearningRate
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import Corpus, Split, configured_corpus
from sublora.draws import shuffled
from sublora.errors import ConfigError, CorpusError, TrainingError
from sublora.files import remove_unfinished, write_bytes, write_text
from sublora.nn.base import create_base, describe_base
from sublora.nn.checkpointing import enable_gradient_checkpointing
from sublora.nn.create_model import architecture_from_config, merge
from sublora.nn.lora import add_lora
from sublora.nn.loss import NextTokenLoss, call_on_batch
from sublora.nn.precision import resolve_dtype
from sublora.nn.pretrained import load_pretrained, source_sha256
from sublora.nn.quiet import quiet_transformers
from sublora.progress import progress
from sublora.run_folder import RunFolder
from sublora.training.fitted_base import FittedBase, read_fitted_base, settings_of
from sublora.training.known import known_documents, known_rows, part_of
from sublora.training.schedule import learning_rate_factor

log = logging.getLogger(__name__)

# One known document in so many is held back, to choose the step whose weights are kept.
HELD_BACK = 20
# Batches of an evaluation.
EVAL_BATCHES = 16
# Usual values of language modelling, as in nanoGPT.
BETAS, CLIP = (0.9, 0.95), 1.0
# LoRA is scaled by lora_alpha / r.
LORA_SCALING = 2


def pretrain(config: Config) -> Path:
    """Fit a base to the corpus's known documents as configured, and return its folder.

    It begins with the base that prior.base names, or with the random one of the section model. The folder is one that
    transformers loads, and pretrain.json says what it was fitted to and how. A fitting that was interrupted goes on
    with the numbers it would have had; one that is finished is not repeated.

    Raises:
        CorpusError: the corpus has no known documents, or too few.
        ConfigError: no pretrain.out_dir, one that holds another base, or settings that cannot be used.
        TrainingError: the loss is not a number, a checkpoint is damaged, or the disk is full.
    """
    if not config.pretrain.out_dir:
        raise ConfigError("say where the base is written to: --pretrain.out_dir=FOLDER")
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    corpus = configured_corpus(config.data)
    out_dir = Path(config.pretrain.out_dir)
    return fit_base(config, corpus, out_dir)


def fit_base(config: Config, corpus: Corpus, out_dir: Path) -> Path:
    """Fit a base to the known documents of an opened corpus; see `pretrain`.

    Args:
        config: sections data, model, prior, pretrain and system are read.
        corpus: whose known documents are read.
        out_dir: folder of the base.
    """
    known = known_documents(corpus)
    documents_sha256 = known.content_sha256()
    if _finished(out_dir, config, documents_sha256):
        log.info("%s holds this base already", out_dir)
        return out_dir
    run = _Pretraining(config, corpus, known, documents_sha256, out_dir)
    try:
        run.loop()
        run.write()
    except OSError as error:
        raise TrainingError(
            f"cannot write to {out_dir} at step {run.iteration}: {error.strerror or error}; make room and start the "
            "same command again"
        ) from error
    return out_dir


def _finished(out_dir: Path, config: Config, documents_sha256: str) -> bool:
    """Whether a folder holds this very base.

    Raises:
        ConfigError: it holds another one.
    """
    folder = RunFolder(out_dir)
    another = f"{out_dir} holds another base: choose another pretrain.out_dir, or remove it"
    record = read_fitted_base(out_dir)
    if record is not None:
        base = config.prior.base
        same_start = source_sha256(base) == record.start_sha256 if base else record.start_is_random
        if (record.settings, record.documents_sha256) != (settings_of(config), documents_sha256) or not same_start:
            raise ConfigError(another)
        return True
    if (out_dir / "config.json").exists() and not folder.pretraining.exists():
        raise ConfigError(another)
    return False


def divide(n: int) -> tuple[Int64[np.ndarray, " fitted"], Int64[np.ndarray, " held_back"]]:
    """Return which of n known documents a base is fitted to, and which are held back: a twentieth, at least one."""
    order = shuffled("pretrain", b"", n)
    held_back = max(1, n // HELD_BACK)
    return np.sort(order[held_back:]), np.sort(order[:held_back])


class _Pretraining:
    """One base on its way: its model, optimizers and place in the schedule."""

    def __init__(self, config: Config, corpus: Corpus, known: Split, documents_sha256: str, out_dir: Path) -> None:
        self.config, self.corpus, self.folder = config, corpus, RunFolder(out_dir)
        self.known, self.documents_sha256 = known, documents_sha256
        rows = known_rows(corpus, config.pretrain.documents)
        self.documents = len(rows)
        self.fitted, self.held_back = (self._batches(rows[part]) for part in divide(self.documents))
        architecture = architecture_from_config(config, corpus.vocab_size)
        base = create_base(architecture, config.system.seed, config.prior.base, config.model.dropout)
        self.start = describe_base(config.prior.base, base)
        self.device = _device(config.system.device)
        bfloat16 = resolve_dtype(config.system.dtype, self.device) == "bfloat16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, bfloat16)
        self.net = self._adapted(base).to(self.device)
        if config.system.gradient_checkpointing:
            enable_gradient_checkpointing(self.net)
        self.trained = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.optimizers = self._optimizers(base)
        self.loss = NextTokenLoss(self.net)
        self.iteration = 0
        self.evaluations: list[list[float]] = []
        self._restore()

    def _batches(self, rows: Int64[np.ndarray, " n"]) -> Batches:
        d = self.config.data
        perturb = d.perturb_word_order_window_size
        batches = Batches(part_of(self.known, rows), d.block_size, d.batching, perturb_window=perturb)
        if not batches.enough:
            raise CorpusError(
                f"the documents known beforehand have {len(self.known.tokens)} tokens, and the {len(rows)} of one part "
                f"fewer than data.block_size={d.block_size}: lower it, or set data.batching=documents"
            )
        return batches

    def _adapted(self, base: Any) -> nn.Module:
        p = self.config.pretrain
        if p.trains == "all":
            return base
        # Not on the head: a head that is tied to the embedding stays so, and the folder holds the base's own sizes.
        return add_lora(
            base,
            seed=self.config.system.seed,
            rank=p.lora_r,
            head_rank=0,
            lora_alpha=LORA_SCALING * p.lora_r,
            targets="linear",
        )

    def _optimizers(self, base: nn.Module) -> list[torch.optim.Optimizer]:
        p = self.config.pretrain
        outside = _outside_layers(base)
        matrices = [w for w in self.trained.values() if w.ndim >= 2]
        inside = [w for w in matrices if all(w is not v for v in outside)] if p.optimizer == "muon" else []
        rest = [w for w in matrices if all(w is not v for v in inside)]
        vectors = [w for w in self.trained.values() if w.ndim < 2]
        groups = [{"params": rest, "weight_decay": p.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        out: list[torch.optim.Optimizer] = []
        if rest or vectors:
            out.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=p.learning_rate, betas=BETAS))
        if inside:
            # Scaled so that its steps are as large as AdamW's (Liu et al. 2025, arXiv:2502.16982): one rate for both.
            out.append(
                torch.optim.Muon(
                    inside, lr=p.learning_rate, weight_decay=p.weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        return out

    def loop(self) -> None:
        """Run to the last step, evaluating and saving on the way."""
        p = self.config.pretrain
        with progress("fitting the base", p.max_iters, done=self.iteration) as advance:
            while True:
                due = self.iteration % p.eval_interval == 0 or self.iteration >= p.max_iters
                if due and (not self.evaluations or self.evaluations[-1][0] != self.iteration):
                    self._evaluate()
                if self.iteration >= p.max_iters:
                    break
                advance(1, f"loss {self._step():.3f}")

    def _step(self) -> float:
        p, seed = self.config.pretrain, self.config.system.seed
        schedule = LearningRate(warmup_iters=p.warmup_iters)
        rate = p.learning_rate * learning_rate_factor(self.iteration, schedule, p.learning_rate, p.max_iters)
        for group in self._groups():
            group["lr"] = rate
        # Dropout alone reads torch's generator: every step has its own seed, so that a resumed run agrees.
        torch.manual_seed(seeds.key(seed, "pretrain", "dropout", self.iteration) % 2**63)
        self.net.train()
        batch = self.fitted.sample(seeds.stream(seed, "pretrain", self.iteration), p.batch_size)
        with self.autocast:
            loss = call_on_batch(self.loss, self.net, batch)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), CLIP))
        value = float(loss.detach())
        if not math.isfinite(value) or not math.isfinite(norm):
            raise TrainingError(
                f"the loss is {value} (gradient norm {norm}) at step {self.iteration}: lower pretrain.learning_rate "
                f"({p.learning_rate:g}), and remove {self.folder.pretraining}"
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.iteration += 1
        return value / math.log(2)

    def _groups(self) -> Iterable[dict[str, Any]]:
        return (group for optimizer in self.optimizers for group in optimizer.param_groups)

    def _evaluate(self) -> None:
        """Measure the documents held back on fixed batches, and save."""
        self.net.eval()
        p, seed = self.config.pretrain, self.config.system.seed
        losses = []
        with torch.no_grad(), self.autocast:
            for i in range(EVAL_BATCHES):
                batch = self.held_back.sample(seeds.stream(seed, "pretrain", "eval", i), p.batch_size)
                losses.append(float(call_on_batch(self.loss, self.net, batch)) / math.log(2))
        value = float(np.mean(losses))
        log.info("step %d: %.4f %s on known documents held back", self.iteration, value, self.held_back.unit)
        improved = not self.evaluations or value < min(loss for _, loss in self.evaluations)
        self.evaluations.append([self.iteration, value])
        if improved:
            self._save(self._weights(), "best")
        self._save(self._weights() | self._moments(), "last")

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu().contiguous() for name, p in self.trained.items()}

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"optimizer.{name}.{key}": value.detach().cpu().contiguous()
            for optimizer in self.optimizers
            for name, parameter in self.trained.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    @property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in."""
        return {
            "settings": settings_of(self.config),
            "documents": self.documents_sha256,
            "start": self.start.sha256,
        }

    def _save(self, tensors: dict[str, Tensor], name: str) -> None:
        state = {"iteration": self.iteration, "evaluations": self.evaluations, "identity": self._identity}
        write_bytes(self._path(name), save(tensors, {"state": json.dumps(state)}))

    def _path(self, name: str) -> Path:
        return self.folder.pretraining / f"{name}.safetensors"

    def _load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        path = self._path(name)
        damaged = f"the checkpoint {path} is damaged: remove {self.folder.pretraining} to begin again"
        try:
            data = path.read_bytes()
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            state = json.loads(header["__metadata__"]["state"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(damaged) from error
        if state["identity"] != self._identity:
            raise ConfigError(
                f"{self.folder.path} holds an unfinished base of other settings, documents or start: choose another "
                "pretrain.out_dir, or remove it"
            )
        if any(name not in tensors for name in self.trained):
            raise TrainingError(damaged)
        return tensors, state

    def _set(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[name])

    def _restore(self) -> None:
        """Go on where the last checkpoint was written, if there is one."""
        if not self._path("last").exists():
            return
        remove_unfinished(self.folder.pretraining)
        tensors, state = self._load("last")
        self._set(tensors)
        self.iteration, self.evaluations = state["iteration"], state["evaluations"]
        for optimizer in self.optimizers:
            own = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in self.trained.items():
                prefix = f"optimizer.{name}."
                moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                if id(parameter) in own and moments:
                    optimizer.state[parameter] = {
                        k: v if k == "step" else v.to(self.device) for k, v in moments.items()
                    }

    def write(self) -> None:
        """Write the best weights as a folder that transformers loads, what they are, and remove the checkpoints."""
        tensors, state = self._load("best")
        self._set(tensors)
        out_dir, folder = self.folder.path, self.folder
        with quiet_transformers():
            merge(self.net.cpu()).save_pretrained(out_dir)
        record = FittedBase(
            settings=settings_of(self.config),
            documents=self.documents,
            documents_sha256=self.documents_sha256,
            start=self.start.name,
            start_is_random=not self.config.prior.base,
            start_sha256=self.start.sha256,
            # Of the weights as they are read back.
            sha256=load_pretrained(str(out_dir))[1],
            steps=state["iteration"],
            best_loss=min(loss for _, loss in self.evaluations),
            unit=self.held_back.unit,
            evaluations=self.evaluations,
            threads=torch.get_num_threads(),
            versions={"sublora": sublora.__version__}
            | {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "numpy")},
        )
        card = {"model_name": f"{self._name()} fitted to {self.documents:,} known documents"}
        if self.start.licence:
            card["license"] = self.start.licence
        write_text(out_dir / "README.md", f"---\n{yaml.safe_dump(card)}---\n\nSee {folder.pretrain.name}.\n")
        write_text(folder.pretrain, json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False) + "\n")
        shutil.rmtree(folder.pretraining)
        log.info(
            "%s: %.4f %s at step %d, from %.4f", out_dir, record.best_loss, record.unit, record.steps,
            self.evaluations[0][1],
        )  # fmt: skip

    def _name(self) -> str:
        if self.config.prior.base:
            return self.start.name
        return f"{self.config.model.family} of {self.start.parameters:,} random weights"


def _outside_layers(base: Any) -> list[nn.Parameter]:
    """The embeddings and the output head: matrices whose rows belong to tokens or positions."""
    modules = [m for m in base.modules() if isinstance(m, nn.Embedding)] + [base.get_output_embeddings()]
    return [p for module in modules for p in module.parameters()]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
