"""Adapters of a few hundred values, PEFT's and ours: held-out loss and certified bound with the same effort for each.

    python benchmarks/peers.py --base out/sotu_before_base --data out/sotu_before [--steps 32] [--documents 150]

Writes benchmarks/results/peers.json; a killed run goes on from the messages in --work. Base and corpus are those of
docs/prior.md ("A shift in time"), and config/sotu_before.yaml has the settings that are not named here. All adapters
but VeRA, which has as many values as a layer has outputs, are on the same 24 linear layers. Every one gets the same
batches, the same AdamW and schedule, and of the same three learning rates the one with the lowest loss on validation
crops after a short run on another seed. No adapter has settings of its own that were searched.

Every method is trained as a subspace whose operator is the identity on its trained values: alpha is their distance
from where they start. So all are quantized by the same error feedback from the same number of gradients, at the same
steps, coded by the same entropy code, and the message with the lowest estimated bound is taken.

What is assumed: the messages of `sublora` and those that are imported are real, and `sublora verify` could check
them. For the others, the header of a LoRA whose values are all coded stands in for one that would say kind, sizes and
seed of PEFT's adapter, and the decoder would have to run PEFT with the same seed to make the values where training
starts and the fixed matrices. K is the length of this stand-in. When all messages are written, one hash of all of
them draws the documents that all are measured on. Each bound holds at 95 % on its own; the smallest of them is no
claim.
"""

import argparse
import dataclasses
import json
import logging
import math
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch

from sublora import seeds
from sublora.certificate.base_bounds import base_alone
from sublora.certificate.claims import alone, losses_by_metric, make_claims
from sublora.certificate.draw import draw_units
from sublora.certificate.issue import Certifier
from sublora.certificate.terms import Terms, make_terms
from sublora.coding.feedback import feedback_quantize
from sublora.coding.message import MAX_SYMBOLS, Message, decode_message, encode_message
from sublora.coding.spec import ModelSpec
from sublora.config import Config, load_config
from sublora.config.sections import Sublora
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.units import Units, held_out_units
from sublora.files import write_text
from sublora.foreign.adopt import adopt
from sublora.nn.create_model import get_model, spec_from_config
from sublora.nn.loss import SubspaceLoss, transformer
from sublora.nn.pretrained import load_pretrained
from sublora.nn.projectors import create_intrinsic_model
from sublora.nn.quiet import quiet_transformers
from sublora.nn.subspace import SubspaceModule
from sublora.quantizing.curvature import fisher_factor
from sublora.scoring.measure import Rebuilt, References, decoded_model, score
from sublora.scoring.scores import Scores
from sublora.training.checkpoint import Checkpoint, load_checkpoint
from sublora.training.loop import create_optimizer
from sublora.training.schedule import learning_rate_factor

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
D, SEED, TRIAL_SEED = 200, 42, 7
RATES = (0.003, 0.03, 0.3)
LAYERS = ["c_attn", "c_proj", "c_fc"]
# Multiples of the root mean square of alpha.
STEPS = (1.0, 2.0, 4.0)
NONE = np.zeros(0)


@dataclass(frozen=True)
class Method:
    """An adapter: ours by its section of the configuration, one of PEFT by its configuration.

    coded: how its message comes about: "sublora", "import", or "stand-in" where the decoder would have to run PEFT.
    """

    name: str
    of: Callable[[], Any]
    coded: str


METHODS = (
    Method("sublora, uniform on LoRA of rank 4", lambda: Sublora(
        targets="linear", linear_head_enable_lora=False, intrinsic_dim=D), "sublora"),
    Method("sublora, uniform on spectral cores of rank 8", lambda: Sublora(
        adapter="spectral", targets="linear", intrinsic_dim=D), "sublora"),
    Method("PEFT UniLoRA of rank 4", lambda: peft.UniLoraConfig(
        r=4, theta_d_length=D, target_modules=LAYERS, fan_in_fan_out=True), "stand-in"),
    Method("PEFT TinyLoRA of rank 8, 8 values a layer", lambda: peft.TinyLoraConfig(
        r=8, u=8, target_modules=LAYERS, fan_in_fan_out=True), "stand-in"),
    Method("PEFT VeRA of rank 8 on one layer", lambda: peft.VeraConfig(
        r=8, target_modules=["h.3.attn.c_proj"], fan_in_fan_out=True), "stand-in"),
    Method("PEFT LoRA of rank 1", lambda: peft.LoraConfig(
        r=1, target_modules=LAYERS, fan_in_fan_out=True), "stand-in"),
)  # fmt: skip
# Trained once, and coded a second time as `sublora import` does.
IMPORTED = ("PEFT TinyLoRA of rank 8, 8 values a layer", "PEFT LoRA of rank 1")


