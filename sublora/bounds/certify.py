"""From a trained checkpoint to a certificate: quantize, write the message, measure what it decodes to, bound, seal."""

import dataclasses
import importlib.metadata
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

import sublora
from sublora import seeds
from sublora.bounds.baselines import baselines
from sublora.bounds.certificate import CERTIFICATE, FORMAT, LOSSES, MESSAGE, write_certificate
from sublora.bounds.claims import Terms, losses_by_metric, projected_bound
from sublora.bounds.curvature import MAX_DIMENSION, fisher
from sublora.bounds.derive import base_weights, numbers, words
from sublora.bounds.draw import draw_units
from sublora.bounds.fallback import measure_fallback
from sublora.bounds.gradual import gradual_quantize
from sublora.bounds.held_out import held_out
from sublora.bounds.measure import Protocol, Rebuilt, rebuild, score, scoring_key
from sublora.bounds.processes import Processes
from sublora.bounds.quantizing import QuantizingWrapper
from sublora.bounds.scores import Scores
from sublora.coding.feedback import feedback_quantize, plan
from sublora.coding.gates import quantize_gates
from sublora.coding.message import Encoded, ModelSpec, decode_message, encode_message
from sublora.coding.quantizers import Quantized, quantize
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.config import Config
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.units import sample_units
from sublora.errors import ConfigError, CorpusError
from sublora.files import sha256, write_bytes
from sublora.nn.allocation import split_budget
from sublora.nn.create_model import architecture_from_config, get_model, merge
from sublora.nn.subspace import SubspaceModule
from sublora.training.checkpoint import Checkpoint, load_checkpoint
from sublora.training.resume import adopt_checkpoint

log = logging.getLogger(__name__)

# Training documents (or blocks) that decide between quantizations and mixture weights. They are chosen by the root
# seed; those that the risk is measured on are drawn afterwards, from a hash of the message.
CALIBRATION_UNITS = 150
# Scores of finished chunks, until all are finished.
SCORING = "scoring"
MIXTURE_EXPONENTS = range(1, 17)
# Quantization steps that are tried, as multiples of the root mean square of alpha. Feedback affords coarser ones.
STEPS = {"trellis": (0.1, 0.15, 0.21, 0.3), "feedback": (0.25, 0.4, 0.6)}
# Bits per coordinate at which the price of a bit is taken before there is a message.
PLANNED_RATE = 1.5


