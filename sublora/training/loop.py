"""The training loop: AdamW on alpha (and the gates), the same numbers after any interruption.

With several processes, each computes its rows of every batch, and the gradients of alpha and the gates are all that
travels between them: d numbers a step, and one for each gate.
"""

import logging
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Int64
from torch import Tensor

from sublora import seeds
from sublora.coding.prompt import Prompt
from sublora.coding.spec import SHARED
from sublora.config import Config
from sublora.corpus.batches import Batch, Batches
from sublora.corpus.corpus import Corpus, Split, configured_corpus
from sublora.errors import ConfigError, TrainingError
from sublora.files import canonical_json, remove_unfinished, write_text
from sublora.nn.checkpointing import enable_gradient_checkpointing
from sublora.nn.create_model import get_model
from sublora.nn.loss import SubspaceLoss, transformer
from sublora.nn.packed import check_context
from sublora.nn.precision import prepare_for_bfloat16, resolve_dtype
from sublora.nn.projectors import StructuredIDModule
from sublora.nn.subspace import SubspaceModule
from sublora.peers import part_at_exit
from sublora.progress import progress
from sublora.run_folder import RunFolder
from sublora.scoring.processes import Processes
from sublora.scoring.prompt import prompt_tokens
from sublora.training.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from sublora.training.gates import GateWatch, steepness_factor
from sublora.training.guard import DivergenceGuard
from sublora.training.prompt_search import search_prompt
from sublora.training.resume import adopt_checkpoint, previous_run, starting_point
from sublora.training.schedule import learning_rate_factor
from sublora.training.trackers import Trackers

log = logging.getLogger(__name__)


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
    if (gates := model.gating_params) is not None:
        groups.append({"params": [gates], "lr": s.gating_lr, "peak": s.gating_lr, "weight_decay": 0.0})
    # One kernel for a step, where a step is otherwise a dozen; its last digits differ from those of the others.
    fused = model.subspace_params.device.type == "cuda"
    return torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.adam_epsilon, fused=fused)


def train(config: Config) -> Path:
    """Train as configured and return the folder of the run.

    The folder gets config.yaml, metrics.jsonl, TensorBoard files, and best and last checkpoints. A run that was
    interrupted goes on from its last checkpoint, with the numbers it would have had. Started by `torchrun` or
    `accelerate launch`, every process calls this, and the first one writes.

    Raises:
        CorpusError, ConfigError: the data or the settings cannot be used.
        TrainingError: the loss is not a number or has spiked, a checkpoint is damaged, or the disk is full.
    """
    if config.sublora.adapter in SHARED:
        raise ConfigError(
            f"sublora.adapter {config.sublora.adapter} is not trained here: train it with PEFT, and sublora import it"
        )
    if config.system.threads:
        torch.set_num_threads(config.system.threads)
    accelerator = Accelerator(cpu=config.system.device == "cpu")
    part_at_exit()
    # The first process builds the index of a corpus that has none.
    with accelerator.main_process_first():
        corpus = configured_corpus(config.data)
    out_dir = _out_dir(config)
    start = starting_point(config)
    if start is not None:
        config = adopt_checkpoint(config, start)
    previous = previous_run(out_dir, config)
    processes = Processes(config.system.device)
    _check_peers(processes, config, corpus, previous or start)
    prompt = _prompt(config, corpus, previous or start)
    tokens = prompt_tokens(prompt, corpus.prior, corpus.eot_token)
    if config.sublora.adapter == "none":
        return _keep_base(config, corpus, out_dir, prompt, accelerator)
    _check_batch(batches_of(config, corpus.train, tokens), config, accelerator.num_processes)
    run = Run(config, corpus, get_model(config, corpus.vocab_size), out_dir, accelerator, prompt, tokens)
    _same(processes, "the base", str(run.subspace.base_sha256), "copy one base to every machine")
    if previous is not None:
        run.restore(previous)
    elif start is not None:
        run.restore_values(start)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        remove_unfinished(out_dir)
        write_text(RunFolder(out_dir).config, config.to_yaml())
    try:
        run.loop(resumed=previous is not None)
    except OSError as error:
        raise TrainingError(
            f"cannot write to {out_dir} at step {run.iteration}: {error.strerror or error}; the last checkpoint is "
            "intact: make room and start the same command again"
        ) from error
    return out_dir


# What may differ between machines: where things lie, and what computes.
_OWN_KEYS = {"data.dataset_dir", "data.dataset", "prior.base", "model.best_checkpoint_path", "system.threads"}


