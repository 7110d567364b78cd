"""From a trained checkpoint to a certificate: quantize, write the message, measure what it decodes to, bound, seal."""

import dataclasses
import importlib.metadata
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sublora
from sublora import seeds
from sublora.bounds.baselines import baselines
from sublora.bounds.certificate import (
    CERTIFICATE,
    FORMAT,
    LOSSES,
    MESSAGE,
    limits,
    metric_name,
    statement,
    write_certificate,
)
from sublora.bounds.claims import Terms, decompose, losses_by_metric, make_claims, reference_bound, risk_bound
from sublora.bounds.curvature import MAX_DIMENSION, fisher
from sublora.bounds.measure import Protocol, Rebuilt, draw_documents, rebuild, score
from sublora.bounds.scores import Scores
from sublora.coding.feedback import feedback_quantize
from sublora.coding.gates import quantize_gates
from sublora.coding.message import Encoded, ModelSpec, decode_message, encode_message
from sublora.coding.quantizers import Quantized, quantize
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.config import Config
from sublora.corpus.corpus import Corpus, Split, open_corpus
from sublora.errors import ConfigError, CorpusError
from sublora.files import sha256, write_bytes
from sublora.nn.allocation import split_budget
from sublora.nn.create_model import architecture_from_config, get_model
from sublora.nn.projectors import SubspaceModule
from sublora.training.checkpoint import Checkpoint, load_checkpoint
from sublora.training.resume import adopt_checkpoint

log = logging.getLogger(__name__)

# Training documents that decide between quantizations and mixture weights. They are chosen by the root seed; the
# documents that the risk is measured on are drawn afterwards, from a hash of the message.
CALIBRATION_DOCUMENTS = 150
HELD_OUT_DOCUMENTS = 500
MIXTURE_EXPONENTS = range(1, 17)
# Quantization steps that are tried, as multiples of the root mean square of alpha. Feedback affords coarser ones.
STEPS = {"trellis": (0.15, 0.21, 0.3, 0.42), "feedback": (0.4, 0.55, 0.75, 1.0)}


