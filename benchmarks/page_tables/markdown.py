"""Tables in Markdown, and where their numbers come from."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sublora.report.analysis.runs import mean_and_error

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> Any:
    """Return a committed result."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_bytes())


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Iterable[float], digits: int = 3, sign: str = "") -> str:
    """Return mean and standard error over runs; of one run, the mean."""
    mean, error = mean_and_error(values)
    return f"{mean:{sign},.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")
