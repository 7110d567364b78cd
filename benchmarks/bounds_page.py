"""Put the numbers of committed result files into the tables of docs/bounds.md.

    python benchmarks/bounds_page.py

A table stands between `<!-- NAME -->` and the next `<!-- end -->`. The tests check that the page is up to date.
"""

import json
import re
from pathlib import Path
from typing import Any

from sublora.bounds.certificate import read_certificate
from sublora.report.tables import upward

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bounds.md"
SHORT = {
    "hoeffding_subsampling": "Hoeffding, subsampled (the reference)",
    "betting_subsampled": "betting, two stages",
    "betting_subsampled_mixture": "betting, two stages, document mixture",
    "betting_subsampled_excess": "betting, two stages, excess over the fallback code (the claim)",
    "hoeffding": "Hoeffding",
    "kl_inverse": "kl inverse",
    "empirical_bernstein": "empirical Bernstein",
    "betting": "betting",
    "betting_mixture": "betting, document mixture",
    "betting_excess": "betting, excess over the fallback code",
}


def read(name: str) -> Any:
    """Return a committed result."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_bytes())


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def demo() -> str:
    """Return the demo beside the reference's bound, coded counts, and codes that nobody certified."""
    certificate = read_certificate(ROOT / "results" / "demo")
    bits, held_out = certificate["message"]["bits"], certificate["held_out"]
    ours = f"{held_out['bpd']:.3f} ± {held_out['standard_error']:.3f}"
    rows = [["this certificate", f"{bits:,}", ours, upward(certificate["claims"][0]["bound"], 3)]]
    rows += [
        [f"the same message by {c['name']}", f"{bits:,}", ours, upward(c["bound"], 3)]
        for c in certificate["comparison"]
    ]
    rows += [
        [b["name"], f"{b['bits']:,}", f"{b['held_out']:.3f}", upward(b["bound"], 3)] for b in certificate["baselines"]
    ]
    uncertified = read("baselines")["held_out_bits_per_token"]
    rows += [[name, "", f"{uncertified[name]:.3f}", "none"] for name in uncertified if "per document" in name]
    return table(["code", "K, bits", "held-out", "certified at 95 %"], rows)


def gaps(setting: str) -> str:
    """Return the gaps of one setting, a row per bound and a column per message length."""
    rows = read("bounds")["gaps"][setting]
    names = [name for name in rows[0] if name != "bits"]
    header = ["bound", *(f"K = {row['bits']:,}" for row in rows)]
    return table(header, [[SHORT[name], *(f"{row[name]:.3f}" for row in rows)] for name in names])


def scoring() -> str:
    """Return what scoring costs, in plain forward passes."""
    rows = [
        [
            f"{row['tokens']:,}",
            f"{row['stride']:,}",
            f"{row['window_tokens']:,}",
            f"{row['multiple']:.2f}",
            f"{row['target']:.2f}",
            f"{row['reference_multiple']:.1f}",
        ]
        for row in read("scoring")["rows"]
    ]
    return table(["tokens", "new tokens per window", "tokens read", "ours", "at most", "the reference"], rows)


TABLES = {
    "demo": demo,
    "gaps: drawn": lambda: gaps("drawn"),
    "gaps: all": lambda: gaps("all"),
    "gaps: demo": lambda: gaps("demo"),
    "scoring": scoring,
}


def render(page: str) -> str:
    """Return the page with its tables made anew."""
    for name, make in TABLES.items():
        start = f"<!-- {name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?<!-- end -->", re.DOTALL)
        page, found = pattern.subn(f"{start}\n{make()}\n<!-- end -->", page)
        assert found == 1, name
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