class Certifier:
    """One checkpoint on its way to a certificate."""

    def __init__(self, config: Config, checkpoint: Checkpoint, corpus: Corpus) -> None:
        self.config = adopt_checkpoint(config, checkpoint)
        self.corpus = corpus
        self.architecture = architecture_from_config(self.config, corpus.vocab_size)
        self.spec = _spec(self.config, checkpoint)
        self.tensors = checkpoint.tensors
        self.alpha = checkpoint.tensors["subspace_params"].numpy().astype(np.float32)
        gates = checkpoint.tensors.get("gating_params")
        self.gates = quantize_gates(1 / (1 + np.exp(-gates.double().numpy()))) if gates is not None else np.zeros(0)
        b = self.config.bounds
        stride = min(b.sliding_window_size or self.architecture.block_size, self.architecture.block_size)
        device = "cpu" if self.config.system.device == "auto" else self.config.system.device
        self.protocol = Protocol(b.bound_samples, stride, b.eval_batch_size, device)
        rng = seeds.stream(self.spec.seed, "calibration")
        self.calibration = np.sort(
            rng.choice(len(corpus.train), min(CALIBRATION_DOCUMENTS, len(corpus.train)), replace=False)
        )

    def terms(self, bits: int, mixture_exponent: int) -> Terms:
        """Return what the bound depends on for a message of so many bits."""
        b = self.config.bounds
        n = len(self.corpus.train)
        return Terms(
            bits,
            n,
            b.delta,
            b.joint,
            2.0**-mixture_exponent,
            self.corpus.vocab_size - 1,
            self.corpus.min_tokens,
            b.bound_samples > 0,
        )

    def score(self, data: bytes, split: Split, documents: np.ndarray, description: str) -> tuple[Scores, Rebuilt]:
        """Decode a message and score documents with what it decodes to; also return that model."""
        rebuilt = rebuild(decode_message(data, max_symbols=len(self.alpha)), self.architecture)
        block_size = self.architecture.block_size
        scores = score(rebuilt.model, split, documents, self.corpus, block_size, self.protocol, description)
        return scores, rebuilt

    def candidates(self) -> list[Quantized]:
        """Return the quantizations to choose from.

        Raises:
            ConfigError: feedback quantization of more coordinates than a curvature matrix can have.
        """
        b = self.config.bounds
        if b.quantizer not in STEPS:
            return [quantize(self.alpha, levels=b.levels, method=b.quantizer)]
        rms = float(np.sqrt(np.mean(self.alpha.astype(np.float64) ** 2))) or 1.0
        steps = [factor * rms for factor in STEPS[b.quantizer]]
        if b.quantizer == "trellis":
            # At high rate a step s costs s^2 / 24 in half the squared error, and a bit is worth ln 2 / 12 s^2 of it.
            ones = np.ones(len(self.alpha))
            return [rate_distortion_quantize(self.alpha, ones, step**2 * math.log(4) / 12) for step in steps]
        if len(self.alpha) > MAX_DIMENSION:
            raise ConfigError(
                f"bounds.quantizer=feedback works for up to {MAX_DIMENSION} coordinates, not {len(self.alpha)}: "
                "use bounds.quantizer=trellis"
            )
        curvature = fisher(
            self.trained_model(),
            self.corpus.train,
            seed=self.spec.seed,
            samples=b.curvature_samples,
            block_size=self.architecture.block_size,
        )
        return [feedback_quantize(self.alpha, curvature, step) for step in steps]

    def trained_model(self) -> SubspaceModule:
        """Return the model at the checkpoint's alpha and gates, before quantization."""
        model = get_model(self.config, self.corpus.vocab_size)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.tensors[name])
        return model.to(self.protocol.device)

    def estimate(self, encoded: Encoded, scores: Scores, mixture_exponent: int) -> float:
        """Return the bound that a message would get if all n documents lost what the calibration documents lose."""
        terms = dataclasses.replace(self.terms(8 * len(encoded.data), mixture_exponent), subsampled=False)
        losses, upper = losses_by_metric(scores, terms)["bpd"]
        return risk_bound(np.resize(losses, terms.n), upper, terms)

    def choose(self) -> Encoded:
        """Return the message with the lowest estimated bound over quantizations and mixture weights."""
        best: tuple[float, Encoded] | None = None
        for quantized in self.candidates():
            draft = encode_message(self.spec, MIXTURE_EXPONENTS[0], quantized, self.gates)
            scores, _ = self.score(draft.data, self.corpus.train, self.calibration, "calibrating")
            exponent = min(MIXTURE_EXPONENTS, key=lambda e: self.estimate(draft, scores, e))
            encoded = encode_message(self.spec, exponent, quantized, self.gates)
            value = self.estimate(encoded, scores, exponent)
            log.info(
                "message of %d bits, mixture weight 2^-%d: estimated bound %.4f", 8 * len(encoded.data), exponent, value
            )
            if best is None or value < best[0]:
                best = (value, encoded)
        assert best is not None
        return best[1]

    def run(self, out_dir: Path) -> dict[str, Any]:
        """Write message.bin, losses.safetensors and certificate.json; return the certificate."""
        encoded = self.choose()
        # An older certificate belongs to an older message: a run that is interrupted from here on leaves none.
        (out_dir / CERTIFICATE).unlink(missing_ok=True)
        write_bytes(out_dir / MESSAGE, encoded.data)
        data = (out_dir / MESSAGE).read_bytes()
        message = decode_message(data, max_symbols=len(self.alpha))
        train = self.corpus.train
        corpus_sha256 = train.compute_sha256()
        documents = draw_documents(data, corpus_sha256, len(train), self.protocol.samples)
        scores, rebuilt = self.score(data, train, documents, "measuring the risk")
        terms = self.terms(8 * len(data), message.mixture_exponent)
        claims = make_claims(scores, terms)
        losses = scores.to_bytes()
        write_bytes(out_dir / LOSSES, losses)
        meta = self.corpus.meta
        beside = baselines(self.corpus, terms)
        base = f"random, seed {self.spec.seed}" if self.architecture.source == "scratch" else self.architecture.source
        certificate = {
            "format": FORMAT,
            "statement": statement(
                next((c for c in claims if c["metric"] == "bpb"), claims[0]), terms, str(meta["source"])
            ),
            "delta": terms.delta,
            "joint": terms.joint,
            "bound_type": self.config.bounds.bound_type,
            "mixture_weight": terms.mixture_weight,
            "claims": [{**c, "name": metric_name(c["metric"])} for c in claims],
            "comparison": [reference_bound(scores, terms)],
            "baselines": beside,
            "decomposition": decompose(scores, terms, claims[0]["bound"]),
            "held_out": self.held_out(data, terms),
            "message": {"bits": terms.bits, "sha256": sha256(data), "ledger": encoded.ledger},
            "prior": {
                "architecture": dataclasses.asdict(self.architecture),
                "D": rebuilt.D,
                "stride": self.protocol.stride,
                "base_weights": base,
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
            "draw": {"samples": self.protocol.samples, "batch_size": self.protocol.batch_size},
            "losses_sha256": sha256(losses),
            "limits": limits(terms, base, str(meta["tokenizer"]), claims[0]["bound"], beside),
            "versions": {"sublora": sublora.__version__}
            | {p: importlib.metadata.version(p) for p in ("torch", "transformers", "peft", "numpy", "constriction")},
        }
        write_certificate(out_dir / CERTIFICATE, certificate)
        return certificate

    def held_out(self, data: bytes, terms: Terms) -> dict[str, Any] | None:
        """Return the decoded model's loss on evenly spaced held-out documents, None where there are none."""
        split = self.corpus.val
        if split is None or not len(split):
            return None
        documents = np.unique(np.linspace(0, len(split) - 1, HELD_OUT_DOCUMENTS).astype(int))
        scores, _ = self.score(data, split, documents, "measuring held-out documents")
        metrics = losses_by_metric(scores, terms)
        out: dict[str, Any] = {"documents": len(documents)}
        for metric in ("bpd", "bpb", "top_1_error"):
            if metric in metrics:
                out[metric] = float(metrics[metric][0].mean())
        out["standard_error"] = float(metrics["bpd"][0].std(ddof=1) / math.sqrt(len(documents)))
        return out


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
        gating_steepness=s.gating_steepness if learned else 0,
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
