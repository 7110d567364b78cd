"""The command line: bad input is one line on standard error and exit status 2, and nothing is left behind."""

import base64
import dataclasses
import json
import re
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import issue_run, make_certificate, make_metrics, with_base, write_metrics

from sublora.certificate.attestation.envelope import canonical_json
from sublora.certificate.reading import read_certificate, write_certificate
from sublora.certificate.verify import Verified
from sublora.cli import main
from sublora.cli.command import say
from sublora.cli.configured import certified
from sublora.cli.demo import demo
from sublora.cli.program import COMMANDS
from sublora.coding.message import decode_message
from sublora.config import SECTIONS, load_config
from sublora.config.explaining import choices, meanings
from sublora.console import printable
from sublora.errors import ConfigError
from sublora.export.sample import Sampling
from sublora.files import sha256
from sublora.report.analysis.samples import read_samples
from sublora.run_folder import RunFolder


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
        (["verify", "nowhere", "--arithmetik"], "unrecognized arguments: --arithmetik"),
        (["verify", "nowhere", "--arithmetic", "--base", "some"], "--base and --reproduced-key need --data DIR"),
        (["verify", "nowhere", "--arithmetic", "--reproduced-key", "key.pem"], "need --data DIR"),
        (["verify", "nowhere", "--data", "d", "--retrain-base"], "--retrain-base needs --base FOLDER"),
        (["verify", "nowhere", "--data", "d", "--start", "base"], "--start needs --retrain-base"),
        (["pretrain", "--pretrain.max_iters=3"], "say where the base is written to"),
        (["attest", "nowhere", "--key", "key.pem"], "cannot read the certificate nowhere"),
        (["watch", "nowhere", "--data", "d"], "cannot read the certificate nowhere"),
        (
            ["import", "nowhere", "--to", "run", "--base", "b", "--data", "d"],
            "cannot read the adapter's configuration nowhere",
        ),
        (["pack", "nowhere", "--to", "a.sublora"], "cannot read the certificate nowhere"),
        (["sample", "nowhere.sublora"], "cannot read the pack nowhere.sublora"),
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


CONFIGURED = ["pretrain", "practise", "train", "bounds", "demo"]
DEMO = Path(__file__).parents[2] / "results" / "demo"


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def entry_of(out, key):
    """What the help says of a key, up to the next one."""
    return " ".join(re.search(rf"(?ms)^  --{re.escape(key)} .*?(?=^  --|^$)", out)[0].split())


@pytest.mark.parametrize("command", CONFIGURED)
def test_help_explains_every_key(command, capsys):
    out = help_of(capsys, command)
    assert out.startswith(f"usage: sublora {command} ") and "sublora.config" not in out
    words = " ".join(out.split())
    for name, section in SECTIONS.items():
        assert f" {name}: {' '.join(section.__doc__.split())} " in words
        explained = meanings(section)
        for field in dataclasses.fields(section):
            # In one piece: the meaning stands below its own key.
            entry = entry_of(out, f"{name}.{field.name}")
            assert f"{explained[field.name]} (type: " in entry and "default: " in entry, f"{name}.{field.name}"


def test_help_shows_types_defaults_and_choices(capsys):
    out = help_of(capsys, "train")
    for key, entry in (
        ("data.batching", "(type: str, default: crops)"),
        ("data.batching", " {crops,documents,labels} "),
        ("system.seed", "(type: int, default: 42)"),
        ("bounds.joint", "(type: bool, default: False)"),
        ("sublora.gating_init", "(type: float | null, default: null)"),
        ("prompt.indices", "(type: list[int], default: [])"),
    ):
        assert entry in entry_of(out, key)


def test_the_choices_of_the_help_are_those_that_a_section_takes():
    for name, section in SECTIONS.items():
        kinds = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            key, legal = f"{name}.{field.name}", choices(kinds[field.name])
            if not isinstance(field.default, str):
                continue
            try:
                section(**{field.name: "nonsense"})
                chosen = False
            except ConfigError as error:
                chosen = "not recognized" in str(error)
            assert chosen == bool(legal), key
            for value in legal:
                # token_level is refused beside the default number of samples, and not for its name.
                others = {"bound_samples": 0} if value == "token_level" else {}
                assert getattr(section(**{field.name: value}, **others), field.name) == value


