"""What the documentation says is executed."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from sublora.config import SECTIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code):
    exec(compile(code, "example", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_keys_and_links_exist(page):
    text = page.read_text()
    for section, key in re.findall(rf"\b({'|'.join(SECTIONS)})\.(\w+)=", text):
        assert key in {f.name for f in dataclasses.fields(SECTIONS[section])}, f"{section}.{key}"
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_readme_shows_the_committed_demo():
    table = json.loads((ROOT / "results" / "demo.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for name, value in table["rows"]:
        assert f"| {name} | {value} |" in readme
