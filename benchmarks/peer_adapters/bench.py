"""Training and scoring any adapter in the same way: what all methods of a suite share."""

import dataclasses
import logging
import math
from functools import cache
from pathlib import Path

import numpy as np
import peft
import torch

from peer_adapters.suites import Effort, Method, Suite
from sublora import seeds
from sublora.certificate.issue import Certifier
from sublora.coding.spec import ModelSpec
from sublora.config import Config, load_config
from sublora.config.sections import Sublora
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.units import Units, held_out_units
from sublora.nn.create_model import get_model, spec_from_config
from sublora.nn.loss import SubspaceLoss, transformer
from sublora.nn.pretrained import load_pretrained
from sublora.nn.projectors import create_intrinsic_model
from sublora.nn.quiet import quiet_transformers
from sublora.nn.subspace import SubspaceModule
from sublora.scoring.measure import Rebuilt, References, score
from sublora.scoring.scores import Scores
from sublora.training.checkpoint import Checkpoint
from sublora.training.loop import batches_of, create_optimizer
from sublora.training.schedule import learning_rate_factor

log = logging.getLogger(__name__)

SEED, TRIAL_SEED = 42, 7
NO_PROMPT = np.zeros(0, np.int64)


def registered_once(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model of PEFT whose layers refer to values that they share, and only the adapter itself registers them.

    torch.func.functional_call, with which a subspace puts tensors in the place of parameters, does not put back what is
    registered in several places as one module.
    """
    seen = set()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in seen:
                del module._modules[name]
                module.__dict__[name] = child
            seen.add(id(child))
    return model


class Bench:
    """Base, corpus and settings that all methods of a suite share."""

    def __init__(self, suite: Suite, effort: Effort) -> None:
        words = [*suite.settings, f"--prior.base={suite.base}", f"--data.dataset_dir={suite.data}"]
        measured = [f"--bounds.bound_samples={effort.documents}", f"--system.seed={SEED}", "--system.device=cpu"]
        self.suite, self.effort = suite, effort
        self.config: Config = load_config([*words, *measured])
        self.corpus: Corpus = open_corpus(Path(suite.data))
        assert self.corpus.val is not None
        self.train = batches_of(self.config, self.corpus.train, NO_PROMPT)
        self.val = batches_of(self.config, self.corpus.val, NO_PROMPT)
        self.certifier = cache(self._certifier)

    def base(self, framed: bool) -> str:
        """Return the source of the base, with the frame of practice or without."""
        return self.suite.framed if framed else self.suite.base

    def configured(self, section: Sublora, framed: bool = False) -> Config:
        """Return the configuration with an adapter of ours."""
        prior = dataclasses.replace(self.config.prior, base=self.base(framed))
        return dataclasses.replace(self.config, sublora=section, prior=prior)

    def make(self, method: Method) -> SubspaceModule:
        """Return a method's model where its training starts."""
        settings = method.of()
        if isinstance(settings, Sublora):
            return get_model(self.configured(settings, method.framed), self.corpus.vocab_size)
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            plain = load_pretrained(self.suite.base)[0]
            adapted = registered_once(peft.get_peft_model(plain, settings))
            return create_intrinsic_model(adapted, intrinsic_dim=0, seed=SEED)

    def spec(self, method: Method) -> ModelSpec:
        """Return what a message says of a method, or the stand-in."""
        settings = method.of()
        if isinstance(settings, Sublora):
            return spec_from_config(self.configured(settings, method.framed))
        return ModelSpec(seed=SEED, intrinsic_dim=0, targets="linear", rank=4, head_rank=0)

    def fit(self, model: SubspaceModule, rate: float, steps: int, seed: int) -> None:
        """Train for so many steps; a loss that is not a number ends it."""
        config = dataclasses.replace(
            self.config, optimizer=dataclasses.replace(self.config.optimizer, learning_rate=rate)
        )
        schedule = dataclasses.replace(config.learning_rate, warmup_iters=steps // 4)
        loss, optimizer = SubspaceLoss(model).train(), create_optimizer(model, config)
        for i in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate_factor(i, schedule, rate, steps)
            value = loss.of(self.train.sample(seeds.stream(seed, "train", i, 0), self.effort.rows))
            if not torch.isfinite(value):
                break
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def validation(self, model: SubspaceModule) -> float:
        """Return bits per byte on validation crops or documents; infinity for a loss that is not a number."""
        loss = SubspaceLoss(model).eval()
        batches = (self.val.sample(seeds.stream(SEED, "eval", "val", i), 8) for i in range(self.effort.batches))
        value = float(np.mean([float(loss.of(batch)) for batch in batches])) / math.log(2)
        return value if math.isfinite(value) else math.inf

    def trials(self, method: Method) -> dict[str, float]:
        """Return the validation loss of every learning rate after a short run."""
        losses = {}
        for rate in self.suite.rates:
            model = self.make(method)
            self.fit(model, rate, self.effort.trial_steps, TRIAL_SEED)
            losses[str(rate)] = round(self.validation(model), 4)
            log.info("%s at rate %g: %.4f", method.name, rate, losses[str(rate)])
        return losses

    def _certifier(self, framed: bool) -> Certifier:
        """What knows the corpus, the base and the bound; its checkpoint is that of a model that nobody trained."""
        method = next(m for m in self.suite.methods if m.coded == "sublora" and m.framed == framed)
        config = self.configured(method.of(), framed)
        tensors = {"subspace_params": torch.zeros(config.sublora.intrinsic_dim)}
        untrained = Checkpoint(tensors, 0, math.inf, self.corpus.vocab_size, self.corpus.train.sha256, config)
        return Certifier(config, untrained, self.corpus)

    def score(self, model: SubspaceModule, units: Units, rows: np.ndarray, base: bool = False) -> Scores:
        """Return the losses of units, without the base's unless it is asked for."""
        certifier = self.certifier(False)
        references = certifier.evidence.references
        references = references if base else References(references.known, None)
        rebuilt = Rebuilt(transformer(model.materialize()).eval(), "", model.D, NO_PROMPT)
        return score(rebuilt, references, units, rows, certifier.protocol, certifier.processes, "scoring")

    def held_out(self, model: SubspaceModule) -> float:
        """Return mean bits per byte on test documents, of the model alone."""
        units = held_out_units(self.corpus, "document_level", self.config.data.block_size)
        assert units is not None
        rows = np.unique(np.linspace(0, len(units) - 1, self.effort.held_out).astype(int))
        scores = self.score(model, units, rows)
        return round(float((scores.bits / scores.byte_lengths).mean()), 4)


def at(model: SubspaceModule, alpha: np.ndarray | torch.Tensor) -> SubspaceModule:
    """Return a model with other coordinates."""
    with torch.no_grad():
        model.subspace_params.copy_(torch.as_tensor(alpha))
    return model