def _check_peers(processes: Processes, config: Config, corpus: Corpus, begun: Checkpoint | None) -> None:
    """Check that processes, which may be on several machines, have begun the same run.

    Raises:
        ConfigError: on every process, if one has other settings, another corpus or another checkpoint.
    """
    settings = {
        f"{section}.{key}": value
        for section, values in config.to_dict().items()
        for key, value in values.items()
        if section != "login" and f"{section}.{key}" not in _OWN_KEYS
    }
    _same(processes, "the configuration", settings, "give the same flags on every machine")
    _same(processes, "the corpus", corpus.train.sha256, "copy one folder to every machine")
    tensors = {} if begun is None else {name: t.numpy().tobytes().hex() for name, t in begun.tensors.items()}
    remedy = "put login.out_dir on a disk that all machines share, or copy the last checkpoint to every machine"
    _same(processes, "the checkpoint that is gone on from", tensors, remedy)


def _same(processes: Processes, what: str, value: Any, remedy: str) -> None:
    if processes.differ(canonical_json(value)):
        raise ConfigError(f"{what} differs between the processes: {remedy}")


def _out_dir(config: Config) -> Path:
    """The folder of the run; a dated one is named by the first process."""
    out_dir = Path(config.login.out_dir)
    if not config.login.create_new_output_dir:
        return out_dir
    name = [datetime.now().strftime("%Y-%m-%d/%H-%M-%S")]
    return out_dir / str(broadcast_object_list(name)[0])


def _keep_base(config: Config, corpus: Corpus, out_dir: Path, prompt: Prompt, accelerator: Accelerator) -> Path:
    """Without an adapter there is nothing to train: the checkpoint holds the prompt alone."""
    if accelerator.is_main_process:
        write_text(RunFolder(out_dir).config, config.to_yaml())
        checkpoint = Checkpoint({}, 0, math.inf, corpus.vocab_size, corpus.train.sha256, config, prompt)
        save_checkpoint(out_dir / BEST, checkpoint)
    accelerator.wait_for_everyone()
    return out_dir


def _prompt(config: Config, corpus: Corpus, checkpoint: Checkpoint | None) -> Prompt:
    """The prompt of a checkpoint, or the one that a search finds; every process finds the same."""
    if checkpoint is not None:
        return checkpoint.prompt
    if config.prompt.indices:
        return Prompt(tuple(config.prompt.indices))
    return search_prompt(config, corpus) if config.prompt.documents else Prompt()


def batches_of(config: Config, split: Split, prompt: Int64[np.ndarray, " prompt"]) -> Batches:
    """Return what a run trains on or evaluates with.

    Raises:
        ConfigError: a prompt before crops.
    """
    d = config.data
    return Batches(split, d.block_size, d.batching, prompt, d.perturb_word_order_window_size)


def _check_batch(train: Batches, config: Config, processes: int) -> None:
    d = config.data
    if not train.enough:
        raise ConfigError(
            f"the training text has {len(train.split.tokens)} tokens, fewer than data.block_size + 1 = "
            f"{d.block_size + 1}"
        )
    if d.batch_size % processes:
        raise ConfigError(f"data.batch_size={d.batch_size} cannot be divided between {processes} processes")