@dataclass(frozen=True)
class Effort:
    """How long every method is trained and measured: all get the same."""

    steps: int
    trial_steps: int
    rows: int
    """crops of a step"""
    batches: int
    """validation batches that a learning rate is chosen by"""
    gradients: int
    """rows of the curvature"""
    documents: int
    """that the bound is measured on"""
    held_out: int
    """test documents"""


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
    """Base, corpus and settings that all methods share."""

    def __init__(self, base: str, data: str, effort: Effort) -> None:
        words = ["--config-file=config/sotu_before.yaml", f"--prior.base={base}", f"--data.dataset_dir={data}"]
        settings = [f"--bounds.bound_samples={effort.documents}", f"--system.seed={SEED}"]
        self.config: Config = load_config([*words, *settings, "--system.device=cpu"])
        self.base, self.effort = base, effort
        self.corpus: Corpus = open_corpus(Path(data))
        assert self.corpus.val is not None
        block = self.config.data.block_size
        self.train, self.val = Batches(self.corpus.train, block), Batches(self.corpus.val, block)

    def configured(self, section: Sublora) -> Config:
        """Return the configuration with an adapter of ours."""
        return dataclasses.replace(self.config, sublora=section)

    def make(self, method: Method) -> SubspaceModule:
        """Return a method's model where its training starts."""
        settings = method.of()
        if isinstance(settings, Sublora):
            return get_model(self.configured(settings), self.corpus.vocab_size)
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            plain = load_pretrained(self.base)[0]
            adapted = registered_once(peft.get_peft_model(plain, settings))
            return create_intrinsic_model(adapted, intrinsic_dim=0, seed=SEED)

    def spec(self, method: Method, model: SubspaceModule) -> ModelSpec:
        """Return what a message says of a method, or the stand-in."""
        settings = method.of()
        if isinstance(settings, Sublora):
            return spec_from_config(self.configured(settings))
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
        """Return bits per byte on validation crops; infinity for a loss that is not a number."""
        loss = SubspaceLoss(model).eval()
        batches = (self.val.sample(seeds.stream(SEED, "eval", "val", i), 8) for i in range(self.effort.batches))
        value = float(np.mean([float(loss.of(batch)) for batch in batches])) / math.log(2)
        return value if math.isfinite(value) else math.inf

    def trials(self, method: Method) -> dict[str, float]:
        """Return the validation loss of every learning rate after a short run."""
        losses = {}
        for rate in RATES:
            model = self.make(method)
            self.fit(model, rate, self.effort.trial_steps, TRIAL_SEED)
            losses[str(rate)] = round(self.validation(model), 4)
            log.info("%s at rate %g: %.4f", method.name, rate, losses[str(rate)])
        return losses

    @cached_property
    def certifier(self) -> Certifier:
        """What knows the corpus, the base and the bound; its checkpoint is that of a model that nobody trained."""
        config = self.configured(METHODS[0].of())
        tensors = {"subspace_params": torch.zeros(D)}
        untrained = Checkpoint(tensors, 0, math.inf, self.corpus.vocab_size, self.corpus.train.sha256, config)
        return Certifier(config, untrained, self.corpus)

    def rebuilt(self, model: SubspaceModule) -> Rebuilt:
        """Return a model as it is scored, its adapter not merged."""
        return Rebuilt(transformer(model.materialize()).eval(), "", model.D, np.zeros(0, np.int64))

    def score(self, model: SubspaceModule, units: Units, rows: np.ndarray, base: bool = False) -> Scores:
        """Return the losses of units, without the base's unless it is asked for."""
        references = self.certifier.evidence.references
        references = references if base else References(references.known, None)
        protocol, processes = self.certifier.protocol, self.certifier.processes
        return score(self.rebuilt(model), references, units, rows, protocol, processes, "scoring")


