"""The command line: bad input is one line on standard error and exit status 2, and nothing is left behind."""

import pytest

from sublora.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--sublora.allocation_mode=learnt"],
            "allocation_mode 'learnt' not recognized: uniform, fixed or learned",
        ),
        (["train", "--data.dataset_dir=nowhere"], "no folder nowhere"),
        (["bounds", "--data.dataset_dir=nowhere"], "give the checkpoint to certify"),
        (["bounds", "--model.best_checkpoint_path=nowhere"], "no checkpoint at nowhere"),
        (["verify", "nowhere"], "give either --data DIR (full replay) or --arithmetic"),
        (["verify", "nowhere", "--arithmetic"], "cannot read the certificate nowhere"),
        (["verify", "nowhere", "--arithmetik"], "unexpected argument '--arithmetik'"),
        (["report", "nowhere"], "nowhere"),
        (["report", "one", "two"], "give --out FOLDER to compare several runs"),
        (["prepare", "--source", "sotus", "--out", "somewhere"], "sotus"),
        (["demo", "--config-file=missing.yaml"], "cannot read the config file missing.yaml"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("sublora: error: ") and error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "bounds", "demo"])
def test_help_lists_every_key(command, capsys):
    assert main([command, "--help"]) == 0
    assert "--sublora.allocation_ratio" in capsys.readouterr().out


def test_help_of_the_program(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("prepare", "train", "bounds", "verify", "report", "demo"))
