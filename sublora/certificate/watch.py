"""A certificate that watches: an alarm once new losses refute its bound. Torch-free."""

import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from sublora.certificate.issued import Issued
from sublora.certificate.model import Certificate, Part, Sha256, Upper
from sublora.certificate.reading import read_certificate
from sublora.errors import CertificateError
from sublora.files import canonical_json, read_bytes, sha256, write_text
from sublora.inequalities.checks import ROUNDING
from sublora.inequalities.watch import MEMORIES, Wager

# What is claimed to be at most a bound are code lengths and shares of errors: none is negative.
LOWER = 0.0
MOST_BYTES = 1 << 14
"""of a state's file; a usual one has seven hundred"""


class State(Part):
    """How far a watch has come: a few numbers."""

    format: Literal[1]
    """of the state"""
    certificate: str = Sha256
    """digest of the certificate that watches"""
    metric: str
    """of the claim that is watched"""
    alpha: float = Field(gt=0, lt=1)
    """probability of a false alarm"""
    documents: int = Field(ge=0)
    """losses so far"""
    wealth: tuple[float, ...] = Field(min_length=len(MEMORIES), max_length=len(MEMORIES))
    """of each account"""
    sums: tuple[float, ...] = Field(min_length=len(MEMORIES), max_length=len(MEMORIES))
    """see `sublora.inequalities.watch.Wager`"""
    squares: tuple[float, ...] = Field(min_length=len(MEMORIES), max_length=len(MEMORIES))
    """see `sublora.inequalities.watch.Wager`"""
    corpus: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """hash of the documents that were read last, where they are those of a corpus"""
    read: int = Field(default=0, ge=0)
    """how many of that corpus"""
    digest: str = ""
    """SHA-256 of the canonical JSON of everything else"""

    def compute_digest(self) -> str:
        """Return SHA-256 of the canonical JSON of everything but the digest."""
        return sha256(canonical_json(self.model_dump(mode="json", exclude={"digest"})))

    def to_text(self) -> str:
        """Return the one text of the state, with its digest."""
        sealed = self.model_copy(update={"digest": self.compute_digest()})
        return sealed.model_dump_json(indent=2) + "\n"