@dataclass(frozen=True)
class Coded:
    """A trained adapter in its message, and what a row of the table says of it beside its bounds."""

    data: bytes
    row: dict[str, Any]

    @cached_property
    def message(self) -> Message:
        """What the bytes decode to."""
        return decode_message(self.data, max_symbols=MAX_SYMBOLS)


def at(model: SubspaceModule, alpha: np.ndarray | torch.Tensor) -> SubspaceModule:
    """Return a model with other coordinates."""
    with torch.no_grad():
        model.subspace_params.copy_(torch.as_tensor(alpha))
    return model


def held_out(bench: Bench, model: SubspaceModule) -> float:
    """Return mean bits per byte on test documents, of the model alone."""
    units = held_out_units(bench.corpus, "document_level", bench.config.data.block_size)
    assert units is not None
    rows = np.unique(np.linspace(0, len(units) - 1, bench.effort.held_out).astype(int))
    scores = bench.score(model, units, rows)
    return round(float((scores.bits / scores.byte_lengths).mean()), 4)


def code(bench: Bench, model: SubspaceModule, spec: ModelSpec, row: dict[str, Any]) -> Coded:
    """Quantize and code a trained model: of all steps, the message whose estimated bound is lowest."""
    certifier = bench.certifier
    certifier.header = dataclasses.replace(certifier.header, spec=spec)
    alpha = model.subspace_params.detach().double().numpy().copy()
    rms = float(np.sqrt(np.mean(alpha**2))) or 1.0
    row = row | {"coded": model.d, "held_out_trained": held_out(bench, model)}
    factor = fisher_factor(model, bench.train, seed=SEED, samples=bench.effort.gradients)
    best: tuple[float, Coded] | None = None
    for multiple in STEPS:
        quantized = feedback_quantize(alpha, factor, multiple * rms)
        draft = encode_message(certifier.header, quantized, NONE)
        scores = dataclasses.replace(
            bench.score(at(model, quantized.reconstruction), certifier.units, certifier.calibration),
            base_bits=certifier._base_bits,
        )
        header = certifier._best_header(8 * len(draft.data), scores)
        data = encode_message(header, quantized, NONE).data
        value = certifier.estimate(header, 8 * len(data), scores)
        log.info("step %g: %d bits, estimated bound %.4f", multiple, 8 * len(data), value)
        if best is None or value < best[0]:
            best = value, Coded(data, row | {"step": multiple, "bits": 8 * len(data)})
    assert best is not None
    return best[1]


def imported(bench: Bench, model: SubspaceModule, data: str) -> tuple[SubspaceModule, ModelSpec]:
    """Return a trained adapter of PEFT as `sublora import` takes it."""
    with tempfile.TemporaryDirectory() as scratch, quiet_transformers():
        adapter, run = Path(scratch) / "adapter", Path(scratch) / "run"
        net: Any = model.materialize()
        net.save_pretrained(adapter)
        adopt(adapter, run, base=bench.base, data=Path(data), block_size=bench.config.data.block_size)
        checkpoint = load_checkpoint(run)
    config = bench.configured(checkpoint.config.sublora)
    again = get_model(config, bench.corpus.vocab_size)
    return at(again, checkpoint.tensors["subspace_params"]), spec_from_config(config)


def codings(bench: Bench, method: Method, data: str) -> Iterator[Coded]:
    """Train a method, and yield its messages."""
    trials = bench.trials(method)
    rate = min(RATES, key=lambda rate: trials[str(rate)])
    model = bench.make(method)
    bench.fit(model, rate, bench.effort.steps, SEED)
    log.info("%s: validation %.4f", method.name, bench.validation(model))
    row = {"method": method.name, "trained": model.d, "trials": trials, "rate": rate}
    trained = model.subspace_params.detach().clone()
    if method.name in IMPORTED:
        yield code(bench, *imported(bench, model, data), row | {"message": "import"})
    yield code(bench, at(model, trained), bench.spec(method, model), row | {"message": method.coded})


