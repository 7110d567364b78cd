"""A matplotlib figure as an <svg> element of a page, and as files.

matplotlib draws text and axes in black; on a page they take the page's own colour, so that a dark page stays readable.
"""

import io
import re
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Text stays text: it can be searched and copied, and is drawn in a font the reader has.
STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    # Points, of a drawing that is 4.8 inches wide: 11 pixels at least on a screen of 420.
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
}


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an <svg> element without a size of its own, for a page that holds several.

    Args:
        figure: what to draw.
        name: prefix of every id in the element, unique on the page.
        label: what the figure shows, for readers who cannot see it.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The style sheet inside would reach the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # matplotlib gives black text no fill, so it takes the one of the root.
    head = f'<svg viewBox="\\1" role="img" aria-label="{escape(label)}" fill="currentColor" stroke-linejoin="round">'
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(r"(stroke|fill): #000000", r"\1: currentColor", svg)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write a figure as `stem`.svg, .png (200 dots per inch) and .pdf, on white, with the same bytes every time."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": stem.name}):
        for suffix, metadata in undated.items():
            # Not with_suffix: a stem may contain a dot.
            path = stem.with_name(f"{stem.name}.{suffix}")
            figure.savefig(path, dpi=200, facecolor="white", metadata=metadata)
