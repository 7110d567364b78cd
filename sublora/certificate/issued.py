"""What certificates of every kind have in common: enough to sign, pack, rebuild and watch one. Torch-free."""

from typing import Protocol, runtime_checkable

from sublora.certificate.model import Beforehand, CorpusPart, How, MessagePart, Upper
from sublora.run_folder import Files, RunFolder


@runtime_checkable
class Issued(Protocol):
    """A certificate of a language model, or of a classifier."""

    @property
    def limits(self) -> tuple[str, ...]:
        """What the claims do not say."""

    @property
    def message(self) -> MessagePart:
        """The message."""

    @property
    def prior(self) -> Beforehand:
        """What was known beforehand."""

    @property
    def corpus(self) -> CorpusPart:
        """The documents."""

    @property
    def how(self) -> How:
        """How it was computed."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of everything else."""

    @property
    def delta(self) -> float:
        """The probability that a claim may fail."""

    @property
    def joint(self) -> bool:
        """Whether all claims hold at once with probability 1 - delta."""

    @property
    def measured(self) -> int:
        """How many units were measured."""

    @property
    def inequality(self) -> str:
        """The name of the inequality that the claims follow from."""

    @property
    def uppers(self) -> tuple[Upper, ...]:
        """The claims of the form "at most"."""

    def to_text(self) -> str:
        """Return the one text of the certificate."""

    def files(self, run: RunFolder) -> Files:
        """Return where certificate and message lie in a run's folder."""
