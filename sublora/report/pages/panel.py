"""A figure with its title and its caption: what is drawn, and how to read it, stand in one place."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import matplotlib
from matplotlib.figure import Figure

from sublora.report.pages.svg import STYLE

P = ParamSpec("P")


@dataclass(frozen=True)
class Panel:
    """A figure on a page.

    name: of its files, and of the ids inside it.
    title: what it shows in a few words.
    caption: how to read it.
    figure: the drawing.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def panel(name: str, title: str, caption: str) -> Callable[[Callable[P, Figure | None]], Callable[P, Panel | None]]:
    """Let a function that draws a figure return it as a panel, in the style of the pages; None stays None.

    Args:
        name: of the panel's files.
        title: above the figure.
        caption: below it.
    """

    def of(draw: Callable[P, Figure | None]) -> Callable[P, Panel | None]:
        @functools.wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> Panel | None:
            with matplotlib.rc_context(STYLE):
                figure = draw(*args, **kwargs)
            return None if figure is None else Panel(name, title, caption, figure)

        return drawn

    return of


def present(*panels: Panel | None) -> list[Panel]:
    """Return the panels for which there was something to draw."""
    return [panel for panel in panels if panel]
