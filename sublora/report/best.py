"""The best certificate of many, quoted with what the choice costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from sublora.certificate.wording import metric_name
from sublora.report.runs import Run
from sublora.report.tables import upward


@dataclass(frozen=True)
class Best:
    """The run with the smallest bound that pays for the choice.

    run: its name.
    metric: of the claim, in words.
    bound: with delta divided by the number of candidates.
    alone: the bound that its own certificate claims, which does not count as one chosen from many.
    candidates: number of certificates that it is chosen from.
    delta: probability that the claim may fail.
    """

    run: str
    metric: str
    bound: float
    alone: float
    candidates: int
    delta: float

    @property
    def sentence(self) -> str:
        """The claim in words."""
        return (
            f"The best of {self.candidates} certificates is that of {self.run}: at most {upward(self.bound)} "
            f"{self.metric} with probability at least {100 * (1 - self.delta):g} %, although it was chosen: delta is "
            f"divided by {self.candidates}, so all of them hold at once. "
            f"On its own, had it been the only run, it claims {upward(self.alone)}."
        )


def best_of(runs: Sequence[Run]) -> Best | str:
    """Return the best certificate, or why none can be quoted.

    Args:
        runs: all that the choice is made from.
    """
    certified = [run for run in runs if run.certificate]
    selections = [run.selection for run in certified if run.selection]
    if len(selections) < len(certified):
        return "No best certificate is quoted: the runs do not say from how many it would be chosen (run a sweep)."
    counted = {(s["candidates"], s["delta"]) for s in selections}
    if len(counted) > 1 or len(certified) > min(n for n, _ in counted):
        return "No best certificate is quoted: the runs belong to different sweeps."
    metric = "bpb" if all(_has(run, "bpb") for run in certified) else "bpd"
    best = min(certified, key=lambda run: _selected(run, metric))
    ((candidates, delta),) = counted
    return Best(best.name, metric_name(metric), _selected(best, metric), best.claim(metric, "bound"), candidates, delta)


def _has(run: Run, metric: str) -> bool:
    assert run.selection
    return any(c["metric"] == metric for c in run.selection["claims"])


def _selected(run: Run, metric: str) -> float:
    assert run.selection
    return next(c["bound"] for c in run.selection["claims"] if c["metric"] == metric)
