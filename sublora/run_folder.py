"""The files of a run: the one place that spells their names."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Files(NamedTuple):
    """The files of a certificate of some kind."""

    certificate: Path
    message: Path


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, and the path of every file that a command writes there.

    path: the folder; a path to one of its files stands for the folder too, see `of`.
    """

    path: Path

    @staticmethod
    def of(path: Path) -> "RunFolder":
        """Return the run of a folder, or of a file in it."""
        return RunFolder(path if path.is_dir() or not path.suffix else path.parent)

    @staticmethod
    def holds_classifier(path: Path) -> bool:
        """Whether a path is the certificate of a classifier, or a folder that holds one and no other certificate."""
        run = RunFolder.of(path)
        if path.is_dir():
            return run.classifier_certificate.is_file() and not run.certificate.is_file()
        return path.name == run.classifier_certificate.name

    @staticmethod
    def files_at(path: Path) -> Files:
        """Return the files of the certificate at a path, or in a folder."""
        run = RunFolder.of(path)
        return run.of_classifier() if RunFolder.holds_classifier(path) else run.of_model()

    def of_model(self) -> Files:
        """Return the files of the certificate of a language model."""
        return Files(self.certificate, self.message)

    def of_classifier(self) -> Files:
        """Return the files of the certificate of a classifier."""
        return Files(self.classifier_certificate, self.classifier)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """What training recorded, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The checkpoint that was best on the validation documents."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.safetensors"

    @property
    def message(self) -> Path:
        """The bytes from which the model is rebuilt."""
        return self.path / "message.bin"

    @property
    def certificate(self) -> Path:
        """What is claimed of the model in the message."""
        return self.path / "certificate.json"

    @property
    def losses(self) -> Path:
        """The losses that the claims follow from."""
        return self.path / "losses.safetensors"

    @property
    def classifier(self) -> Path:
        """The bytes from which a classifier is rebuilt."""
        return self.path / "classifier.bin"

    @property
    def classifier_certificate(self) -> Path:
        """What is claimed of the classifier."""
        return self.path / "classifier.json"

    @property
    def predictions(self) -> Path:
        """What the classifier says of the documents that were measured."""
        return self.path / "predictions.safetensors"

    @property
    def selection(self) -> Path:
        """What is claimed of the run as the best of several."""
        return self.path / "selection.json"

    @property
    def verification(self) -> Path:
        """That a sweep has verified the certificate."""
        return self.path / "verification.json"

    @property
    def attestation(self) -> Path:
        """The issuer's signed statement."""
        return self.path / "attestation.json"

    @property
    def reproduced(self) -> Path:
        """A verifier's signed statement."""
        return self.path / "reproduced.json"

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    @property
    def samples(self) -> Path:
        """Text that the model wrote, for the page."""
        return self.path / "samples.json"

    @property
    def scoring(self) -> Path:
        """Scores of finished chunks, until all are finished."""
        return self.path / "scoring"

    @property
    def steps(self) -> Path:
        """Which steps a sweep has taken, with which settings."""
        return self.path / "steps.json"

    @property
    def outcome(self) -> Path:
        """What a short run measured that was made to choose a learning rate."""
        return self.path / "outcome.json"

    @property
    def times(self) -> Path:
        """How long each step of a demo took."""
        return self.path / "times.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works in the folder."""
        return self.path / ".lock"

    @property
    def pretrain(self) -> Path:
        """What a base was fitted to and how."""
        return self.path / "pretrain.json"

    @property
    def pretraining(self) -> Path:
        """Checkpoints of a base until it is finished."""
        return self.path / "pretraining"

    @property
    def frame(self) -> Path:
        """The frame that a base brings with it."""
        return self.path / "frame.safetensors"

    @property
    def practice(self) -> Path:
        """What a base's frame was learned from and how."""
        return self.path / "practice.json"

    @property
    def tensorboard(self) -> Path:
        """Files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        """The run's name at Weights & Biases."""
        return self.path / "wandb_id.txt"
