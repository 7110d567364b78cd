"""The best certificate of many, quoted with what the choice costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sublora.certificate.model import Certificate, Claim
from sublora.certificate.rounding import confidence
from sublora.certificate.selection import Selection
from sublora.certificate.wording import amount
from sublora.report.analysis.runs import Run


@dataclass(frozen=True)
class Best:
    """The run with the smallest bound that pays for the choice.

    run: its name.
    chosen: the claim with delta divided by the number of candidates.
    alone: the claim of its own certificate, which does not count as one chosen from many.
    candidates: number of certificates that it is chosen from.
    delta: probability that the claim may fail.
    """

    run: str
    chosen: Claim
    alone: Claim
    candidates: int
    delta: Fraction

    @property
    def sentence(self) -> str:
        """The claim in words."""
        return (
            f"The best of {self.candidates} certificates is that of {self.run}: {amount(self.chosen)} with probability "
            f"at least {confidence(self.delta)}, although it was chosen: delta is divided by {self.candidates}, so all "
            f"of them hold at once. On its own, had it been the only run, it claims {amount(self.alone)}."
        )


def best_of(runs: Sequence[Run]) -> Best | str:
    """Return the best certificate, or why none can be quoted.

    Args:
        runs: all that the choice is made from.
    """
    certified = [(run.name, run.certificate) for run in runs if run.certificate]
    chosen = [(run.name, run.certificate, run.selection) for run in runs if run.certificate and run.selection]
    if len(chosen) < len(certified):
        return "No best certificate is quoted: the runs do not say from how many it would be chosen (run a sweep)."
    counted = {(selection.candidates, certificate.setting.delta) for _, certificate, selection in chosen}
    if len(counted) > 1 or len(certified) > min(n for n, _ in counted):
        return "No best certificate is quoted: the runs belong to different sweeps."
    metric = "bpb" if all(certificate.claim("bpb") for _, certificate in certified) else "bpd"
    pairs = [(name, *_claims(certificate, selection, metric)) for name, certificate, selection in chosen]
    name, selected, alone = min(pairs, key=lambda pair: pair[1].bound)
    ((candidates, delta),) = counted
    return Best(name, selected, alone, candidates, Fraction(delta))


def _claims(certificate: Certificate, selection: Selection, metric: str) -> tuple[Claim, Claim]:
    alone = certificate.claim(metric)
    assert alone is not None
    return next(claim for claim in selection.claims if claim.metric == metric), alone
