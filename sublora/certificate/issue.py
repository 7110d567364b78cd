"""From a trained checkpoint to a certificate: quantize, write the message, measure what it decodes to, bound, seal.

A message that somebody has already starts at its second step.
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from sublora import seeds
from sublora.certificate.assemble import assemble, coded_setting
from sublora.certificate.claims import losses_by_metric, projected_claim
from sublora.certificate.evidence import Evidence
from sublora.certificate.matching import require_match
from sublora.certificate.model import Certificate
from sublora.certificate.predicting import best_prediction
from sublora.certificate.reading import write_certificate
from sublora.certificate.terms import make_terms
from sublora.coding.architecture import Architecture
from sublora.coding.message import MAX_SYMBOLS, Header, decode_message, encode_message
from sublora.coding.prediction import NEUTRAL, Prediction
from sublora.coding.quantizers import Quantized
from sublora.config import Config
from sublora.corpus.corpus import BYTES_TOKENIZER, Corpus, configured_corpus
from sublora.errors import ConfigError, CorpusError
from sublora.files import write_bytes
from sublora.quantizing.candidates import PLANNED_RATE, Written, best_message
from sublora.quantizing.trained import Trained
from sublora.run_folder import Files, RunFolder
from sublora.scoring.decisions import RANK_MARGIN
from sublora.scoring.measure import (
    Rebuilt,
    base_scores,
    protocol_of,
    rebuild,
    score,
)
from sublora.scoring.processes import Processes
from sublora.scoring.scores import Scores
from sublora.training.checkpoint import Checkpoint, load_checkpoint
from sublora.training.resume import adopt_checkpoint

log = logging.getLogger(__name__)

# Training documents (or blocks) that decide between quantizations and mixture weights. They are chosen by the root
# seed; those that the risk is measured on are drawn afterwards, from a hash of the message.
CALIBRATION_UNITS = 64
MIXTURE_EXPONENTS = range(1, 17)
# Units that stand for all where the known code's part of the bound is estimated.
ESTIMATING_UNITS = 2_000
# Order of the n-gram that is fitted to documents known beforehand: of bytes (True), and of longer tokens.
USUAL_ORDER = {True: 6, False: 4}


class Certifier:
    """One checkpoint on its way to a certificate.

    Args:
        config: of the certificate.
        checkpoint: the trained model.
        corpus: that is certified.
        first: with which this one competes; both are measured against the same evidence, on the same units.
        n: documents that the claim will be about, where the corpus only stands for them; 0: those of the corpus.

    Raises:
        ConfigError: this one has another base or another claim than the first.
    """

    def __init__(
        self, config: Config, checkpoint: Checkpoint, corpus: Corpus, first: "Certifier | None" = None, n: int = 0
    ) -> None:
        self.config = adopt_checkpoint(config, checkpoint)
        self.corpus, self._n = corpus, n
        processes = Processes(self.config.system.device)
        self.trained = Trained(self.config, checkpoint, corpus, processes.device)
        b, architecture = self.config.bounds, self.trained.architecture
        uses_prior = corpus.prior is not None and b.bound_type == "document_level"
        setting = coded_setting(
            corpus,
            bound_type=b.bound_type,
            delta=Fraction(str(b.delta)),
            joint=b.joint,
            population=b.claims_population(corpus.split_seed is not None),
            prior=uses_prior,
            ngram_order=self._ngram_order() if uses_prior else 0,
        )
        self.header = Header(
            setting=setting,
            architecture=architecture,
            spec=self.trained.spec,
            mixture_exponent=MIXTURE_EXPONENTS[0],
            samples=b.bound_samples,
            stride=min(b.sliding_window_size or architecture.block_size, architecture.block_size),
            prompt=self.trained.prompt,
        )
        self.protocol = protocol_of(self.header, b.eval_batch_size, RANK_MARGIN)
        if first is not None:
            self._join(first)
            return
        self.evidence = Evidence(self.header, corpus, self.config.prior.base, self.config.prior.published, processes)
        self.units, self.processes = self.evidence.units, self.evidence.processes
        self._few = self.evidence.measured_code.sample(ESTIMATING_UNITS)
        rng = seeds.stream(self.trained.spec.seed, "calibration")
        self.calibration = np.sort(rng.choice(len(self.units), min(CALIBRATION_UNITS, len(self.units)), replace=False))

    def _join(self, first: "Certifier") -> None:
        """Share what a comparison has in common: corpus, base, units, and the base's losses of them."""
        if _base_of(self.header) != _base_of(first.header) or self.header.setting != first.header.setting:
            raise ConfigError(
                "candidates must have one base and one block size: certify runs on different ones each on its own"
            )
        self.evidence, self.units, self.processes = first.evidence, first.units, first.processes
        self._few, self.calibration, self._base_bits = first._few, first.calibration, first._base_bits

    def _ngram_order(self) -> int:
        order = self.config.prior.ngram_order
        return order if order is not None else USUAL_ORDER[self.corpus.meta["tokenizer"] == BYTES_TOKENIZER]

    def score(self, data: bytes, description: str) -> Scores:
        """Return the losses of the calibration units under what a message decodes to."""
        self.processes.agree("the message", data)
        message = decode_message(data, max_symbols=max(len(self.trained.alpha), 1))
        return self._score(rebuild(message, self.evidence.source, self.corpus.prior), description)

    def score_unquantized(self, description: str) -> Scores:
        """Return the losses of the calibration units under the trained model, before quantization."""
        return self._score(self.trained.unquantized(), description)

    @cached_property
    def _base_bits(self) -> np.ndarray:
        """The base's losses of the calibration units: measured once."""
        references = self.evidence.references
        if references.base is None:
            return np.zeros((len(self.calibration), 0))
        return base_scores(references, self.units, self.calibration, self.protocol, self.processes, "calibrating")[
            :, None
        ]

    def _score(self, rebuilt: Rebuilt, description: str) -> Scores:
        without_base = dataclasses.replace(self.evidence.references, base=None)
        scores = score(rebuilt, without_base, self.units, self.calibration, self.protocol, self.processes, description)
        return dataclasses.replace(scores, base_bits=self._base_bits)

    def price_of_a_bit(self) -> float:
        """Return by how much one more bit raises the estimated bound of the model before quantization."""
        scores = self.score_unquantized("pricing bits")
        bits = round(PLANNED_RATE * len(self.trained.alpha))
        header = self._best_header(bits, scores)
        low, high = (self.estimate(header, k, scores) for k in (bits, 2 * bits))
        return (high - low) / bits

    def estimate(self, header: Header, bits: int, scores: Scores) -> float:
        """Return the bound of a message of so many bits if everything lost what the calibration units lose."""
        n = self._n or self.units.sample_size(header.setting.bound_type)
        terms = make_terms(header, bits, n, self.evidence.known(header, self._few))
        metrics = losses_by_metric(scores, terms)
        return projected_claim(metrics.get("bpb", metrics["bpd"]), terms, header.samples)

    def _best_header(self, bits: int, scores: Scores) -> Header:
        """The header whose mixture weight and prediction are estimated to be best for a message of so many bits."""

        def at(exponent: int, prediction: Prediction) -> Header:
            return dataclasses.replace(self.header, mixture_exponent=exponent, prediction=prediction)

        def cost(header: Header) -> float:
            return self.estimate(header, bits + header.prediction.bits - 1, scores)

        exponent = min(MIXTURE_EXPONENTS, key=lambda e: cost(at(e, NEUTRAL)))
        if self.header.setting.bound_type == "token_level":
            return at(exponent, NEUTRAL)
        prediction = best_prediction(lambda p: cost(at(exponent, p)))
        exponent = min(MIXTURE_EXPONENTS, key=lambda e: cost(at(e, prediction)))
        return at(exponent, prediction)

    def choose(self) -> Written:
        """Return the lowest estimated bound over quantizations, mixture weights and predictions, and its message."""
        return best_message(self.trained, self.price_of_a_bit, self._write)

    def _write(self, quantized: Quantized | None, gates: np.ndarray) -> Written:
        """The message of a quantization, with the mixture weight and the prediction that suit it."""
        draft = encode_message(self.header, quantized, gates).data
        scores = self.score(draft, "calibrating")
        header = self._best_header(8 * len(draft), scores)
        data = encode_message(header, quantized, gates).data
        value = self.estimate(header, 8 * len(data), scores)
        log.info(
            "message of %d bits, mixture weight 2^-%d, %.2f of the known price predicted: estimated bound %.4f",
            8 * len(data), header.mixture_exponent, header.prediction.slope, value,
        )  # fmt: skip
        return value, data


