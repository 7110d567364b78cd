"""The rules of the tree are tests: data flows one way, some parts need no torch, public names are documented."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sublora.errors import MODELS
from sublora.run_folder import RunFolder

PACKAGE = Path(__file__).parents[2] / "sublora"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A module imports only from its own part and from the parts before it.
ORDER = [
    "errors",
    "files",
    "seeds",
    "progress",
    "console",
    "peers",
    "draws",
    "run_folder",
    "config",
    "corpus",
    "coding",
    "nn",
    "inequalities",
    "scoring",
    "training",
    "foreign",
    "quantizing",
    "certificate",
    "classification",
    "api",
    "export",
    "report",
    "sweep",
    "doctor",
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
    "sublora",
    "sublora.api",
    "sublora.certificate.claims",
    "sublora.certificate.attestation",
    "sublora.certificate.model",
    "sublora.certificate.reading",
    "sublora.certificate.schema",
    "sublora.certificate.signing",
    "sublora.certificate.draw",
    "sublora.certificate.verify",
    "sublora.certificate.selection",
    "sublora.certificate.certified",
    "sublora.certificate.watch",
    "sublora.certificate.zipped",
    "sublora.classification.verify",
    "sublora.classification.baselines",
    "sublora.classification.certified",
    "sublora.report.pages.html",
    "sublora.report.show",
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


def test_analysis_draws_nothing():
    """What is found in runs is computed without matplotlib, and before any page."""
    modules = [path for path in MODULES if path.is_relative_to(PACKAGE / "report" / "analysis")]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules]
    assert not [i for path in modules for i in imports(path) if i.startswith("sublora.report.pages")]
    code = f"import sys; sys.modules['matplotlib'] = None; import {', '.join(names)}"
    assert len(names) > 8 and subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", TORCH_FREE)
def test_works_without_models(name):
    code = f"import sys; sys.modules |= dict.fromkeys({MODELS}); import {name}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_is_left_out_is_the_extra_of_models():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert tuple(project["optional-dependencies"]["models"]) == MODELS
    assert not set(project["dependencies"]) & set(MODELS)


def test_without_models_bounds_are_computed_and_the_rest_says_what_to_install(tmp_path):
    code = f"""
import sys
sys.modules |= dict.fromkeys({MODELS})
import sublora, sublora.cli
assert 0.03 < sublora.bound([0] * 970 + [1] * 30, upper=1.0, lower=0.0) < 0.06
assert sublora.cli.main(["verify", "results/demo", "--arithmetic"]) == 0
assert sublora.cli.main(["train", "--login.out_dir={tmp_path}"]) == 2
try:
    sublora.wrap
except ImportError as error:
    print(error)
"""
    root = PACKAGE.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.splitlines()[-1].endswith("pip install 'sublora[models]'")
    assert done.stderr.splitlines()[-1].startswith("sublora: error: this command needs ")


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


def names_of_files():
    """The names of the files of a run, without those of its folders, which are words."""
    run = RunFolder(Path("run"))
    paths = [getattr(run, name) for name, kind in vars(RunFolder).items() if isinstance(kind, property)]
    return {path.name for path in paths if path.suffix}


def spelled(path):
    """Every file name in the strings of a module that are no documentation."""
    tree = ast.parse(path.read_text())
    documents = {n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in documents]
    words = [word for s in strings if isinstance(s, str) for word in re.split(r"[\s/,;:]", s)]
    return sorted(names_of_files() & set(words))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_one_module_spells_the_names_of_files(path):
    assert path.name == "run_folder.py" or not spelled(path)


def test_a_spelled_name_is_found(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('"""certificate.json is documentation."""\nx = f"{x}/message.bin"\ny = "best.safetensors"\n')
    assert spelled(module) == ["best.safetensors", "message.bin"]
    assert len(names_of_files()) >= 14


def test_help_is_quick_because_torch_is_imported_late():
    code = """
import sys, sublora.cli
try:
    sublora.cli.main(['--help'])
except SystemExit:
    assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
