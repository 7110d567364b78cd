"""Put the numbers of committed result files into the tables of README.md and the pages in docs.

    python benchmarks/pages.py

A table stands between `<!-- NAME -->` and the next `<!-- end -->`. The tests check that the pages are up to date.
"""

import re

from page_tables.certificates import annotated, bases, certificate, codes, headline, runs, scratch
from page_tables.markdown import ROOT
from page_tables.measurements import (
    afforded,
    corpus_scale,
    delays,
    feedback,
    few_gradients,
    frames,
    gap_sizes,
    gaps,
    peers,
    quantization,
    scoring,
    token_gaps,
    training,
)
from page_tables.suites import against_lora, behind, differences, gains, learning_rates, suite

from sublora.classification.model import read_classifier_certificate
from sublora.classification.wording import table as classifier_table

SMOLLM2 = ("demo", "smollm2_prompt", "smollm2_docs", "smollm2_share")
PRETRAINED = ROOT / "results" / "adaptive_pretrained"
FRAMES = ROOT / "results" / "frames_smollm2"
PRACTISED = {"API documentation, SmolLM2-135M": FRAMES, "addresses from 1930, 2.8 million weights": PRETRAINED}
SUITE, SMALL_BUDGET = ROOT / "results" / "adaptive", ROOT / "results" / "adaptive_d200"

PAGES = {
    "README.md": {"demo": lambda: headline("demo"), "frames": lambda: against_lora(PRACTISED)},
    "docs/tutorial.md": {"demo": lambda: certificate("demo")},
    "docs/bounds.md": {
        "demo": lambda: codes("demo"),
        "scratch": scratch,
        "gaps: drawn": lambda: gaps("drawn"),
        "gaps: all": lambda: gaps("all"),
        "gaps: demo": lambda: gaps("demo"),
        "scoring": scoring,
    },
    "docs/scale.md": {
        "corpus": corpus_scale,
        "gap: smollm2_docs": lambda: gap_sizes("smollm2_docs"),
        "gap: demo_scratch": lambda: gap_sizes("demo_scratch"),
        "gap: gpt2_small_wide": lambda: gap_sizes("gpt2_small_wide"),
        "tokens": token_gaps,
        "afforded": afforded,
        "feedback": feedback,
        "few": few_gradients,
        "training": lambda: training("gpt2"),
        "training: SmolLM2": lambda: training("smollm2"),
    },
    "docs/watch.md": {"watch": delays},
    "docs/import.md": {
        "peers: SmolLM2": lambda: peers("peers_smollm2"),
        "peers: addresses": lambda: peers("peers"),
    },
    "docs/prior.md": {"bases": bases},
    "docs/smollm2.md": {"runs": lambda: runs(SMOLLM2), "frames": frames},
    "docs/classification.md": {
        "classification": lambda: classifier("classification"),
        "classification: SmolLM2": lambda: classifier("classification_smollm2"),
        "classification: Unicode": lambda: classifier("classification_unicode"),
    },
    "docs/certificate.md": {"certificate": lambda: annotated("demo")},
    "docs/allocation.md": {
        "pretrained": lambda: gains(PRETRAINED),
        "pretrained: differences": lambda: behind(PRETRAINED, "practised"),
        "frames": lambda: gains(FRAMES),
        "frames: differences": lambda: behind(FRAMES, "practised"),
        "pretrained: learning rates": lambda: learning_rates(PRETRAINED),
        "suite": lambda: suite(SUITE),
        "differences": lambda: differences(SUITE),
        "suite: d = 200": lambda: suite(SMALL_BUDGET),
        "differences: d = 200": lambda: differences(SMALL_BUDGET),
        "learning rates": lambda: learning_rates(SUITE),
        "learning rates: d = 200": lambda: learning_rates(SMALL_BUDGET),
        "quantization": quantization,
    },
}


def classifier(run: str) -> str:
    """Return the tables of a classifier's certificate."""
    return classifier_table(read_classifier_certificate(ROOT / "results" / run))


def render(name: str) -> str:
    """Return a page with its tables made anew."""
    page = (ROOT / name).read_text()
    for table_name, make in PAGES[name].items():
        start = f"<!-- {table_name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?<!-- end -->", re.DOTALL)
        page, found = pattern.subn(f"{start}\n{make()}\n<!-- end -->", page)
        assert found == 1, table_name
    return page


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(render(page))
