"""What is common to several runs: their curve over training, and the frontier of their configurations."""

from collections.abc import Sequence

import numpy as np

from sublora.report.analysis.metrics import column
from sublora.report.analysis.runs import Run


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point beats in both coordinates, from left to right. Less is better."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def curve(group: Sequence[Run], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that all runs of a group recorded, and the values there: a row per run."""
    columns = [column(run.metrics, kind, name) for run in group]
    columns = [(steps, values) for steps, values in columns if len(steps)]
    if not columns:
        return np.array([]), np.array([])
    steps = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in columns)))
    # Layers are averaged: what is drawn is one number per step and run.
    rows = [dict(zip(s.tolist(), v.reshape(len(v), -1).mean(1), strict=True)) for s, v in columns]
    return np.array(steps), np.array([[row[step] for step in steps] for row in rows])
