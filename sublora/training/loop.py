"""The training loop: AdamW on alpha (and the gates), the same numbers after any interruption."""

import dataclasses
import logging
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from sublora import seeds
from sublora.config import Config
from sublora.corpus.batches import sample_batch
from sublora.corpus.corpus import Corpus, Split, open_corpus
from sublora.errors import ConfigError, TrainingError
from sublora.files import write_text
from sublora.nn.create_model import get_model
from sublora.nn.projectors import StructuredIDModule
from sublora.nn.subspace import SubspaceModule
from sublora.progress import progress
from sublora.training.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from sublora.training.gates import GateWatch, steepness_factor
from sublora.training.schedule import learning_rate_factor
from sublora.training.trackers import Trackers

log = logging.getLogger(__name__)

# A resumed run must agree with its checkpoint in these sections, save for the keys that only say when to stop or look.
_FIXED_SECTIONS = ("data", "optimizer", "learning_rate", "model", "sublora")
_FREE_KEYS = {"data.dataset_dir", "data.dataset"}


def create_optimizer(model: SubspaceModule, config: Config) -> torch.optim.AdamW:
    """Return AdamW with one group for alpha and, where there are gates, one for them without weight decay."""
    o, s = config.optimizer, config.sublora
    groups: list[dict[str, Any]] = [
        {
            "params": [model.subspace_params],
            "lr": o.learning_rate,
            "peak": o.learning_rate,
            "weight_decay": o.weight_decay,
        }
    ]
    if (gates := getattr(model, "gating_params", None)) is not None:
        groups.append({"params": [gates], "lr": s.gating_lr, "peak": s.gating_lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.adam_epsilon)


def train(config: Config) -> Path:
    """Train as configured and return the folder of the run.

    The folder gets config.yaml, metrics.jsonl, TensorBoard files, and best and last checkpoints. A run that was
    interrupted goes on from its last checkpoint, with the numbers it would have had.

    Raises:
        CorpusError, ConfigError: the data or the settings cannot be used.
        TrainingError: the loss is not a number, or a checkpoint is damaged.
    """
    corpus = open_corpus(
        Path(config.data.dataset_dir),
        config.data.dataset,
        eot_token=config.data.eot_token,
        vocab_size=config.data.vocab_size,
    )
    out_dir = Path(config.login.out_dir)
    if config.login.create_new_output_dir:
        out_dir = out_dir / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    start = _starting_point(config)
    if start is not None:
        config = adopt_checkpoint(config, start)
    previous = _previous(out_dir, config)
    _check_block(corpus.train, config.data.block_size)
    run = Run(config, corpus, get_model(config, corpus.vocab_size), out_dir)
    if previous is not None:
        run.restore(previous)
    elif start is not None:
        run.restore_values(start)
    write_text(out_dir / "config.yaml", config.to_yaml())
    run.loop(resumed=previous is not None)
    return out_dir


def _starting_point(config: Config) -> Checkpoint | None:
    if config.model.init_from != "best_ckpt":
        return None
    if not config.model.best_checkpoint_path:
        raise ConfigError("model.init_from=best_ckpt needs model.best_checkpoint_path")
    return load_checkpoint(Path(config.model.best_checkpoint_path))


def adopt_checkpoint(config: Config, checkpoint: Checkpoint) -> Config:
    """Return the configuration with the sections model and sublora, the block size and the seed of a checkpoint.

    They describe weights that exist, so they cannot be configured; a warning names every key that says otherwise.
    """
    then = checkpoint.config
    adopted = dataclasses.replace(
        config,
        model=then.model,
        sublora=then.sublora,
        data=dataclasses.replace(config.data, block_size=then.data.block_size),
        system=dataclasses.replace(config.system, seed=then.system.seed),
    )
    for key in sorted(config.explicit - {"model.init_from", "model.best_checkpoint_path"}):
        section, _, name = key.partition(".")
        here, there = (getattr(getattr(c, section), name) for c in (config, adopted))
        if here != there:
            log.warning("%s is configured as %r, but the checkpoint's model has %r, which is used", key, here, there)
    return adopted


def _previous(out_dir: Path, config: Config) -> Checkpoint | None:
    if not (out_dir / LAST).exists():
        return None
    checkpoint = load_checkpoint(out_dir / LAST)
    then, now = checkpoint.config.to_dict(), config.to_dict()
    for section in (*_FIXED_SECTIONS, "system"):
        for key, value in now[section].items():
            name = f"{section}.{key}"
            fixed = name == "system.seed" if section == "system" else name not in _FREE_KEYS
            if fixed and value != then[section][key]:
                raise ConfigError(
                    f"{out_dir} holds a run with {name}={then[section][key]!r}, not {value!r}: "
                    "choose another login.out_dir, or remove it"
                )
    return checkpoint


def _check_block(split: Split, block_size: int) -> None:
    if len(split.tokens) <= block_size:
        raise ConfigError(
            f"the training text has {len(split.tokens)} tokens, fewer than data.block_size + 1 = {block_size + 1}"
        )


class Run:
    """One run: its model, optimizer and place in the schedule."""

    def __init__(self, config: Config, corpus: Corpus, model: SubspaceModule, out_dir: Path) -> None:
        self.config = config
        self.corpus = corpus
        self.out_dir = out_dir
        self.accelerator = Accelerator(
            cpu=config.system.device == "cpu", mixed_precision="bf16" if config.system.dtype == "bfloat16" else "no"
        )
        device = self.accelerator.device if config.system.device == "auto" else torch.device(config.system.device)
        self.subspace = model.to(device)
        self.device = device
        self.optimizer = create_optimizer(self.subspace, config)
        self.model = self.accelerator.prepare_model(self.subspace)
        if config.system.compile:
            self.model = torch.compile(self.model)
        self.iteration = 0
        self.best_val = math.inf
        self.gate_watch = GateWatch(list(self.subspace.gates()), config.optimizer.adam_epsilon)

    def restore_values(self, checkpoint: Checkpoint) -> None:
        """Start from the alpha and gates of a checkpoint.

        Raises:
            TrainingError: it belongs to a model of another size.
        """
        with torch.no_grad():
            for name, parameter in self._trained().items():
                saved = checkpoint.tensors.get(name)
                if saved is None or saved.shape != parameter.shape:
                    raise TrainingError(
                        f"the checkpoint has no {name} of shape {tuple(parameter.shape)}: it belongs to another model"
                    )
                parameter.copy_(saved)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint of this run was written."""
        if checkpoint.corpus_sha256 != self.corpus.train.sha256:
            raise TrainingError(
                f"the run in {self.out_dir} was trained on another corpus: choose another login.out_dir"
            )
        self.restore_values(checkpoint)
        self.iteration, self.best_val = checkpoint.iteration, checkpoint.best_val
        for name, parameter in self._trained().items():
            state = {k: checkpoint.tensors[f"optimizer.{name}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {
                "step": state.pop("step"),
                **{k: v.to(self.device) for k, v in state.items()},
            }

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.subspace.named_parameters() if p.requires_grad}

    def _checkpoint(self) -> Checkpoint:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._trained().items():
            tensors[name] = parameter.detach().cpu().contiguous()
            state = self.optimizer.state.get(parameter)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state[key].detach().cpu() if state else torch.zeros(() if key == "step" else parameter.shape)
                tensors[f"optimizer.{name}.{key}"] = value.contiguous()
        return Checkpoint(
            tensors, self.iteration, self.best_val, self.corpus.vocab_size, self.corpus.train.sha256, self.config
        )

    def loop(self, resumed: bool) -> None:
        """Run to the last step, evaluating and saving on the way."""
        t = self.config.training
        trackers = (
            Trackers(self.out_dir, self.config, self.iteration if resumed else None)
            if self.accelerator.is_main_process
            else None
        )
        try:
            with progress("training", t.max_iters) as advance:
                advance(self.iteration)
                while True:
                    if self.iteration % t.eval_interval == 0 or self.iteration >= t.max_iters:
                        self._evaluate(trackers)
                    if self.iteration >= t.max_iters or t.eval_only:
                        break
                    record = self._step()
                    if trackers and (self.iteration % t.log_interval == 0 or self.iteration == 1):
                        trackers.write(record)
                    advance(1)
        finally:
            if trackers:
                trackers.close()

    def _batch(self, split: Split, *stream: str | int) -> tuple[Tensor, Tensor]:
        """This process's rows of the global batch of a named stream."""
        d = self.config.data
        rng = seeds.stream(self.config.system.seed, *stream)
        x, y = sample_batch(
            split, rng, d.batch_size * self.accelerator.num_processes, d.block_size, d.perturb_word_order_window_size
        )
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return torch.from_numpy(x[rank::world]).to(self.device), torch.from_numpy(y[rank::world]).to(self.device)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of next tokens in nats."""
        with self.accelerator.autocast():
            logits = self.model(input_ids=x).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

    def _step(self) -> dict[str, Any]:
        """Take one optimizer step and return its record."""
        t, o = self.config.training, self.config.optimizer
        begin = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_factor(
                self.iteration, self.config.learning_rate, o.learning_rate, t.max_iters
            )
        # Dropout alone reads torch's generator: every step has its own seed, so that a resumed run agrees.
        torch.manual_seed(
            seeds.key(self.config.system.seed, "dropout", self.iteration, self.accelerator.process_index) % 2**63
        )
        self.model.train()
        if isinstance(self.subspace, StructuredIDModule):
            self.subspace.steepness_factor = steepness_factor(self.iteration, self.config.sublora, t.max_iters)
        self.subspace.record_gradients = (self.iteration + 1) % t.log_interval == 0
        total = torch.zeros((), device=self.device)
        for micro in range(t.gradient_accumulation_steps):
            x, y = self._batch(self.corpus.train, "train", self.iteration, micro)
            loss = self._loss(x, y) / t.gradient_accumulation_steps
            self.accelerator.backward(loss)
            total += loss.detach()
        value = float(self.accelerator.gather(total.reshape(1)).mean())
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained().values(), o.grad_clip or math.inf))
        rate = self.optimizer.param_groups[0]["lr"]
        if not math.isfinite(value) or not math.isfinite(norm):
            last = self.out_dir / LAST
            raise TrainingError(
                f"the loss is {value} (gradient norm {norm}) at step {self.iteration}, learning rate {rate:g}: lower "
                f"optimizer.learning_rate or set optimizer.grad_clip; the last good checkpoint is "
                f"{last if last.exists() else 'none'}"
            )
        if (gates := self._trained().get("gating_params")) is not None and gates.grad is not None:
            self.gate_watch.see(gates.grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.iteration += 1
        tokens = t.gradient_accumulation_steps * self.config.data.batch_size * self.config.data.block_size
        record: dict[str, Any] = {
            "kind": "train",
            "iter": self.iteration,
            "loss": value,
            "lr": rate,
            "tokens_per_second": tokens * self.accelerator.num_processes / (time.perf_counter() - begin),
            "grad_norm": norm,
        }
        norms = self.subspace.pop_gradient_norms()
        for side in ("A", "B"):
            if sides := [v for k, v in norms.items() if k.startswith("layer") and k.endswith(side)]:
                record[f"grad_norm_{side.lower()}"] = sides
        return record

    def _evaluate(self, trackers: Trackers | None) -> None:
        """Measure both splits on fixed batches, record, and save."""
        self.model.eval()
        bpd = {}
        with torch.no_grad():
            for name, split in (("train", self.corpus.train), ("val", self.corpus.val)):
                if split is None or len(split.tokens) <= self.config.data.block_size:
                    continue
                losses = [
                    self._loss(*self._batch(split, "eval", name, i)) for i in range(self.config.training.eval_iters)
                ]
                mean = self.accelerator.gather(torch.stack(losses).mean().reshape(1)).mean()
                bpd[f"{name}_bpd"] = float(mean) / math.log(2)
        gates = self.subspace.gates()
        if dead := self.gate_watch.pop_dead():
            log.warning(
                "the gates of %s have had no gradient since the last evaluation: lower sublora.gating_steepness, or "
                "start with a lower sublora.gating_steepness_init",
                ", ".join(dead),
            )
        score = bpd.get("val_bpd", bpd["train_bpd"])
        log.info("step %d: %s", self.iteration, ", ".join(f"{k} {v:.4f}" for k, v in bpd.items()))
        if trackers is None:
            return
        gammas = [gamma for name, gamma in gates.items() if name.startswith("layer")]
        states = {"gamma": gammas or None, "gates": gates, "dead_gates": len(dead)}
        trackers.write({"kind": "eval", "iter": self.iteration, **bpd, **states})
        if self.config.training.eval_only:
            return
        improved = score < self.best_val
        self.best_val = min(score, self.best_val)
        checkpoint = self._checkpoint()
        if improved:
            save_checkpoint(self.out_dir / BEST, checkpoint)
        if self.config.training.always_save_checkpoint:
            save_checkpoint(self.out_dir / f"step{self.iteration}.safetensors", checkpoint)
        save_checkpoint(self.out_dir / LAST, checkpoint)
