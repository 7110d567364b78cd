"""What is installed from a wheel: the package, its pages and its configurations, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built without network from a copy of the tree, since building writes beside its sources."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("sublora", "config", "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w"]
    subprocess.run([*command, str(folder / "out"), str(folder)], check=True, capture_output=True)
    (path,) = (folder / "out").glob("sublora-*.whl")
    return path


def test_a_wheel_holds_every_module_page_and_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = [
        p.relative_to(ROOT)
        for p in (ROOT / "sublora").rglob("*")
        if p.suffix in (".py", ".html", ".css", ".svg", ".typed")
    ]
    assert {str(path) for path in inside} <= names
    assert {f"sublora/config/shipped/{path.name}" for path in (ROOT / "config").glob("*.yaml")} <= names
    assert all(name.startswith("sublora") for name in names)


def test_the_demo_is_configured_outside_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sublora", "demo", "--print_config"],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    printed, shipped = yaml.safe_load(done.stdout), yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    assert shipped["corpus"] == {name: printed["corpus"][name] for name in shipped["corpus"]}