@pytest.mark.parametrize("flag", ["--config", "--config-file"])
def test_the_configuration_is_printed_as_a_file_that_makes_it_again(flag, capsys, tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("sublora:\n  intrinsic_dim: 7\n")
    assert main(["train", flag, str(path), "--print_config", "--system.seed=3"]) == 0
    printed = tmp_path / "two.yaml"
    printed.write_text(capsys.readouterr().out)
    config = load_config([f"{flag}={printed}"])
    assert (config.sublora.intrinsic_dim, config.system.seed) == (7, 3)
    assert config.to_dict() == load_config([flag, str(path), "--system.seed=3"]).to_dict()


def test_an_interrupted_command_says_that_it_goes_on(monkeypatch, capsys):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("sublora.report.show.show", interrupt)
    assert main(["show", "somewhere"]) == 130
    assert capsys.readouterr().err == "sublora: interrupted: the same command goes on\n"


def test_a_program_reads_what_was_verified(capsys):
    assert main(["verify", str(DEMO), "--arithmetic", "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)["verified"]
    certificate = read_certificate(DEMO / "certificate.json")
    assert verified["checked"] == "arithmetic" and verified["digest"] == certificate.digest
    assert [(c["metric"], c["bound"], c["found"]) for c in verified["claims"]] == [
        (c.metric, c.bound, None) for c in certificate.claims
    ]


def test_a_replay_tells_a_program_what_it_found(signed, monkeypatch, capsys):
    verified_by(monkeypatch, lower=0.001)
    key = signed.path.parent / "issuer.pub"
    assert main(["verify", str(signed.path), "--data", "corpus", "--json", "--public-key", str(key)]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["signed"] == str(signed.attestation) and out["verified"]["checked"] == "replay"
    assert all(c["bound"] - c["found"] == pytest.approx(0.001) for c in out["verified"]["claims"])


def test_a_program_reads_what_is_shown(capsys, tmp_path):
    assert main(["show", str(DEMO), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["certificate"] == json.loads((DEMO / "certificate.json").read_bytes())
    data = (DEMO / "message.bin").read_bytes()
    message = decode_message(data, max_symbols=10_000)
    assert shown["message"]["bits"] == 8 * len(data) == shown["certificate"]["message"]["bits"]
    assert sum(shown["message"]["ledger"].values()) == pytest.approx(sum(message.ledger.values()))
    assert shown["message"]["header"]["samples"] == message.header.samples
    (tmp_path / "message.bin").write_bytes(b"no message")
    assert main(["show", str(tmp_path), "--json"]) == 2
    assert not capsys.readouterr().out


def test_help_of_the_program(capsys):
    out = help_of(capsys)
    assert all(f"\n    {name} " in out and command.help.split()[0] in out for name, command in COMMANDS.items())


@pytest.fixture
def signed(tmp_path, capsys):
    """A certified run on a pretrained base, the keys of its issuer, and those of somebody else."""
    primitives = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    pem, none = primitives.Encoding.PEM, primitives.NoEncryption()
    for name in ("issuer", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        private = key.private_bytes(pem, primitives.PrivateFormat.PKCS8, none)
        public = key.public_key().public_bytes(pem, primitives.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.message.write_bytes(b"a message")
    message = make_certificate().message.model_copy(update={"sha256": sha256(b"a message")})
    write_certificate(run, with_base(make_certificate(message=message)))
    assert main(["attest", str(run.path), "--key", str(tmp_path / "issuer.pem")]) == 0
    assert capsys.readouterr().out == f"{run.attestation}\n"
    return run


def verified_by(monkeypatch, lower=0.0):
    """Let `verify` find bounds that lie lower than the claims; return the arguments that it gets."""
    seen = {}

    def verify(path, data_dir, *, base, device):
        seen.update(data=data_dir, base=base, device=device)
        certificate = read_certificate(path)
        measured = tuple(c.model_copy(update={"bound": c.bound - lower}) for c in certificate.claims)
        return Verified(certificate, None if data_dir is None else measured)

    monkeypatch.setattr("sublora.certificate.verify.verify", verify)
    return seen


def test_an_attestation_is_shown_as_one_that_nobody_checked(signed, capsys):
    assert main(["show", str(signed.attestation)]) == 0
    out = capsys.readouterr().out
    assert "its signature was not checked" in out and sha256(b"a message") in out
    signed.attestation.write_bytes(signed.attestation.read_bytes().replace(b'"sig"', b'"gis"'))
    assert main(["show", str(signed.attestation)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_an_attestation_says_is_only_shown(signed, capsys):
    """Nobody has checked it: what would move a terminal's cursor, or begin a line of its own, is in it."""
    envelope = json.loads(signed.attestation.read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["prior"][0] = "a base\x1b[2J\nof mine"
    envelope["payload"] = base64.b64encode(canonical_json(statement)).decode()
    signed.attestation.write_bytes(canonical_json(envelope) + b"\n")
    assert main(["show", str(signed.attestation)]) == 0
    assert "    - a base\ufffd[2J of mine\n" in capsys.readouterr().out


def test_a_signature_is_checked_with_the_public_key(signed, monkeypatch, capsys):
    verified_by(monkeypatch)
    command = ["verify", str(signed.path), "--arithmetic", "--public-key"]
    assert main([*command, str(signed.path.parent / "issuer.pub")]) == 0
    out = capsys.readouterr().out
    assert f"signed: {signed.attestation}" in out and "arithmetic only" in out
    assert main([*command, str(signed.path.parent / "other.pub")]) == 2
    assert "is not signed by the key" in capsys.readouterr().err
    # Issued again with another message, the old signature is about other files.
    write_certificate(signed, with_base(make_certificate(bits=4096)))
    assert main([*command, str(signed.path.parent / "issuer.pub")]) == 2
    assert "is not the file that was attested" in capsys.readouterr().err


def test_a_signature_of_something_else_than_the_certificate_is_refused(signed, monkeypatch, capsys):
    from sublora.certificate import signing

    honest = signing.summary
    monkeypatch.setattr(signing, "summary", lambda c: honest(make_certificate(bits=8)))
    key = signed.path.parent / "issuer"
    assert main(["attest", str(signed.path), "--key", f"{key}.pem"]) == 0
    monkeypatch.setattr(signing, "summary", honest)
    verified_by(monkeypatch)
    assert main(["verify", str(signed.path), "--arithmetic", "--public-key", f"{key}.pub"]) == 2
    assert "says something else than the certificate" in capsys.readouterr().err


def test_what_is_signed_are_the_upper_bounds_of_the_certificate(signed):
    from sublora.certificate.attestation import read_attestation

    certificate = read_certificate(signed.certificate)
    summary = read_attestation(signed.path, signed.path.parent / "issuer.pub")
    assert [(c.metric, c.bound) for c in summary.claims] == [
        (c.metric, c.bound) for c in certificate.claims if "_gain" not in c.metric
    ]
    assert summary.bits == certificate.message.bits and summary.measured == 5000
    assert summary.prior[0] == f"Base weights: a/base, SHA-256 {'bb' * 32}."


def test_who_reproduced_a_certificate_signs_it_too(signed, monkeypatch, capsys):
    from sublora.certificate.attestation import read_reproduction

    seen = verified_by(monkeypatch, lower=0.001)
    other = signed.path.parent / "other"
    words = ["verify", str(signed.path), "--data", "corpus", "--base", "weights", "--reproduced-key", f"{other}.pem"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(signed.reproduced)
    assert str(seen["data"]) == "corpus" and seen["base"] == "weights"
    found = read_reproduction(signed.path, other.with_suffix(".pub")).found
    assert all(f.claimed - f.bound == pytest.approx(0.001) for f in found)


def test_another_message_is_not_signed(signed, capsys):
    signed.message.write_bytes(b"another message")
    assert main(["attest", str(signed.path), "--key", str(signed.path.parent / "issuer.pem")]) == 2
    assert "is not the message of the certificate" in capsys.readouterr().err


def test_a_run_is_verified_reported_and_shown(tmp_path, capsys):
    """A certificate that was not invented goes through the commands that read one."""
    run = issue_run(tmp_path / "run")
    write_metrics(run.path, make_metrics())
    run.config.write_text("sublora: {}\n")
    assert main(["verify", str(run.path), "--arithmetic"]) == 0
    assert main(["report", str(run.path)]) == 0
    out = capsys.readouterr().out
    certificate = read_certificate(run.certificate)
    assert out.startswith("arithmetic only") and certificate.statement in out
    assert out.splitlines()[-1] == str(run.report)
    assert certificate.statement in run.report.read_text()
    say(certified(run), as_json=False)
    shown = capsys.readouterr().out
    assert all(path.name in shown for path in (run.certificate, run.message, run.report))
    run.losses.write_bytes(run.losses.read_bytes()[:-1] + b"\x01")
    assert main(["verify", str(run.path), "--arithmetic"]) == 2
    assert "hash of the losses differs" in capsys.readouterr().err


def test_a_demo_takes_its_steps_in_order_and_keeps_their_times(tmp_path, monkeypatch):
    taken = []

    def step(name, result=None):
        def take(*arguments, **options):
            taken.append((name, arguments, options))
            return result

        return take

    for module, name, result in (
        ("corpus.prepare", "prepare", None),
        ("training.loop", "train", tmp_path / "run"),
        ("certificate.issue", "certify", None),
        ("sweep.run", "verify_elsewhere", None),
        ("export.sample", "sample", ("a text", "the base's")),
        ("report.pages.html", "write_report", None),
    ):
        also = {"Sampling": Sampling} if name == "sample" else {}
        monkeypatch.setitem(sys.modules, f"sublora.{module}", SimpleNamespace(**{name: step(name, result)} | also))
    words = [f"--login.out_dir={tmp_path / 'run'}", "--bounds.delta=0.01", f"--data.dataset_dir={tmp_path}"]
    words += ["--corpus.source=text", '--corpus.new=["a.txt"]', "--prior.share=0.25"]
    run = demo(load_config(words))
    assert [name for name, *_ in taken] == [
        "prepare", "train", "certify", "verify_elsewhere", "sample", "write_report"
    ]  # fmt: skip
    assert set(json.loads(run.times.read_text())) == {"prepare", "train", "bounds", "verify", "sample", "report"}
    assert [s.texts for s in read_samples(run)] == [{"decoded model": "a text", "base": "the base's"}]
    prepared, (certificate,) = taken[0], taken[2][1]
    assert prepared[1] == ("text", tmp_path)
    assert (prepared[2]["paths"], prepared[2]["prior_share"], prepared[2]["tokenizer"]) == (["a.txt"], 0.25, None)
    assert certificate.bounds.delta == 0.01 and certificate.model.best_checkpoint_path == str(run.path)
    assert {"bounds.delta", "model.best_checkpoint_path"} <= certificate.explicit


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_result_for_programs_and_can_be_quiet(command, capsys):
    out = help_of(capsys, command)
    assert "--json" in out and "--quiet" in out
    assert out.startswith(f"usage: sublora {command} ") and "<class" not in out


def test_what_is_made_is_read_by_a_program(tmp_path, capsys):
    assert main(["pack", str(DEMO), "--to", str(tmp_path / "a.sublora"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": str(tmp_path / "a.sublora")}
    assert main(["show", str(DEMO)]) == main(["show", str(tmp_path / "a.sublora")]) == 0
    whole = capsys.readouterr().out
    assert whole[: len(whole) // 2] == whole[len(whole) // 2 :]


def test_a_quiet_command_says_its_result_alone(tmp_path, capsys, caplog):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {i} of a text." for i in range(30)))
    words = ["prepare", "--source", "text", "--input", str(text), "--out"]
    assert main([*words, str(tmp_path / "told")]) == 0
    told = len(caplog.records)
    assert main([*words, str(tmp_path / "quiet"), "--quiet"]) == 0
    assert told and len(caplog.records) == told
    assert not capsys.readouterr().out


def test_colours_and_rules_are_for_terminals_alone(capsys, monkeypatch):
    result = certified(RunFolder(DEMO))
    say(result, as_json=False)
    piped = capsys.readouterr().out
    assert "held-out bits per byte, 100 test documents\t1.110\n" in piped
    assert "\x1b" not in piped + help_of(capsys, "verify") and "─" not in piped
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    say(result, as_json=False)
    assert "─" in capsys.readouterr().out
    assert "\x1b[" in help_of(capsys, "verify")


def test_a_shell_completes_commands_and_keys(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--print_completion=shtab-bash"])
    script = capsys.readouterr().out
    keys = dict(re.findall(r"^_shtab_sublora_(\w+)_option_strings=\((.*)\)$", script, re.MULTILINE))
    assert keys.keys() >= COMMANDS.keys()
    assert "--sublora.allocation_mode" in keys["train"].split() and "--arithmetic" in keys["verify"].split()
    assert "--arithmetic" not in keys["train"].split()


def test_sampled_text_moves_no_cursor_and_changes_no_title():
    assert printable("treaty\nof\tpeace, é 条") == "treaty\nof\tpeace, é 条"
    assert printable("a\x1b]0;title\x07b\r\x9b2Jc\u202e") == "a\ufffd]0;title\ufffdb\ufffd\ufffd2Jc\ufffd"
