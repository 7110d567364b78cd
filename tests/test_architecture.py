"""The rules of the tree are tests: data flows one way, some parts need no torch, public names are documented."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sublora"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A module imports only from its own part and from the parts before it.
ORDER = [
    "errors",
    "files",
    "seeds",
    "progress",
    "peers",
    "draws",
    "config",
    "corpus",
    "coding",
    "nn",
    "inequalities",
    "scoring",
    "training",
    "quantizing",
    "certificate",
    "report",
    "sweep",
    "cli",
]
TORCH_FREE = [
    "sublora.config",
    "sublora.corpus.corpus",
    "sublora.corpus.batches",
    "sublora.corpus.prepare",
    "sublora.corpus.units",
    "sublora.coding.message",
    "sublora.coding.quantizers",
    "sublora.inequalities",
    "sublora.certificate.claims",
    "sublora.certificate.certificate",
    "sublora.certificate.derive",
    "sublora.certificate.draw",
    "sublora.certificate.verify",
    "sublora.certificate.selection",
    "sublora.report.html",
    "sublora.sweep.sweep",
    "sublora.cli",
]


def part_of(dotted):
    return dotted.split(".")[1] if dotted.count(".") else ""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sublora"):
            yield from ([f"sublora.{a.name}" for a in node.names] if node.module == "sublora" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("sublora"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert own in ORDER, f"{own} has no place in the order of parts"
    for imported in imports(path):
        part = part_of(imported)
        if part in ORDER:
            assert ORDER.index(part) <= ORDER.index(own), f"{own} imports {imported}, which comes later"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_works_without_torch(name):
    code = f"import sys; sys.modules['torch'] = None; import {name}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), "the module"
    # What stands inside a function or a private class is not public.
    private = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name.startswith("_")]
    outer = private + [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    hidden = {inner for n in outer for inner in ast.walk(n) if inner is not n}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert node in hidden or ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_global_randomness(path):
    text = path.read_text()
    assert not re.search(r"np\.random\.(seed|rand|randn|normal|choice|permutation)\b", text)
    assert not re.search(r"torch\.(randn|rand|randint|randperm|bernoulli|normal)\(", text)


def test_help_is_quick_because_torch_is_imported_late():
    code = """
import sys, sublora.cli
try:
    sublora.cli.main(['--help'])
except SystemExit:
    assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
