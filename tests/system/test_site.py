"""The site of the documentation is built without a warning, and asks no other server for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"(fonts\.g|<script[^>]+src=.?https?:)", text), page
        for target in re.findall(r'<a [^>]*href="(?!https?:|mailto:|#|data:)([^"#]+)', text):
            assert (page.parent / target).exists() or page.name == "404.html", f"{page}: {target}"
    assert "sublora.inequalities.bound.bound" in (tmp_path / "reference.html").read_text()


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    assert all(f": {page.name}\n" in nav for page in (ROOT / "docs").glob("*.md"))
