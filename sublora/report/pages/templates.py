"""The templates of this folder, filled; everything but drawings is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sublora.report.analysis.tables import at_most, measured, minus, rounded
from sublora.report.pages.panel import Panel
from sublora.report.pages.svg import inline_svg


def render(template: str, **values: Any) -> str:
    """Fill a template; `Markup` among the values is taken as it is."""
    environment = Environment(
        loader=PackageLoader("sublora.report.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _svg, "up": at_most, "minus": minus, "measured": measured}
    environment.globals |= {"rounded": rounded}
    return environment.get_template(template).render(values)


def _svg(panel: Panel) -> Markup:
    return Markup(inline_svg(panel.figure, panel.name, f"{panel.title}. {panel.caption}"))
