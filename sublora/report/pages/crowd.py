"""Axes for what lies together: a configuration that is far above the others is named at the edge."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

# A crowd is most of the marks, and not fewer than so many.
LEAST, SHARE = 3, 0.75
# How much further above the next a mark lies than that one above the least, where it is far off.
FAR = 1.25
# Of the axis, above and below.
_MARGIN = 0.08
# Of the axis, for every mark that is named at the edge.
_LINE = 0.12


@dataclass(frozen=True)
class Mark:
    """What is drawn of a configuration along the vertical axis: its value, from where to where, and its colour."""

    value: float
    low: float
    high: float
    colour: str


def crowd(values: Sequence[float]) -> float:
    """Return the largest value that is not far off."""
    kept = sorted(values)
    least = max(LEAST, SHARE * len(kept))
    while len(kept) > least and kept[-1] - kept[-2] > FAR * (kept[-2] - kept[0]):
        kept.pop()
    return kept[-1]


def show_crowd(axes: Axes, marks: Sequence[Mark]) -> None:
    """Let the vertical axis end above the crowd, and name at its upper edge what lies beyond.

    Args:
        axes: with everything drawn.
        marks: that are drawn on it.
    """
    if not marks:
        return
    highest = crowd([mark.value for mark in marks])
    inside = [mark for mark in marks if mark.value <= highest]
    if len(inside) == len(marks):
        return
    low = min(mark.low for mark in inside)
    high = max(mark.high for mark in inside)
    # Of a curve that begins inside, enough is seen.
    beyond = sorted((mark for mark in marks if mark.low > high), key=lambda mark: -mark.value)
    height = (high - low or abs(high) or 1.0) / (1 - 2 * _MARGIN - _LINE * len(beyond))
    axes.set_ylim(low - _MARGIN * height, low + (1 - _MARGIN) * height)
    for line, mark in enumerate(beyond):
        top = 0.98 - _LINE * line
        axes.plot(0.96, top - 0.03, marker="^", color=mark.colour, markersize=5, transform=axes.transAxes)
        axes.text(0.92, top, f"{mark.value:.2f}", transform=axes.transAxes, ha="right", va="top")