class Watch:
    """Reads the losses of new documents one after the other, and raises an alarm once they refute a claim.

    The null hypothesis: whatever was read before, the expected loss of the next document is at most the certified
    bound. While it is true, an alarm is ever raised with probability at most alpha, however often one looks.

    An alarm stands: what is read after it changes nothing.

    Attributes:
        claim: that is watched.
        alpha: probability of a false alarm.
        wager: the bets so far.
        corpus, read: see `State`.
    """

    def __init__(self, certificate: Issued | str | os.PathLike[str], *, metric: str = "", alpha: float = 0.05) -> None:
        """Begin to watch.

        Args:
            certificate: or, of a language model's, the path of its file or folder.
            metric: of the claim; unless given, bits per byte, or per token where bytes are unknown, or of a classifier
                the share of wrong labels.
            alpha: probability of a false alarm, in (0, 1).

        Raises:
            CertificateError: no certificate, no such claim, or one that no loss can refute.
        """
        if isinstance(certificate, str | os.PathLike):
            certificate = read_certificate(Path(certificate))
        if not 0 < alpha < 1:
            raise CertificateError(f"alpha is {alpha}, but must lie inside (0, 1)")
        self.claim = _watched(certificate, metric)
        self.alpha, self.wager = alpha, Wager.begin()
        self.corpus: str | None = None
        self.read = 0
        self._certificate = certificate

    @property
    def documents(self) -> int:
        """How many losses were read until now, or until the alarm."""
        return self.wager.read

    @property
    def evidence(self) -> float:
        """The capital of the wager, which began at 1; there is an alarm once it is 1 / alpha."""
        return float(self.wager.capital)

    @property
    def alarm(self) -> bool:
        """Whether the claim is refuted."""
        return self.evidence >= 1 / self.alpha

    def add(self, loss: float) -> bool:
        """Read the loss of the next document, and return whether there is an alarm.

        Args:
            loss: of the metric and in the unit of the claim: bits are those of the decoded model mixed with what it
                falls back on, per token or byte of this document.

        Raises:
            CertificateError: no document can have this loss, so it is not the one that the claim is about.
        """
        if not LOWER - ROUNDING <= loss <= self.claim.limit + ROUNDING:
            raise CertificateError(
                f"a loss of {loss} is not in {self.claim.name} as certified, which lie between {LOWER:g} and "
                f"{self.claim.limit:g}: measure it as the certified documents were"
            )
        if not self.alarm:
            excess = (max(loss, LOWER) - self.claim.bound) / (self.claim.bound - LOWER)
            self.wager = self.wager.after(np.array(excess))
        return self.alarm

    def in_words(self) -> str:
        """Return how things stand, in a sentence."""
        bound = f"{self.claim.name}: at most {self.claim.bound:g}"
        if self.alarm:
            return (
                f"ALARM after {self.documents:,} documents ({bound}). If the claim were true of these documents, an "
                f"alarm would ever be raised with probability at most {self.alpha:g}."
            )
        return (
            f"no alarm after {self.documents:,} documents ({bound}): evidence against it {self.evidence:.3g}, alarm at "
            f"{1 / self.alpha:g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return how things stand, as JSON holds it."""
        return {
            "alarm": self.alarm,
            "metric": self.claim.metric,
            "bound": self.claim.bound,
            "documents": self.documents,
            "evidence": self.evidence,
            "alarm_at": 1 / self.alpha,
        }

    def save(self, path: Path) -> None:
        """Write the state, from which `resume` goes on."""
        wager = self.wager
        state = State(
            format=1,
            certificate=self._certificate.digest,
            metric=self.claim.metric,
            alpha=self.alpha,
            documents=wager.read,
            wealth=tuple(wager.wealth.tolist()),
            sums=tuple(wager.sums.tolist()),
            squares=tuple(wager.squares.tolist()),
            corpus=self.corpus,
            read=self.read,
        )
        write_text(path, state.to_text())

    def resume(self, path: Path) -> None:
        """Go on from a state that `save` wrote.

        Raises:
            CertificateError: it is missing or damaged, or was written for another certificate, claim or alpha.
        """
        state = _read_state(path)
        for name, theirs, ours in (
            ("another certificate", state.certificate, self._certificate.digest),
            (f"the metric {state.metric}", state.metric, self.claim.metric),
            (f"alpha = {state.alpha:g}", state.alpha, self.alpha),
        ):
            if theirs != ours:
                raise CertificateError(f"the state {path} is of a watch with {name}: begin another file")
        numbers = (np.array(x) for x in (state.wealth, state.sums, state.squares))
        self.wager = Wager(state.documents, *numbers)
        self.corpus, self.read = state.corpus, state.read


def _watched(certificate: Issued, metric: str) -> Upper:
    if isinstance(certificate, Certificate) and certificate.setting.bound_type == "token_level":
        raise CertificateError("a token_level certificate claims nothing about new text: there is nothing to watch")
    by_metric = {upper.metric: upper for upper in certificate.uppers}
    usual = "bpb" if "bpb" in by_metric else next(iter(by_metric))
    claim = by_metric.get(metric or usual)
    if claim is None:
        raise CertificateError(f"the certificate has no upper bound on {metric!r}: watch one of {', '.join(by_metric)}")
    if not LOWER < claim.bound < claim.limit:
        raise CertificateError(f"no loss can refute that {claim.name} are at most {claim.bound:g}: watch another claim")
    return claim


def _read_state(path: Path) -> State:
    """Read a state as `State.to_text` writes it: it is untrusted input."""
    damaged = f"the state {path} is damaged: delete it to watch from the beginning"
    try:
        text = read_bytes(path, "the state", CertificateError, MOST_BYTES).decode()
        state = State.model_validate_json(text)
    except (UnicodeDecodeError, ValidationError) as error:
        raise CertificateError(damaged) from error
    honest = (
        state.to_text() == text
        and all(value >= 0 for value in (*state.wealth, *state.squares))
        and state.read <= state.documents
        and (state.documents > 0 or state.wealth == tuple(Wager.begin().wealth.tolist()))
        and math.isfinite(sum(state.wealth))
    )
    if not honest:
        raise CertificateError(damaged)
    return state