def kept(bench: Bench, method: Method, data: str, work: Path) -> list[Coded]:
    """Return the messages of a method; what lies in the folder, made with the same effort, is not made again."""
    record = work / f"{METHODS.index(method)}.json"
    if record.exists():
        found = json.loads(record.read_text())
        if found["effort"] == dataclasses.asdict(bench.effort) and found["method"] == method.name:
            return [Coded(bytes.fromhex(each["data"]), each["row"]) for each in found["messages"]]
    made = list(codings(bench, method, data))
    messages = [{"data": coded.data.hex(), "row": coded.row} for coded in made]
    effort = dataclasses.asdict(bench.effort)
    write_text(record, json.dumps({"method": method.name, "effort": effort, "messages": messages}))
    return made


def decoded(bench: Bench, coded: Coded) -> SubspaceModule:
    """Return the model that a message decodes to: by the message alone, or where it is a stand-in, with PEFT's help."""
    if coded.row["message"] != "stand-in":
        return decoded_model(coded.message, bench.base)
    method = next(method for method in METHODS if method.name == coded.row["method"])
    return at(bench.make(method), coded.message.alpha)


def measure(bench: Bench, messages: list[Coded]) -> Iterator[dict[str, Any]]:
    """Yield the rows with their bounds: every model is measured on the documents that all messages together draw."""
    certifier, evidence = bench.certifier, bench.certifier.evidence
    everything = b"".join(coded.data for coded in messages)
    drawn = draw_units(everything, evidence.content_sha256, len(certifier.units), bench.effort.documents)
    base_bits: np.ndarray | None = None
    for coded in messages:
        model = decoded(bench, coded)
        scores = bench.score(model, certifier.units, drawn, base=base_bits is None)
        base_bits = scores.base_bits if base_bits is None else base_bits
        scores = dataclasses.replace(scores, base_bits=base_bits)
        terms = terms_of(certifier, coded)
        claims = {claim.metric: claim.bound for claim in make_claims(scores, terms)}
        log.info("%s (%s): certified %.4f", coded.row["method"], coded.row["message"], claims["bpb"])
        yield coded.row | {
            "held_out_decoded": held_out(bench, model),
            "measured": round(float(losses_by_metric(scores, terms)["bpb"].values.mean()), 4),
            "measured_alone": round(alone(scores, terms, "bpb"), 4),
            "bound": claims["bpb"],
            "gain": claims["bpb_gain"],
            "gain_alone": claims["bpb_gain_alone"],
            "base_with_fallback": base_bound(scores, terms),
        }


def base_bound(scores: Scores, terms: Terms) -> float | None:
    """Return the bound of the base with the same fallback."""
    found = base_alone(scores, terms)
    return None if found is None else found.bound_bpb


def terms_of(certifier: Certifier, coded: Coded) -> Terms:
    """Return the terms of a message's claim."""
    header = coded.message.header
    n = certifier.units.sample_size(header.setting.bound_type)
    return make_terms(header, 8 * len(coded.data), n, certifier.evidence.known(header))


def main() -> None:
    """Train, code and measure every method, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="out/sotu_before_base")
    parser.add_argument("--data", default="out/sotu_before")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--trial-steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--gradients", type=int, default=64)
    parser.add_argument("--documents", type=int, default=150)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("out/peers"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    effort = Effort(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Effort)})
    bench = Bench(options.base, options.data, effort)
    messages = [coded for method in METHODS for coded in kept(bench, method, options.data, options.work)]
    untrained = bench.make(METHODS[0])
    result = {
        "command": "python benchmarks/peers.py",
        "effort": dataclasses.asdict(effort),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "peft": peft.__version__},
        "base_held_out": held_out(bench, untrained),
        "base_validation": round(bench.validation(untrained), 4),
        "rows": list(measure(bench, messages)),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(options.out.read_text())


if __name__ == "__main__":
    main()