def write_message(files: Files, data: bytes, processes: Processes) -> bytes:
    """Write a message of any kind, and return it as it was written.

    Args:
        files: of the certificate that there will be.
        data: the message.
        processes: that will measure it.
    """
    if processes.main:
        # An older certificate belongs to an older message: a run that is interrupted from here on leaves none.
        files.certificate.unlink(missing_ok=True)
        write_bytes(files.message, data)
        data = files.message.read_bytes()
    # On another machine there may be no such file; what is measured everywhere is what was written here.
    processes.agree("the message", data)
    return data


def issue(data: bytes, evidence: Evidence, batch_size: int, run: RunFolder) -> Certificate:
    """Measure what a message decodes to, and write message, losses and certificate; return the certificate.

    The message is written before anything is drawn. Scores of finished chunks are kept in the run's folder until
    all are there, so that an interrupted run goes on where it was.

    Args:
        data: the message.
        evidence: of its header.
        batch_size: windows scored at once.
        run: where everything is written.
    """
    processes = evidence.processes
    data = write_message(run.of_model(), data, processes)
    message = decode_message(data, max_symbols=MAX_SYMBOLS)
    protocol = protocol_of(message.header, batch_size, RANK_MARGIN)
    rebuilt, scores = evidence.losses(data, message, protocol, run)
    beside = evidence.beside(data, message, rebuilt, protocol)
    measured = evidence.measured(message, rebuilt, scores, beside, batch_size)
    certificate = assemble(data, message, measured).sealed()
    if processes.main:
        write_bytes(run.losses, measured.scores.to_bytes())
        write_certificate(run, certificate)
    # What an older, interrupted scoring of another message left behind.
    shutil.rmtree(run.scoring, ignore_errors=True)
    processes.wait()
    return certificate


