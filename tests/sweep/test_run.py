"""What a run of a sweep does, and that its verification takes place in another process."""

import sys

import pytest

from sublora.config import load_config
from sublora.errors import CertificateError
from sublora.run_folder import RunFolder
from sublora.sweep import run as runs


def test_a_verification_elsewhere_is_heard_and_says_why_it_failed(tmp_path, capsys):
    config = load_config([f"--data.dataset_dir={tmp_path}"])
    with pytest.raises(CertificateError, match=r"was not verified: sublora: error: cannot read .*certificate"):
        runs.verify_elsewhere(RunFolder(tmp_path / "run"), config)
    assert "sublora: error: cannot read" in capsys.readouterr().err


def test_what_a_verification_says_is_passed_on_before_it_ends(tmp_path, monkeypatch):
    """The other process waits for an answer to its first line: kept until the end, the line would never be answered."""
    answer = tmp_path / "answer"
    script = (
        "import pathlib, sys, time\n"
        "print('measuring', file=sys.stderr, flush=True)\n"
        "for _ in range(200):\n"
        f"    if pathlib.Path({str(answer)!r}).exists(): sys.exit(0)\n"
        "    time.sleep(0.05)\n"
        "sys.exit('nobody heard it')\n"
    )

    class Heard:
        def write(self, line):
            answer.write_text(line)

    real = runs.subprocess.Popen
    monkeypatch.setattr(runs.subprocess, "Popen", lambda _, **how: real([sys.executable, "-c", script], **how))
    monkeypatch.setattr(sys, "stderr", Heard())
    runs.verify_elsewhere(RunFolder(tmp_path), load_config([f"--data.dataset_dir={tmp_path}"]))
    assert answer.read_text() == "measuring\n"
