"""The certificate of a classifier as one typed object, and its file. Torch-free."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from sublora.certificate.model import (
    Beforehand,
    Certificate,
    CorpusPart,
    Delta,
    How,
    MessagePart,
    Part,
    Sealed,
    Sha256,
    Upper,
)
from sublora.certificate.reading import MOST_BYTES, read_certificate, sealed_certificate
from sublora.errors import CertificateError
from sublora.files import read_bytes
from sublora.run_folder import Files, RunFolder

FORMAT: Literal["classifier 2"] = "classifier 2"
METRIC, GAIN = "error", "gain"
"""of the claim, where it is signed or watched, and of the improvement over the base"""


class ErrorClaim(Part):
    """At most this share of the population's documents is classified wrongly."""

    bound: float = Field(ge=0, le=1)
    """what is claimed, rounded up"""
    measured: int = Field(ge=1)
    """documents that were measured; repeated ones count as often as they were drawn"""
    errors: int = Field(ge=0)
    """of them, near ties between classes included"""


class TopClaim(Part):
    """At most this share of the population's documents has a label that is not among the k likeliest."""

    k: int = Field(ge=2)
    """classes that the label may be among"""
    bound: float = Field(ge=0, le=1)
    """what is claimed, rounded up"""
    errors: int = Field(ge=0)
    """of the documents that were measured, near ties between classes included"""


class GainClaim(Part):
    """The share of errors is lower than the base's, with the same prompt and label tokens, by at least this."""

    bound: float = Field(ge=-1, le=1)
    """what is claimed, rounded down; below 0 no improvement is claimed"""
    mended: int = Field(ge=0)
    """of the documents that were measured, those that the base alone gets wrong: near ties are not its errors"""
    spoiled: int = Field(ge=0)
    """those that the classifier alone gets wrong, its near ties included"""


class ErrorClaims(Part):
    """Every claim. Each holds on its own with probability 1 - delta."""

    error: ErrorClaim
    """the claim that stands for the certificate"""
    top: tuple[TopClaim, ...]
    """for k = 2 to 5, as far as there are more than k classes"""
    gain: GainClaim
    """the improvement over the base"""

    @property
    def uppers(self) -> dict[int, Upper]:
        """The claims of the form "at most", by their k: an error is a loss of 1."""
        out = {1: Upper(METRIC, "shares of wrong labels", self.error.bound, 1.0)}
        for top in self.top:
            name = f"shares of labels that are not among the {top.k} likeliest"
            out[top.k] = Upper(f"top_{top.k}_error", name, top.bound, 1.0)
        return out


class ErrorBaseline(Part):
    """A simple classifier: what the certificate has to beat."""

    name: str
    """of the classifier"""
    bits: int = Field(ge=0)
    """K of its message, 0 where it needs none"""
    documents: int = Field(ge=1)
    """that it was measured on"""
    errors: int = Field(ge=0)
    """of them"""
    exact: bool
    """true: these documents are all of the population that it was not fitted to, and the bound is a fact"""
    bound: float = Field(ge=0, le=1)
    """share of errors: counted, or bounded as the claim is"""


class ClassPart(Part):
    """One class."""

    name: str
    """its label"""
    token: int = Field(ge=0)
    """that stands for it"""
    documents: int = Field(ge=0)
    """in the population"""
    measured: int = Field(ge=0)
    """of those measured"""
    errors: int = Field(ge=0)
    """of these"""


class ErrorSetting(Part):
    """What the claims are about; read off the message."""

    delta: str = Delta
    """probability that a claim may fail: a decimal fraction, exact"""
    samples: int = Field(ge=0)
    """documents drawn to measure the error; 0: all n were measured"""
    most_characters: int = Field(ge=1)
    """of a text that are read"""
    cue: tuple[int, ...]
    """tokens between text and label"""
    prompt_tokens: int = Field(ge=0)
    """that stand before every document; the message says which"""


class ClassifierCertificate(Sealed):
    """Claims about the classifier in a message that anyone with the labelled documents can check from the bytes."""

    format: Literal["classifier 2"]
    """of the certificate"""
    statement: str
    """the claims in plain sentences"""
    limits: tuple[str, ...]
    """what the claims do not say"""
    claims: ErrorClaims
    """every claim"""
    baselines: tuple[ErrorBaseline, ...] = Field(min_length=1)
    """what it has to beat"""
    classes: tuple[ClassPart, ...] = Field(min_length=2)
    """in their order"""
    setting: ErrorSetting
    """what the claims are about"""
    message: MessagePart
    """the message"""
    prior: Beforehand
    """what was known beforehand"""
    corpus: CorpusPart
    """the documents"""
    how: How
    """how predictions were computed"""
    predictions_sha256: str = Sha256
    """of the file of predictions"""
    digest: str = ""
    """SHA-256 of the canonical JSON of everything else"""

    @property
    def claim(self) -> ErrorClaim:
        """The claim that stands for the certificate: on the share of wrong labels."""
        return self.claims.error

    @property
    def delta(self) -> float:
        """The probability that a claim may fail."""
        return float(self.setting.delta)

    @property
    def joint(self) -> bool:
        """Whether all claims hold at once: each holds on its own."""
        return False

    @property
    def measured(self) -> int:
        """How many documents were measured."""
        return self.claim.measured

    @property
    def inequality(self) -> str:
        """The name of the inequality that the claims follow from."""
        return "betting_subsampled" if self.setting.samples else "betting"

    @property
    def uppers(self) -> tuple[Upper, ...]:
        """The claims of the form "at most"."""
        return tuple(self.claims.uppers.values())

    def files(self, run: RunFolder) -> Files:
        """Return where certificate and message lie in a run's folder."""
        return run.of_classifier()


def read_classifier_certificate(path: Path) -> ClassifierCertificate:
    """Read a certificate: its fields, their types, its form and its digest are checked, nothing else.

    Args:
        path: the file, or its folder.

    Raises:
        CertificateError: it is missing, not the certificate of a classifier, or was changed.
    """
    path = RunFolder.of(path).classifier_certificate
    data = read_bytes(path, "the certificate", CertificateError, MOST_BYTES)
    return sealed_certificate(data, str(path), ClassifierCertificate, FORMAT)


def read_any(path: Path) -> Certificate | ClassifierCertificate:
    """Read a certificate of either kind; see `read_classifier_certificate`.

    Args:
        path: the file, or its folder.

    Raises:
        CertificateError: it is missing, no certificate, or was changed.
    """
    return read_classifier_certificate(path) if RunFolder.holds_classifier(path) else read_certificate(path)