class Certifier:
    """One checkpoint on its way to a certificate."""

    def __init__(self, config: Config, checkpoint: Checkpoint, corpus: Corpus) -> None:
        self.config = adopt_checkpoint(config, checkpoint)
        self.corpus = corpus
        self.architecture = architecture_from_config(self.config, corpus.vocab_size)
        self.spec = _spec(self.config, checkpoint)
        self.tensors = checkpoint.tensors
        self.alpha = checkpoint.tensors["subspace_params"].numpy().astype(np.float32)
        self.rms = float(np.sqrt(np.mean(self.alpha.astype(np.float64) ** 2))) or 1.0
        gates = checkpoint.tensors.get("gating_params")
        self.gates = quantize_gates(1 / (1 + np.exp(-gates.double().numpy()))) if gates is not None else np.zeros(0)
        b = self.config.bounds
        stride = min(b.sliding_window_size or self.architecture.block_size, self.architecture.block_size)
        self.processes = Processes(self.config.system.device)
        block_size = self.architecture.block_size
        self.protocol = Protocol(block_size, stride, b.eval_batch_size, b.bound_type == "token_level")
        self.units = sample_units(corpus, corpus.train, b.bound_type, block_size)
        self.fallback = measure_fallback(self.units, b.delta)
        rng = seeds.stream(self.spec.seed, "calibration")
        self.calibration = np.sort(rng.choice(len(self.units), min(CALIBRATION_UNITS, len(self.units)), replace=False))

    def terms(self, bits: int, mixture_exponent: int) -> Terms:
        """Return what the bound depends on for a message of so many bits."""
        b = self.config.bounds
        return Terms(
            bound_type=b.bound_type,
            bits=bits,
            n=self.units.sample_size(b.bound_type),
            delta=b.delta,
            joint=b.joint,
            mixture_weight=2.0**-mixture_exponent,
            n_symbols=self.units.n_symbols,
            min_tokens=self.units.min_tokens,
            fallback=self.fallback,
            subsampled=b.bound_samples > 0,
        )

    def score(self, data: bytes, drawn: Int[np.ndarray, " m"], description: str) -> Scores:
        """Return the losses of units under what a message decodes to."""
        self.processes.agree("the message", data)
        rebuilt = rebuild(decode_message(data, max_symbols=len(self.alpha)), self.architecture)
        return score(rebuilt, self.units, drawn, self.protocol, self.processes, description)

    def score_unquantized(self, drawn: Int[np.ndarray, " m"], description: str) -> Scores:
        """Return the losses of units under the trained model, before quantization."""
        model = self.trained_model(self.gates)
        whole = Rebuilt(merge(model), str(model.base_sha256), model.D)
        return score(whole, self.units, drawn, self.protocol, self.processes, description)

    def candidates(self) -> list[tuple[Quantized, np.ndarray]]:
        """Return the quantizations to choose from, each with its gates.

        Raises:
            ConfigError: feedback quantization of more coordinates than a curvature matrix can have.
        """
        b = self.config.bounds
        if b.quantizer in ("uniform", "kmeans") and b.max_quant_iters:
            return [self.quantization_aware()]
        if b.quantizer not in STEPS:
            return [(quantize(self.alpha, levels=b.levels, method=b.quantizer), self.gates)]
        if b.quantizer == "feedback":
            return [(quantized, self.gates) for quantized in self.feedback()]
        # At high rate a step s costs s^2 / 24 in half the squared error, and a bit is worth ln 2 / 12 s^2 of it.
        lagrangians = [(factor * self.rms) ** 2 * math.log(4) / 12 for factor in STEPS["trellis"]]
        ones = np.ones(len(self.alpha))
        return [(rate_distortion_quantize(self.alpha, ones, lagrangian), self.gates) for lagrangian in lagrangians]

    def quantization_aware(self) -> tuple[Quantized, np.ndarray]:
        """Return alpha and gates after training with a learned codebook."""
        b = self.config.bounds
        wrapper = QuantizingWrapper(self.trained_model(), levels=b.levels, method=b.quantizer)
        wrapper.fit(
            self.corpus.train,
            steps=b.max_quant_iters,
            learning_rate=b.quant_lr,
            batch_size=self.config.data.batch_size,
            block_size=self.architecture.block_size,
            seed=self.spec.seed,
        )
        return wrapper.quantized(), wrapper.quantized_gates()

    def feedback(self) -> list[Quantized]:
        """Return alpha with errors that the curvature of the loss directs: in one go, or while it is trained on."""
        b = self.config.bounds
        if len(self.alpha) > MAX_DIMENSION:
            raise ConfigError(
                f"bounds.quantizer=feedback works for up to {MAX_DIMENSION} coordinates, not {len(self.alpha)}: "
                "use bounds.quantizer=trellis"
            )
        model = self.trained_model(self.gates)
        curvature = fisher(
            model,
            self.corpus.train,
            seed=self.spec.seed,
            samples=b.curvature_samples,
            block_size=self.architecture.block_size,
        )
        if not b.max_quant_iters:
            return [feedback_quantize(self.alpha, curvature, factor * self.rms) for factor in STEPS["feedback"]]
        step, rate = plan(self.alpha, curvature, self.price_of_a_bit())
        log.info("planned step %.3g and scale %.3g times the root mean square", step / self.rms, rate.scale / self.rms)
        return [
            gradual_quantize(
                model,
                self.corpus.train,
                curvature,
                step=step,
                rate=rate,
                steps=b.max_quant_iters,
                batch_size=self.config.data.batch_size,
                block_size=self.architecture.block_size,
                seed=self.spec.seed,
            )
        ]

    def price_of_a_bit(self) -> float:
        """Return by how much one more bit raises the estimated bound of the model before quantization."""
        scores = self.score_unquantized(self.calibration, "pricing bits")
        bits = round(PLANNED_RATE * len(self.alpha))
        low, high = (self.estimate(k, scores, MIXTURE_EXPONENTS[0]) for k in (bits, 2 * bits))
        return (high - low) / bits

    def trained_model(self, gates: np.ndarray | None = None) -> SubspaceModule:
        """Return the model at the checkpoint's alpha, and at its gates or those that are given, before quantization."""
        model = get_model(self.config, self.corpus.vocab_size)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.tensors[name])
            if gates is not None and len(gates):
                model.get_parameter("gating_params").copy_(torch.from_numpy(gates).logit())
        return model.to(self.processes.device)

    def estimate(self, bits: int, scores: Scores, mixture_exponent: int) -> float:
        """Return the bound of a message of so many bits if everything lost what the calibration units lose."""
        terms = self.terms(bits, mixture_exponent)
        return projected_bound(losses_by_metric(scores, terms)["bpd"], terms)

    def choose(self) -> Encoded:
        """Return the message with the lowest estimated bound over quantizations and mixture weights."""
        best: tuple[float, Encoded] | None = None
        for quantized, gates in self.candidates():
            draft = encode_message(self.spec, MIXTURE_EXPONENTS[0], quantized, gates)
            scores = self.score(draft.data, self.calibration, "calibrating")
            size = 8 * len(draft.data)
            exponent = min(MIXTURE_EXPONENTS, key=lambda e: self.estimate(size, scores, e))
            encoded = encode_message(self.spec, exponent, quantized, gates)
            size = 8 * len(encoded.data)
            value = self.estimate(size, scores, exponent)
            log.info("message of %d bits, mixture weight 2^-%d: estimated bound %.4f", size, exponent, value)
            if best is None or value < best[0]:
                best = (value, encoded)
        assert best is not None
        return best[1]

    def run(self, out_dir: Path) -> dict[str, Any]:
        """Write message.bin, losses.safetensors and certificate.json; return the certificate.

        The message is written before anything is drawn. Scores of finished chunks are kept in the folder `scoring`
        until all are there, so that an interrupted run goes on where it was.
        """
        encoded = self.choose()
        if self.processes.main:
            # An older certificate belongs to an older message: a run that is interrupted from here on leaves none.
            (out_dir / CERTIFICATE).unlink(missing_ok=True)
            write_bytes(out_dir / MESSAGE, encoded.data)
        self.processes.wait()
        data = (out_dir / MESSAGE).read_bytes()
        message = decode_message(data, max_symbols=len(self.alpha))
        rebuilt = rebuild(message, self.architecture)
        corpus_sha256 = self.corpus.train.compute_sha256()
        samples = self.config.bounds.bound_samples
        drawn = draw_units(data, corpus_sha256, len(self.units), samples)
        kept = out_dir / SCORING / scoring_key(data, corpus_sha256, self.units, drawn, self.protocol)
        scores = score(rebuilt, self.units, drawn, self.protocol, self.processes, "measuring the risk", kept)
        terms = self.terms(8 * len(data), message.mixture_exponent)
        losses = scores.to_bytes()
        meta = self.corpus.meta
        facts: dict[str, Any] = {
            "format": FORMAT,
            "delta": terms.delta,
            "joint": terms.joint,
            "bound_type": terms.bound_type,
            "mixture_weight": terms.mixture_weight,
            "baselines": baselines(self.corpus, terms),
            "held_out": held_out(rebuilt, self.corpus, terms, self.protocol, self.processes),
            "message": {
                "bits": terms.bits,
                "coordinates": len(message.alpha),
                "sha256": sha256(data),
                "ledger": encoded.ledger,
            },
            "prior": {
                "architecture": dataclasses.asdict(self.architecture),
                "D": rebuilt.D,
                "stride": self.protocol.stride,
                "base_weights": base_weights(self.architecture.source, message.spec),
                "base_sha256": rebuilt.base_sha256,
                "tokenizer": str(meta["tokenizer"]),
            },
            "corpus": {
                "source": str(meta["source"]),
                "rule": str(meta["rule"]),
                "sha256": corpus_sha256,
                "n": terms.n,
                "vocab_size": self.corpus.vocab_size,
                "eot_token": self.corpus.eot_token,
                "min_tokens": terms.min_tokens,
            },
            "fallback": dataclasses.asdict(self.fallback),
            "draw": {"samples": samples, "batch_size": self.protocol.batch_size},
            "losses_sha256": sha256(losses),
            "versions": {"sublora": sublora.__version__}
            | {p: importlib.metadata.version(p) for p in ("torch", "transformers", "peft", "numpy", "constriction")},
        }
        facts |= numbers(facts, scores)
        certificate = {"format": FORMAT} | words(facts, facts["claims"]) | facts
        if self.processes.main:
            write_bytes(out_dir / LOSSES, losses)
            write_certificate(out_dir / CERTIFICATE, certificate)
            # What an older, interrupted scoring of another message left behind.
            shutil.rmtree(out_dir / SCORING, ignore_errors=True)
        self.processes.wait()
        return certificate


