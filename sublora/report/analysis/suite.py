"""Many runs, analysed: all that their page, figures and tables show, before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sublora.report.analysis.best import Best, best_of
from sublora.report.analysis.gradients import Points, beside_gammas
from sublora.report.analysis.hypotheses import Answer, answer_modes, depth, gradient, same_pattern
from sublora.report.analysis.runs import Configuration, Run


@dataclass(frozen=True)
class Suite:
    """What was found in many runs.

    runs: all of them.
    certified: those that have a certificate.
    best: the best certificate, with what the choice costs; or why none can be quoted.
    answers: to every question, in the order in which they are shown.
    depth: the one of them on gates and depth.
    gradient: the one of them on gates and gradients.
    gates: the last gamma of every layer, for every gated configuration and seed.
    shares: of B in the gradient, and the last gammas, for every gated configuration: a row per seed.
    """

    runs: list[Run]
    certified: list[Run]
    best: Best | str
    answers: list[Answer]
    depth: Answer
    gradient: Answer
    gates: dict[Configuration, dict[int, np.ndarray]]
    shares: dict[Configuration, Points]


def analyse(runs: Sequence[Run]) -> Suite:
    """Analyse many runs.

    Args:
        runs: as `load_runs` returns them, with or without certificates.
    """
    certified = [run for run in runs if run.certificate]
    by_depth, by_gradient = depth(runs), gradient(runs)
    return Suite(
        runs=list(runs),
        certified=certified,
        best=best_of(certified) if certified else "No run has a certificate.",
        answers=[*answer_modes(runs), same_pattern(runs), by_depth, by_gradient],
        depth=by_depth,
        gradient=by_gradient,
        gates=_gates(runs),
        shares=beside_gammas(runs),
    )


def _gates(runs: Sequence[Run]) -> dict[Configuration, dict[int, np.ndarray]]:
    out: dict[Configuration, dict[int, np.ndarray]] = {}
    for run in runs:
        if (gamma := run.gamma()) is not None:
            out.setdefault(run.configuration, {})[run.seed] = gamma
    return out
