"""From a trained checkpoint to the certificate of a classifier: quantize, write the message, measure, bound, seal."""

import logging
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from sublora import seeds
from sublora.certificate.assemble import coded_setting
from sublora.certificate.issue import write_message
from sublora.certificate.reading import write_certificate
from sublora.classification.assemble import assemble
from sublora.classification.claims import projected_error_bound
from sublora.classification.evidence import LabelEvidence
from sublora.coding.message import Header, encode_message
from sublora.coding.quantizers import Quantized
from sublora.coding.verbalizer import decode_classifier, encode_classifier
from sublora.config import Config
from sublora.corpus.corpus import configured_corpus
from sublora.errors import ConfigError, CorpusError
from sublora.files import write_bytes
from sublora.quantizing.candidates import PLANNED_RATE, Written, best_message
from sublora.quantizing.trained import Trained
from sublora.run_folder import RunFolder
from sublora.scoring.decisions import RANK_MARGIN, label_errors
from sublora.scoring.measure import Rebuilt, rebuild
from sublora.scoring.processes import Processes
from sublora.training.checkpoint import load_checkpoint
from sublora.training.resume import adopt_checkpoint

log = logging.getLogger(__name__)

# Training documents that decide between quantizations, chosen by the root seed. Those that the error is measured on
# are drawn afterwards, from a hash of the message.
CALIBRATION_DOCUMENTS = 128


class ClassifierCertifier:
    """One checkpoint on its way to a certificate of its errors.

    Args:
        config: of the certificate.

    Raises:
        ConfigError: settings that are for language models, or no checkpoint.
        CorpusError: documents without labels, or of another vocabulary than the checkpoint's.
    """

    def __init__(self, config: Config) -> None:
        b, path = config.bounds, config.model.best_checkpoint_path
        if not path:
            raise ConfigError("give the checkpoint to certify: --model.best_checkpoint_path=FOLDER_OF_THE_RUN")
        if b.bound_type != "document_level" or b.claim == "source" or b.candidates:
            raise ConfigError(
                "the error of a classifier is certified for the documents of a population, one run at a time: leave "
                "out bounds.bound_type, bounds.claim and bounds.candidates"
            )
        checkpoint = load_checkpoint(Path(path))
        self.corpus = configured_corpus(config.data)
        if checkpoint.vocab_size != self.corpus.vocab_size:
            raise CorpusError(
                f"the corpus has {self.corpus.vocab_size} tokens, the checkpoint's model {checkpoint.vocab_size}: give "
                "the corpus it was trained on"
            )
        self.config = adopt_checkpoint(config, checkpoint)
        prior = self.config.prior
        self.evidence = LabelEvidence(self.corpus, prior.base, prior.published, Processes(self.config.system.device))
        self.trained = Trained(self.config, checkpoint, self.corpus, self.evidence.processes.device)
        setting = coded_setting(
            self.corpus,
            bound_type="document_level",
            delta=Fraction(str(b.delta)),
            joint=False,
            population=True,
            prior=self.corpus.prior is not None,
            ngram_order=0,
        )
        self.header = Header(
            setting=setting,
            architecture=self.trained.architecture,
            spec=self.trained.spec,
            mixture_exponent=1,
            samples=b.bound_samples,
            stride=self.trained.architecture.block_size,
            prompt=self.trained.prompt,
        )
        rng, n = seeds.stream(self.trained.spec.seed, "calibration"), len(self.corpus.train)
        self.calibration = np.sort(rng.choice(n, min(CALIBRATION_DOCUMENTS, n), replace=False))

    def _measure(self, rebuilt: Rebuilt) -> tuple[np.ndarray, float]:
        """The errors of the documents of the calibration, and the mean bits of their labels among the classes."""
        rows, size = self.calibration, self.config.bounds.eval_batch_size
        logits, classes = (
            self.evidence.logits(rebuilt, rows, size, "calibrating, documents"),
            self.evidence.classes(rows),
        )
        errors = label_errors(logits, classes, RANK_MARGIN).astype(np.float64)
        whole = logits.astype(np.float64)
        own = whole[np.arange(len(rows)), classes]
        return errors, float((logsumexp(whole, axis=1) - own).mean() / math.log(2))

    def _projected(self, errors: np.ndarray, bits: int) -> float:
        return projected_error_bound(
            errors,
            n=len(self.corpus.train),
            bits=bits + self.header.division_bits,
            delta=float(self.header.setting.delta),
            samples=self.header.samples,
        )

    def price_of_a_bit(self) -> float:
        """Return by how much one more bit raises the estimated bound of the model before quantization, in bits of
        label: errors and bits are taken to grow alike.
        """
        bits = round(PLANNED_RATE * len(self.trained.alpha))
        errors, label_bits = self._measure(self.trained.unquantized())
        log.info(
            "before quantization: %d errors in %d training documents, %.3f bits per label",
            int(errors.sum()), len(errors), label_bits,
        )  # fmt: skip
        price = (self._projected(errors, 2 * bits) - self._projected(errors, bits)) / bits
        return price * label_bits / max(float(errors.mean()), 1 / len(errors))

    def choose(self) -> Written:
        """Return the lowest estimated bound over quantizations, and its message."""
        return best_message(self.trained, self.price_of_a_bit, self._write)

    def _write(self, quantized: Quantized | None, gates: np.ndarray) -> Written:
        data = encode_classifier(self.evidence.verbalizer, encode_message(self.header, quantized, gates).data)
        model = decode_classifier(data, max_symbols=max(len(self.trained.alpha), 1)).model
        self.evidence.processes.agree("the message", data)
        errors, label_bits = self._measure(rebuild(model, self.evidence.source, self.corpus.prior))
        value = self._projected(errors, 8 * len(data))
        log.info(
            "message of %d bits: %d errors, %.3f bits per label, estimated bound %.4f",
            8 * len(data), int(errors.sum()), label_bits, value,
        )  # fmt: skip
        return value, data


def certify_classifier(config: Config) -> Path:
    """Certify the errors of the checkpoint at model.best_checkpoint_path, and return the certificate's path.

    Message, predictions and certificate are written beside it. The message is written before anything is drawn.

    Raises:
        TrainingError, CorpusError, ConfigError: the checkpoint, the corpus or the settings cannot be used.
    """
    certifier = ClassifierCertifier(config)
    evidence, run = certifier.evidence, RunFolder.of(Path(config.model.best_checkpoint_path))
    _, data = certifier.choose()
    data = write_message(run.of_classifier(), data, evidence.processes)
    classifier = decode_classifier(data, max_symbols=max(len(certifier.trained.alpha), 1))
    measured = evidence.measure(data, classifier, config.bounds.eval_batch_size)
    certificate = assemble(data, classifier, measured)
    if evidence.processes.main:
        write_bytes(run.predictions, measured.predictions.to_bytes())
        write_certificate(run, certificate)
    evidence.processes.wait()
    return run.classifier_certificate