def _spec(config: Config, checkpoint: Checkpoint) -> ModelSpec:
    s = config.sublora
    learned = s.allocation_mode == "learned"
    gates = checkpoint.tensors.get("gating_params")
    return ModelSpec(
        seed=config.system.seed,
        intrinsic_dim=s.intrinsic_dim,
        intrinsic_mode=s.intrinsic_mode if s.intrinsic_dim else "identity",
        use_lora=s.use_lora,
        attention_r=s.attention_r,
        head_r=s.head_r,
        lora_alpha=s.lora_alpha if s.use_lora else 0,
        allocation_mode=s.allocation_mode,
        allocation_scope=s.allocation_scope if learned else "layer",
        budget_b=split_budget(s.intrinsic_dim, s.allocation_ratio)[1] if s.allocation_mode == "fixed" else 0,
        gating_steepness=s.gating_steepness if learned and s.allocation_scope == "layer" else 0,
        n_gates=0 if gates is None else len(gates),
    )


def certify(config: Config) -> Path:
    """Certify the checkpoint at model.best_checkpoint_path; return the certificate's path, beside the checkpoint.

    Raises:
        TrainingError, CorpusError, ConfigError: the checkpoint, the corpus or the settings cannot be used.
    """
    if not config.model.best_checkpoint_path:
        raise ConfigError("give the checkpoint to certify: --model.best_checkpoint_path=FOLDER_OF_THE_RUN")
    path = Path(config.model.best_checkpoint_path)
    checkpoint = load_checkpoint(path)
    data = config.data
    corpus = open_corpus(Path(data.dataset_dir), data.dataset, eot_token=data.eot_token, vocab_size=data.vocab_size)
    if corpus.vocab_size != checkpoint.vocab_size:
        raise CorpusError(
            f"the corpus has {corpus.vocab_size} tokens, the checkpoint's model {checkpoint.vocab_size}: "
            "give the corpus it was trained on"
        )
    out_dir = path if path.is_dir() else path.parent
    Certifier(config, checkpoint, corpus).run(out_dir)
    return out_dir / CERTIFICATE
