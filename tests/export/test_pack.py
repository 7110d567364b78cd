"""A pack: one form, the same everywhere, and nothing else is read. What is loaded from it is what was certified."""

import io
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from runs import issue_run

import sublora
from sublora.certificate.certified import open_certified
from sublora.certificate.reading import read_certificate
from sublora.certificate.zipped import ATTESTATION, CERTIFICATE, MESSAGE, read_zip, to_zip
from sublora.cli import main
from sublora.errors import CertificateError, MessageError, SubloraError
from sublora.export.pack import pack
from sublora.run_folder import RunFolder
from sublora.scoring.measure import rebuild

TOKENS = torch.arange(60).reshape(2, 30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A certificate with its message; the model behind it is never made."""
    return issue_run(tmp_path_factory.mktemp("issued") / "run")


def parts_of(run):
    return {MESSAGE: run.message.read_bytes(), CERTIFICATE: run.certificate.read_bytes()}


def test_a_pack_is_the_same_wherever_it_is_made_and_any_tool_unpacks_it(run, tmp_path, capsys):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    (copy / ATTESTATION).write_text("{}")
    assert main(["pack", str(copy), "--to", str(tmp_path / "a.sublora")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.sublora'}\n"
    pack(RunFolder(copy).certificate, tmp_path / "b.sublora")
    data = (tmp_path / "a.sublora").read_bytes()
    assert data == (tmp_path / "b.sublora").read_bytes()
    assert read_zip(tmp_path / "a.sublora") == {**parts_of(run), ATTESTATION: b"{}"}
    # Small: what is inside, and headers.
    assert len(data) < sum(map(len, read_zip(tmp_path / "a.sublora").values())) + 500
    with zipfile.ZipFile(tmp_path / "a.sublora") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unpacked")
    shutil.copy(run.losses, tmp_path / "unpacked" / run.losses.name)
    assert main(["verify", str(tmp_path / "unpacked"), "--arithmetic"]) == 0
    opened = open_certified(tmp_path / "a.sublora")
    assert opened.certificate == read_certificate(run.certificate) and opened.data == run.message.read_bytes()


def test_what_is_not_a_run_is_not_packed(run, tmp_path, capsys):
    assert main(["pack", str(run.path), "--to", str(tmp_path / "a.zip")]) == 2
    assert "it ends in .sublora" in capsys.readouterr().err
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
    copy.message.write_bytes(copy.message.read_bytes() + b"\0")
    assert main(["pack", str(copy.path), "--to", str(tmp_path / "a.sublora")]) == 2
    assert "is not the message that the certificate is about" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.sublora"))


def zipped(*parts, compression=zipfile.ZIP_STORED, comment=b""):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.comment = comment
        for name, data in parts:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_only_the_one_form_is_read(run, tmp_path):
    parts = parts_of(run)
    message, certificate = parts.items()
    honest = to_zip(parts)
    path = tmp_path / "a.sublora"
    bomb = zipped(message, (CERTIFICATE, b"0" * 50_000_000), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    for data in (
        zipped(message, certificate),  # of today
        zipped(message, certificate, compression=zipfile.ZIP_DEFLATED),
        bomb,
        to_zip({MESSAGE: parts[MESSAGE]}),
        zipped(message, certificate, ("../../escaped", b"x")),
        zipped(message, certificate, ("/tmp/escaped", b"x")),
        zipped(message, certificate, certificate),
        honest + b"x",
        b"x" + honest,
        honest[:-22] + zipped(message, certificate, comment=b"more")[-26:],
        honest[:40],
        honest[:20],
        b"",
    ):
        path.write_bytes(data)
        with pytest.raises(CertificateError, match="no pack as sublora pack writes it"):
            open_certified(path)
    path.write_bytes(honest)
    assert open_certified(path).data == parts[MESSAGE]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_every_changed_byte_is_noticed(run, tmp_path):
    """In headers by the form, in parts by checksum, digest and hash."""
    path, honest = tmp_path / "a.sublora", to_zip(parts_of(run))
    for i in range(0, len(honest), 1 if len(honest) < 500 else 37):
        changed = bytearray(honest)
        changed[i] ^= 1
        path.write_bytes(changed)
        with pytest.raises(SubloraError):
            open_certified(path)


def test_a_pack_of_another_message_is_refused(run, tmp_path):
    parts = parts_of(run)
    other = bytearray(parts[MESSAGE])
    other[-1] ^= 1
    (tmp_path / "a.sublora").write_bytes(to_zip({**parts, MESSAGE: bytes(other)}))
    with pytest.raises(CertificateError, match="is not the message that the certificate is about"):
        open_certified(tmp_path / "a.sublora")


def test_a_long_pack_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "a.sublora").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CertificateError, match="none has more than"):
        open_certified(tmp_path / "a.sublora")
    with pytest.raises(CertificateError, match="cannot read the pack"):
        open_certified(tmp_path / "b.sublora")


def test_a_model_is_loaded_in_one_line(certified, tmp_path):
    file = pack(certified, tmp_path / "a.sublora")
    opened = open_certified(certified)
    with torch.no_grad():
        expected = rebuild(opened.message, "", None).model.eval()(TOKENS).logits
        for path in (certified, str(file)):
            model = sublora.load(path)
            assert type(model).__module__.startswith("transformers.") and not model.training
            assert torch.equal(model(TOKENS).logits, expected)
    with pytest.raises(SubloraError, match="leave out --base"):
        sublora.load(file, base="somewhere")


def test_a_message_alone_is_a_model(certified, tmp_path):
    data = RunFolder(certified).message.read_bytes()
    (tmp_path / "model.bin").write_bytes(data)
    with torch.no_grad():
        expected = sublora.load(certified)(TOKENS).logits
        alone = sublora.load(tmp_path / "model.bin")
        assert type(alone).__module__.startswith("transformers.") and not alone.training
        assert torch.equal(alone(TOKENS).logits, expected)
    with pytest.raises(CertificateError, match="leave out --base"):
        sublora.load(tmp_path / "model.bin", base=tmp_path)
    with pytest.raises(CertificateError, match="cannot read the message"):
        sublora.load(tmp_path / "missing.bin")
    (tmp_path / "model.bin").write_bytes(data + b"\0")
    with pytest.raises(MessageError, match="followed by something else"):
        sublora.load(tmp_path / "model.bin")


def test_another_random_base_than_the_certificates_is_refused(certified):
    from dataclasses import replace

    from sublora.certificate.rebuilt import rebuild_certified

    opened = open_certified(certified)
    base = opened.certificate.prior.base.model_copy(update={"sha256": "ab" * 32})
    prior = opened.certificate.prior.model_copy(update={"base": base})
    changed = replace(opened, certificate=opened.certificate.model_copy(update={"prior": prior}))
    with pytest.raises(CertificateError, match="its hash differs"):
        rebuild_certified(changed, "", None)


def test_the_package_loads_without_torch():
    code = "import sys, sublora; assert {'load', 'Watch'} <= set(sublora.__all__); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sublora.nothing