def certify_message(
    data: bytes, corpus: Corpus, run: RunFolder, *, base: str = "", published: str = "", batch_size: int = 32
) -> Certificate:
    """Certify a message that somebody has, by the same steps as one that was just written.

    Args:
        data: the message. What it claims, and how it is measured, stands in it.
        corpus: that it was written for.
        run: where message, losses and certificate are written.
        base: source of the pretrained base, where it names one.
        published: date of that base, as its user states it.
        batch_size: windows scored at once.

    Raises:
        MessageError: it is no message.
        CertificateError, ConfigError: it was written for another corpus or base.
    """
    header = decode_message(data, max_symbols=MAX_SYMBOLS).header
    require_match(header, corpus, base)
    return issue(data, Evidence(header, corpus, base, published, Processes()), batch_size, run)


def _base_of(header: Header) -> tuple[Architecture, int | None]:
    """What the base follows from: random weights from a seed too."""
    architecture = header.architecture
    return architecture, header.spec.seed if architecture.kind == "random" else None


def best_candidate(
    config: Config, candidates: Mapping[Path, Checkpoint], corpus: Corpus
) -> tuple[Path, Certifier, bytes]:
    """Return the path of the checkpoint whose estimated bound is lowest, the checkpoint, and its message.

    Every candidate is quantized as if it were alone, and all are estimated on the same training units. They may differ
    in d, adapter, operator and prompt. A choice between messages costs nothing: the code of messages is prefix-free
    over all of them together, d and everything else that says how to read the rest being coded in front of it, so the
    union over messages that a bound pays K bits for holds for every candidate at once, however one is picked.

    Args:
        config: of the certificate.
        candidates: the checkpoints, by their paths or those of the folders of their runs.
        corpus: that all were trained on.

    Raises:
        CorpusError, ConfigError: a checkpoint cannot be used, or was trained on another corpus or base than the first.
    """
    paths, checkpoints = list(candidates), list(candidates.values())
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if checkpoint.vocab_size != corpus.vocab_size:
            raise CorpusError(
                f"the corpus has {corpus.vocab_size} tokens, the checkpoint's model {checkpoint.vocab_size}: "
                "give the corpus it was trained on"
            )
        if checkpoint.corpus_sha256 != checkpoints[0].corpus_sha256:
            raise CorpusError(
                f"{path} was trained on another corpus than {paths[0]}: leave one of them out of bounds.candidates"
            )
    certifiers: list[Certifier] = []
    for checkpoint in checkpoints:
        certifiers.append(Certifier(config, checkpoint, corpus, certifiers[0] if certifiers else None))
    chosen = [certifier.choose() for certifier in certifiers]
    best = min(range(len(chosen)), key=lambda i: chosen[i][0])
    value, data = chosen[best]
    if len(paths) > 1:
        log.info(
            "certified: %s, d = %d, %d bits, the lowest estimated bound (%.4f) of %d candidates",
            paths[best], len(certifiers[best].trained.alpha), 8 * len(data), value, len(paths),
        )  # fmt: skip
    return paths[best], certifiers[best], data


def certify(config: Config) -> Path:
    """Certify the best of the checkpoints at model.best_checkpoint_path and bounds.candidates.

    Message, losses and certificate are written beside the one that is best.

    Returns:
        The certificate's path.

    Raises:
        TrainingError, CorpusError, ConfigError: a checkpoint, the corpus or the settings cannot be used.
    """
    first = config.model.best_checkpoint_path
    paths = [Path(path) for path in ([first] if first else []) + config.bounds.candidates]
    if not paths:
        raise ConfigError("give the checkpoint to certify: --model.best_checkpoint_path=FOLDER_OF_THE_RUN")
    candidates = {path: load_checkpoint(path) for path in paths}
    corpus = configured_corpus(config.data)
    path, certifier, data = best_candidate(config, candidates, corpus)
    run = RunFolder.of(path)
    issue(data, certifier.evidence, config.bounds.eval_batch_size, run)
    return run.certificate
