"""Losses on one axis, a row per model: a drawing that is read at the width of a phone, on a light and a dark page.

The axis of losses is logarithmic and does not start at 0: what is compared are shares of a loss, and no loss is 0. That
of errors is linear and does, because a classifier may make none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from markupsafe import Markup
from scipy.optimize import isotonic_regression

from sublora.report.pages.templates import render

# In units of the drawing. Its text of 13 units is 11 pixels high on a screen of 420, margins of a page included.
WIDTH, LEFT, RIGHT = 456, 10, 446
LEGEND, AXIS = 26, 44
# Height of a row with numbers under its marks, and of one without.
NUMBERED, PLAIN = 64, 42
# Room for arrows, right of everything else.
ARROW = 30
# Of a digit and of a letter, in the widest of the usual fonts.
DIGIT, LETTER, GAP = 8.3, 7.5, 6.0
# A mark further right than this times the largest own bound is an arrow at the edge: it would squeeze all others.
REACH = 1.5
MOST_TICKS = 8

Tone = Literal["own", "rival", "plain"]


class Mark(NamedTuple):
    """A number on the axis.

    value: where it stands.
    text: what stands under it: the number, rounded to the side on which it stays true; "": nothing.
    shape: a dot was measured, a tick is certified, a ring is a base, a diamond a competitor.
    tone: whose it is.
    """

    value: float
    text: str
    shape: Literal["dot", "tick", "ring", "diamond", "arrow"]
    tone: Tone


@dataclass(frozen=True)
class Row:
    """A model: its name, a note on the right in a tone of its own, and its numbers."""

    title: str
    note: str
    marks: tuple[Mark, ...]
    tone: Tone = "plain"


class Entry(NamedTuple):
    """What a mark means: a line of the legend."""

    shape: Literal["dot", "tick", "ring", "diamond"]
    tone: Tone
    text: str


def draw_dots(
    rows: Sequence[Row], legend: Sequence[Entry], unit: str, label: str, width: int = 0, *, from_zero: bool = False
) -> Markup:
    """Return the drawing as an <svg> element.

    Args:
        rows: from top to bottom; one bound at least is the certificate's own.
        legend: what the marks mean.
        unit: of the axis.
        label: what is shown, for readers who cannot see it.
        width: in pixels, of a drawing in a file of its own; 0: it lies on a page that has its style.
        from_zero: the axis is linear and starts at 0; else it is logarithmic, and every number must be positive.
    """
    marks = [mark for row in rows for mark in row.marks]
    far = REACH * max(mark.value for mark in marks if mark.shape == "tick" and mark.tone == "own")
    near = [mark.value for mark in marks if mark.value <= far]
    low, high = 0.0 if from_zero else min(near) / 1.03, max(near) * 1.03
    length = RIGHT - LEFT - ARROW * (len(near) < len(marks))

    def place(value: float) -> float:
        if value > far:
            return RIGHT
        part = value / high if from_zero else math.log(value / low) / math.log(high / low)
        return round(LEFT + length * part, 1)

    step = NUMBERED if any(mark.text for mark in marks) else PLAIN
    drawn = []
    for i, row in enumerate(rows):
        own = sorted(row.marks, key=lambda mark: mark.value)
        xs = [place(mark.value) for mark in own]
        texts = spread(xs, [DIGIT * len(mark.text) + GAP for mark in own])
        shown = [mark if mark.value <= far else mark._replace(shape="arrow") for mark in own]
        drawn.append(
            {
                "title": row.title,
                "note": row.note,
                "tone": row.tone,
                "y": LEGEND + step * i,
                "marks": list(zip(shown, xs, texts, strict=True)),
                "bands": _bands(own, xs),
            }
        )
    bottom = LEGEND + step * len(rows)
    height = bottom + AXIS
    return Markup(
        render(
            "dots.svg",
            rows=drawn,
            legend=_legend(legend),
            ticks=[(f"{value:g}", place(value)) for value in ticks(low, high)],
            unit=unit,
            label=label,
            width=WIDTH,
            height=height,
            left=LEFT,
            right=RIGHT,
            bottom=bottom,
            size=Markup(f' width="{width}" height="{round(width * height / WIDTH)}"') if width else "",
        )
    )


def spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Return centres of labels that do not overlap, as near as can be (least squares) to the wanted ones.

    Args:
        wanted: centres, in ascending order.
        widths: of the labels; together they have room between the edges.
    """
    steps = (np.array(widths[1:]) + np.array(widths[:-1])) / 2
    offsets = np.concatenate([[0.0], np.cumsum(steps)])
    # What is left of a label is as wide as all labels before it: without that, only the order must be kept.
    shifted = isotonic_regression(np.array(wanted) - offsets).x
    within = np.clip(shifted, widths[0] / 2, WIDTH - widths[-1] / 2 - offsets[-1])
    return [round(float(x), 1) for x in within + offsets]


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two, at most `MOST_TICKS`, with equal steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _bands(marks: Sequence[Mark], xs: Sequence[float]) -> list[tuple[str, float, float]]:
    """Return what lies between a measured loss and its bound: tone, start and length."""
    measured = [(mark.tone, x) for mark, x in zip(marks, xs, strict=True) if mark.shape == "dot"]
    certified = [(mark.tone, x) for mark, x in zip(marks, xs, strict=True) if mark.shape == "tick"]
    return [
        (tone, min(x, end), round(abs(end - x), 1)) for tone, x in measured for other, end in certified if tone == other
    ]


def _legend(entries: Sequence[Entry]) -> list[tuple[Mark, str, float, float]]:
    out, x = [], LEFT + 6.0
    for entry in entries:
        out.append((Mark(0.0, "", entry.shape, entry.tone), entry.text, x, 9.0))
        x += 11 + LETTER * len(entry.text) + 14
    return out
