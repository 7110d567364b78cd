"""From a trained checkpoint to a certificate: quantize, write the message, measure what it decodes to, bound, seal."""

import dataclasses
import importlib.metadata
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

import sublora
from sublora import seeds
from sublora.certificate.baselines import baselines
from sublora.certificate.certificate import CERTIFICATE, FORMAT, LOSSES, MESSAGE, write_certificate
from sublora.certificate.claims import Terms, losses_by_metric, projected_bound
from sublora.certificate.derive import base_weights, numbers, words
from sublora.certificate.draw import draw_units
from sublora.certificate.fallback import measure_fallback
from sublora.certificate.held_out import held_out
from sublora.coding.message import Encoded, decode_message, encode_message
from sublora.config import Config
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.units import sample_units
from sublora.errors import ConfigError, CorpusError
from sublora.files import sha256, write_bytes
from sublora.nn.create_model import merge
from sublora.quantizing.candidates import candidates
from sublora.quantizing.trained import Trained
from sublora.scoring.measure import Protocol, Rebuilt, rebuild, score, scoring_key
from sublora.scoring.processes import Processes
from sublora.scoring.scores import Scores
from sublora.training.checkpoint import Checkpoint, load_checkpoint
from sublora.training.resume import adopt_checkpoint

log = logging.getLogger(__name__)

# Training documents (or blocks) that decide between quantizations and mixture weights. They are chosen by the root
# seed; those that the risk is measured on are drawn afterwards, from a hash of the message.
CALIBRATION_UNITS = 150
# Scores of finished chunks, until all are finished.
SCORING = "scoring"
MIXTURE_EXPONENTS = range(1, 17)
# Bits per coordinate at which the price of a bit is taken before there is a message.
PLANNED_RATE = 1.5


class Certifier:
    """One checkpoint on its way to a certificate."""

    def __init__(self, config: Config, checkpoint: Checkpoint, corpus: Corpus) -> None:
        self.config = adopt_checkpoint(config, checkpoint)
        self.corpus = corpus
        self.processes = Processes(self.config.system.device)
        self.trained = Trained(self.config, checkpoint, corpus.train, self.processes.device)
        self.architecture, self.spec = self.trained.architecture, self.trained.spec
        b, block_size = self.config.bounds, self.architecture.block_size
        stride = min(b.sliding_window_size or block_size, block_size)
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
        rebuilt = rebuild(decode_message(data, max_symbols=len(self.trained.alpha)), self.architecture)
        return score(rebuilt, self.units, drawn, self.protocol, self.processes, description)

    def score_unquantized(self, drawn: Int[np.ndarray, " m"], description: str) -> Scores:
        """Return the losses of units under the trained model, before quantization."""
        model = self.trained.model(self.trained.gates)
        whole = Rebuilt(merge(model), str(model.base_sha256), model.D)
        return score(whole, self.units, drawn, self.protocol, self.processes, description)

    def price_of_a_bit(self) -> float:
        """Return by how much one more bit raises the estimated bound of the model before quantization."""
        scores = self.score_unquantized(self.calibration, "pricing bits")
        bits = round(PLANNED_RATE * len(self.trained.alpha))
        low, high = (self.estimate(k, scores, MIXTURE_EXPONENTS[0]) for k in (bits, 2 * bits))
        return (high - low) / bits

    def estimate(self, bits: int, scores: Scores, mixture_exponent: int) -> float:
        """Return the bound of a message of so many bits if everything lost what the calibration units lose."""
        terms = self.terms(bits, mixture_exponent)
        return projected_bound(losses_by_metric(scores, terms)["bpd"], terms)

    def choose(self) -> Encoded:
        """Return the message with the lowest estimated bound over quantizations and mixture weights."""
        best: tuple[float, Encoded] | None = None
        for quantized, gates in candidates(self.trained, self.price_of_a_bit):
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
        message = decode_message(data, max_symbols=len(self.trained.alpha))
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
