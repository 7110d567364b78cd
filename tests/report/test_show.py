"""`sublora show`: what a file is, from a stranger too."""

import json
from pathlib import Path

import pytest

from sublora.certificate.reading import read_certificate
from sublora.cli import main
from sublora.coding.architecture import Architecture
from sublora.coding.prediction import Prediction
from sublora.coding.spec import ModelSpec
from sublora.config.explaining import meanings
from sublora.report.show import show

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("message_*.bin"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_field_of_a_message_is_shown(path):
    text, expected = show(path), json.loads(path.with_suffix(".json").read_text())
    assert f"K = {8 * path.stat().st_size:,} bits" in text
    lines = text.splitlines()
    for part, kind in (("architecture", Architecture), ("spec", ModelSpec), ("prediction", Prediction)):
        for name, value in expected[part].items():
            start = f"  {name} {tuple(value) if type(value) is list else value} "
            assert any(line.startswith(start) and line.endswith(meanings(kind)[name]) for line in lines)
    spent = lines[lines.index("what its bits are spent on:") + 1 :]
    assert [line.split()[:2] for line in spent] == [[k, f"{v:g}"] for k, v in expected["ledger"].items() if v]
    assert all(len(line.split()) > 2 for line in spent)


def test_a_run_is_shown_with_its_assumptions(certified, capsys):
    assert main(["show", str(certified)]) == 0
    text, certificate = capsys.readouterr().out, read_certificate(certified)
    assert certificate.statement in text and certificate.digest in text
    assert all(limit in text for limit in certificate.limits)
    assert all(f"{claim.bound:.6f}" in text for claim in certificate.claims)
    assert f"message of {certificate.message.bits // 8:,} bytes" in text


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"certificate"])
def test_other_files_are_refused_in_one_line(content, tmp_path, capsys):
    (tmp_path / "file.bin").write_bytes(content)
    assert main(["show", str(tmp_path / "file.bin")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "neither a certificate (.json) nor a message" in error
    (tmp_path / "empty").mkdir()
    assert main(["show", str(tmp_path / "empty")]) == 2
    assert "holds neither" in capsys.readouterr().err
