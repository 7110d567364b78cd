"""What the doctor says is true of this machine, and its estimate follows from committed times."""

import json
import os

import pytest
import torch

from sublora import doctor
from sublora.cli import main


def test_the_doctor_names_what_a_run_depends_on(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "gflops", lambda: doctor.REFERENCE_GFLOPS / 2)
    assert main(["doctor"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert f"torch {torch.__version__}" in lines["packages"]
    assert f"({os.cpu_count()} threads" in lines["cores"]
    assert {"GPU", "memory", "disk", "speed"} <= set(lines) and any(
        line.startswith("Rough estimates") for line in lines
    )
    # Half the speed takes twice the committed time.
    seconds = sum(json.loads((doctor.RESULTS / "demo" / "times.json").read_bytes()).values())
    assert lines["sublora demo --config config/demo.yaml"] == f"about {2 * seconds / 60:.0f} minutes on the CPU"


def test_without_committed_times_there_is_no_estimate(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "gflops", lambda: 1.0)
    (tmp_path / "run").mkdir()
    lines = list(doctor.examine(tmp_path, tmp_path))
    assert "estimated in a checkout" in lines[-1] and not any("minutes" in line for line in lines)


def test_the_speed_is_that_of_the_products_that_were_made(monkeypatch):
    clock = iter([0.0, 0.5, 1.0])
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(clock))
    assert doctor.gflops(1.0) == pytest.approx(2 * 1024**3 / 1e9)