class Run:
    """One run: its model, optimizer and place in the schedule."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        model: SubspaceModule,
        out_dir: Path,
        accelerator: Accelerator,
        prompt: Prompt,
        tokens: Int64[np.ndarray, " prompt"],
    ) -> None:
        self.config = config
        self.prompt = prompt
        self.corpus = corpus
        self.out_dir = out_dir
        self.accelerator = accelerator
        self.train_batches = batches_of(config, corpus.train, tokens)
        self.val_batches = None if corpus.val is None else batches_of(config, corpus.val, tokens)
        if len(tokens):
            check_context(transformer(model.net), len(tokens), config.data.block_size)
        wanted = torch.device(accelerator.device if config.system.device == "auto" else config.system.device)
        # Of several devices of the kind that was asked for, every process has one.
        self.device = accelerator.device if wanted.type == accelerator.device.type else wanted
        bfloat16 = resolve_dtype(config.system.dtype, self.device) == "bfloat16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, bfloat16)
        if bfloat16:
            prepare_for_bfloat16(model.net, self.device)
        if config.system.gradient_checkpointing:
            enable_gradient_checkpointing(model.net)
        self.subspace = model.to(self.device)
        self.trained = {name: p for name, p in self.subspace.named_parameters() if p.requires_grad}
        self.optimizer = create_optimizer(self.subspace, config)
        self.loss = SubspaceLoss(self.subspace, compile=config.system.compile)
        self.guard = DivergenceGuard(corpus.vocab_size, out_dir)
        self.iteration = 0
        self.best_val = math.inf
        self.gate_watch = GateWatch(list(self.subspace.gates()), config.optimizer.adam_epsilon)

    def restore_values(self, checkpoint: Checkpoint) -> None:
        """Start from the alpha and gates of a checkpoint.

        Raises:
            TrainingError: it belongs to a model of another size.
        """
        with torch.no_grad():
            for name, parameter in self.trained.items():
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
        name_of = {parameter: name for name, parameter in self.trained.items()}
        ordered = [name_of[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]
        state = {
            i: {key: checkpoint.tensors[f"optimizer.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for i, name in enumerate(ordered)
        }
        # The optimizer knows where each of them has to lie: the fused one counts its steps on the device.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _checkpoint(self) -> Checkpoint:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.trained.items():
            tensors[name] = parameter.detach().cpu().contiguous()
            state = self.optimizer.state.get(parameter)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state[key].detach().cpu() if state else torch.zeros(() if key == "step" else parameter.shape)
                tensors[f"optimizer.{name}.{key}"] = value.contiguous()
        return Checkpoint(
            tensors,
            self.iteration,
            self.best_val,
            self.corpus.vocab_size,
            self.corpus.train.sha256,
            self.config,
            self.prompt,
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
            with progress("training", t.max_iters, done=self.iteration) as advance:
                while True:
                    if self.iteration % t.eval_interval == 0 or self.iteration >= t.max_iters:
                        self._evaluate(trackers)
                    if self.iteration >= t.max_iters or t.eval_only:
                        break
                    record = self._step()
                    if trackers and (self.iteration % t.log_interval == 0 or self.iteration == 1):
                        trackers.write(record)
                    advance(1, f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tokens/s")
        finally:
            if trackers:
                trackers.close()

    def _batch(self, source: Batches, *stream: str | int) -> Batch:
        """This process's rows of the batch of a named stream."""
        rng = seeds.stream(self.config.system.seed, *stream)
        part = self.accelerator.process_index, self.accelerator.num_processes
        return source.sample(rng, self.config.data.batch_size, part)

    def _mean(self, value: Tensor) -> float:
        """The mean of a number over the processes."""
        return float(self.accelerator.reduce(value.detach(), "mean"))

    def _loss(self, batch: Batch) -> Tensor:
        """The loss of a batch in nats, see `Batches`."""
        with self.autocast:
            return self.loss.of(batch)

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
        self.loss.train()
        if isinstance(self.subspace, StructuredIDModule):
            self.subspace.steepness_factor = steepness_factor(self.iteration, self.config.sublora, t.max_iters)
        self.subspace.record_gradients = (self.iteration + 1) % t.log_interval == 0
        total, tokens = torch.zeros((), device=self.device), 0
        for micro in range(t.gradient_accumulation_steps):
            batch = self._batch(self.train_batches, "train", self.iteration, micro)
            tokens += len(batch.inputs) * self.accelerator.num_processes
            loss = self._loss(batch) / t.gradient_accumulation_steps
            loss.backward()
            total += loss.detach()
        for parameter in self.trained.values():
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        value = self._mean(total)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), o.grad_clip or math.inf))
        rate = self.optimizer.param_groups[0]["lr"]
        self.guard.check(value, norm, self.iteration, rate)
        if (gates := self.subspace.gating_params) is not None and gates.grad is not None:
            self.gate_watch.see(gates.grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.iteration += 1
        record: dict[str, Any] = {
            "kind": "train",
            "iter": self.iteration,
            "loss": value,
            "lr": rate,
            "tokens_per_second": tokens / (time.perf_counter() - begin),
            "grad_norm": norm,
        }
        norms = self.subspace.pop_gradient_norms()
        for side in ("A", "B"):
            if sides := [v for k, v in norms.items() if k.startswith("layer") and k.endswith(side)]:
                record[f"grad_norm_{side.lower()}"] = sides
        return record

    def _evaluate(self, trackers: Trackers | None) -> None:
        """Measure both splits on fixed batches, record, and save."""
        self.loss.eval()
        bpd = {}
        with torch.no_grad():
            for name, source in (("train", self.train_batches), ("val", self.val_batches)):
                if source is None or not source.enough:
                    continue
                losses = [
                    self._loss(self._batch(source, "eval", name, i)) for i in range(self.config.training.eval_iters)
                ]
                bpd[f"{name}_bpd"] = self._mean(torch.stack(losses).mean()) / math.log(2)
        gates = self.subspace.gates()
        if dead := self.gate_watch.pop_dead():
            log.warning(
                "the gates of %s have had no gradient since the last evaluation: lower sublora.gating_steepness, or "
                "start with a lower sublora.gating_steepness_init",
                ", ".join(dead),
            )
        score = bpd.get("val_bpd", bpd["train_bpd"])
        if not math.isfinite(score):
            # Nothing is saved: the last checkpoint is still good.
            self.guard.stop(f"the loss is {score}", self.iteration, self.optimizer.param_groups[0]["lr"], LAST)
        shown = ", ".join(f"{k} {v:.4f}" for k, v in bpd.items())
        log.info("step %d: %s (%s)", self.iteration, shown, self.train_batches.unit)
        if trackers is None:
            return
        gammas = [gamma for name, gamma in gates.items() if name.startswith("layer") and "." not in name]
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
