"""What is done with the certificate of a classifier: signed, shown, packed, loaded, watched; or refused in one line."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from labelled_run import certify_labelled, prepare_labelled, reseal, write_labelled
from runs import issue_run

import sublora
from sublora.certificate.attestation import find_subjects, read_attestation, read_reproduction, statement
from sublora.certificate.signing import summary
from sublora.certificate.watch import Watch
from sublora.certificate.zipped import (
    ATTESTATION,
    CERTIFICATE,
    CLASSIFIER,
    CLASSIFIER_CERTIFICATE,
    MESSAGE,
    read_zip,
    to_zip,
)
from sublora.classification.certified import open_any, open_classifier
from sublora.classification.model import read_classifier_certificate
from sublora.classification.predictions import read_predictions
from sublora.classification.watching import watch_classifier
from sublora.cli import main
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.split import in_order
from sublora.errors import CertificateError
from sublora.run_folder import RunFolder
from sublora.scoring.labels import label_logits
from sublora.scoring.measure import Rebuilt
from sublora.scoring.processes import Processes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def certified(data, tmp_path_factory):
    return certify_labelled(data, tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def run(certified, tmp_path):
    shutil.copytree(certified, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def keys(tmp_path):
    """Private and public key of two people."""
    out = []
    for name in ("issuer", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        pem, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        out += [pem, public]
    return out


def new_documents(folder, *, swap=(), characters=48, n=150):
    file = write_labelled(folder / "new.jsonl", n, seed=1, swap=swap)
    return prepare("labelled", folder / "new", paths=[file], max_characters=characters)


class TestSigned:
    def test_the_signature_is_of_the_classifier_and_its_claim(self, run, keys, capsys):
        assert main(["attest", str(run.path), "--key", str(keys[0])]) == 0
        assert capsys.readouterr().out == f"{run.attestation}\n"
        certificate, signed = read_classifier_certificate(run.path), read_attestation(run.path, keys[1])
        assert [(c.metric, c.bound, c.method) for c in signed.claims] == [
            ("error", certificate.claim.bound, "betting_subsampled")
        ]
        assert (signed.bits, signed.measured, signed.n) == (certificate.message.bits, 200, certificate.corpus.n)
        assert signed.assumptions == certificate.limits and signed.prior[0] == "Base weights: random, seed 42."
        words = ["verify", str(run.path), "--arithmetic", "--public-key"]
        assert main([*words, str(keys[1])]) == 0
        assert f"signed: {run.attestation}" in capsys.readouterr().out
        assert main([*words, str(keys[3])]) == 2
        assert "is not signed by the key" in capsys.readouterr().err

    @pytest.mark.parametrize("changed", ["classifier", "classifier_certificate"])
    def test_the_signature_is_of_no_other_files(self, run, keys, capsys, changed):
        main(["attest", str(run.path), "--key", str(keys[0])])
        file = getattr(run, changed)
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(bytes(data))
        with pytest.raises(CertificateError, match="is not the file that was attested"):
            read_attestation(run.path, keys[1])
        assert main(["verify", str(run.path), "--arithmetic", "--public-key", str(keys[1])]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_who_reproduced_it_signs_that(self, data, run, keys, capsys):
        words = ["verify", str(run.path), "--data", str(data), "--reproduced-key", str(keys[2])]
        assert main(words) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(run.reproduced)
        found = read_reproduction(run.path, keys[3]).found
        claim = read_classifier_certificate(run.path).claim
        assert [(f.metric, f.claimed) for f in found] == [("error", claim.bound)] and found[0].bound <= claim.bound
        assert main(["verify", str(run.path), "--arithmetic", "--reproduced-key", str(keys[2])]) == 2
        assert "the arithmetic alone measures nothing" in capsys.readouterr().err

    def test_another_message_is_not_signed(self, run, keys, capsys):
        run.classifier.write_bytes(b"another message")
        assert main(["attest", str(run.path), "--key", str(keys[0])]) == 2
        assert "is not the message of the certificate" in capsys.readouterr().err
        assert not run.attestation.exists()

    def test_a_statement_is_about_one_certificate(self, run):
        subjects = find_subjects(run.path)
        assert set(subjects) == {CLASSIFIER, CLASSIFIER_CERTIFICATE}
        said = summary(read_classifier_certificate(run.path))
        with pytest.raises(CertificateError, match="about two certificates"):
            statement(subjects | {MESSAGE: "0" * 64, CERTIFICATE: "0" * 64}, said)
        with pytest.raises(CertificateError, match=r"not about a classifier\.bin"):
            statement({CLASSIFIER_CERTIFICATE: subjects[CLASSIFIER_CERTIFICATE]}, said)


class TestShown:
    def test_folder_file_pack_and_message(self, run, keys, tmp_path, capsys):
        certificate = read_classifier_certificate(run.path)
        main(["attest", str(run.path), "--key", str(keys[0])])
        main(["pack", str(run.path), "--to", str(tmp_path / "a.sublora")])
        shutil.copy(run.classifier_certificate, tmp_path / "renamed.json")
        capsys.readouterr()
        for path in (run.path, run.classifier_certificate, tmp_path / "a.sublora", tmp_path / "renamed.json"):
            assert main(["show", str(path)]) == 0
            out = capsys.readouterr().out
            assert certificate.statement in out and certificate.digest in out
            assert f"| peace | {certificate.classes[0].documents:,} |" in out
            # The signature belongs to the folder and the pack.
            assert ("signature was not checked" in out) == (path in (run.path, tmp_path / "a.sublora"))
        assert main(["show", str(run.classifier)]) == 0
        out = capsys.readouterr().out
        assert "labels (112, 119)" in out and f"K = {certificate.message.bits:,} bits" in out

    def test_a_program_reads_it(self, run, capsys):
        assert main(["show", str(run.path), "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["classifier_certificate"] == json.loads(run.classifier_certificate.read_bytes())
        assert shown["classifier"]["bits"] == sum(shown["classifier"]["ledger"].values())
        assert shown["classifier"]["classes"]["labels"] == [112, 119]

    def test_what_was_changed_is_not_shown(self, run, capsys):
        text = run.classifier_certificate.read_text()
        run.classifier_certificate.write_text(text.replace('"measured": 200', '"measured": 201', 1))
        assert main(["show", str(run.path)]) == 2
        assert "its digest does not match" in capsys.readouterr().err


class TestPacked:
    def test_unpacked_it_is_verified(self, run, tmp_path, capsys):
        run.attestation.write_text("{}")
        for name in ("a", "b"):
            assert main(["pack", str(run.path), "--to", str(tmp_path / f"{name}.sublora")]) == 0
        file = tmp_path / "a.sublora"
        assert file.read_bytes() == (tmp_path / "b.sublora").read_bytes()
        assert set(read_zip(file)) == {CLASSIFIER, CLASSIFIER_CERTIFICATE, ATTESTATION}
        with zipfile.ZipFile(file) as archive:
            archive.extractall(tmp_path / "unpacked")
        shutil.copy(run.predictions, tmp_path / "unpacked")
        assert main(["verify", str(tmp_path / "unpacked"), "--arithmetic"]) == 0
        opened = open_any(file)
        assert (
            opened.certificate == read_classifier_certificate(run.path) and opened.data == run.classifier.read_bytes()
        )

    def test_what_is_loaded_classifies_as_it_was_measured(self, data, run, tmp_path, caplog):
        main(["pack", str(run.path), "--to", str(tmp_path / "a.sublora")])
        model, corpus = sublora.load(tmp_path / "a.sublora"), open_corpus(data)
        assert "of the tokens [112, 119] the likeliest" in caplog.text
        alone = sublora.load(run.classifier).state_dict()
        assert all(torch.equal(alone[name], value) for name, value in model.state_dict().items())
        assert caplog.text.count("of the tokens [112, 119] the likeliest") == 2
        recorded, verbalizer = read_predictions(run.predictions, 2), open_classifier(run.path).verbalizer
        rebuilt = Rebuilt(model, "", 0, np.zeros(0, np.int64))
        found = label_logits(rebuilt, corpus.train, recorded.documents, verbalizer, 32, Processes("cpu"), "")
        np.testing.assert_allclose(found, recorded.logits, atol=1e-4)
        assert np.abs(found - recorded.base_logits).max() > 0.1

    def test_two_certificates_or_halves_are_no_pack(self, run, tmp_path):
        parts = {
            CLASSIFIER: run.classifier.read_bytes(),
            CLASSIFIER_CERTIFICATE: run.classifier_certificate.read_bytes(),
        }
        file = tmp_path / "a.sublora"
        for wrong in (
            {CLASSIFIER: parts[CLASSIFIER]},
            {CLASSIFIER: parts[CLASSIFIER], CERTIFICATE: parts[CLASSIFIER_CERTIFICATE]},
            {**parts, MESSAGE: b"m", CERTIFICATE: b"c"},
        ):
            file.write_bytes(to_zip(wrong))
            with pytest.raises(CertificateError, match="is no pack"):
                open_any(file)
        file.write_bytes(to_zip({**parts, CLASSIFIER: parts[CLASSIFIER][:-1]}))
        with pytest.raises(CertificateError, match="is not the message that the certificate is about"):
            open_any(file)


@pytest.fixture
def promising(run):
    """The certificate claims less than it could prove, so that few errors too many are noticed."""
    certificate = read_classifier_certificate(run.path)
    claim = certificate.claim.model_copy(update={"bound": 0.45})
    reseal(run, certificate, error=claim)
    return run.path


class TestWatched:
    def test_errors_are_those_that_were_certified(self, data, certified, monkeypatch):
        """Of the documents that were drawn, the watch sees the errors that the recorded predictions hold."""
        seen = []
        monkeypatch.setattr(Watch, "add", lambda self, loss: seen.append(loss) and False)
        watch_classifier(certified, data)
        parts, rows = in_order(open_corpus(data))
        own = np.array(seen)[parts == 0][np.argsort(rows[parts == 0])]
        recorded = read_predictions(RunFolder(certified).predictions, 2)
        expected = recorded.logits.argmax(axis=1) != recorded.classes
        assert (own[recorded.documents] == expected).all() and 0 < expected.sum() < len(expected)

    def test_quiet_on_the_source_and_an_alarm_where_labels_are_others(self, promising, tmp_path, capsys):
        alike = new_documents(tmp_path / "alike")
        state = tmp_path / "state.json"
        quiet = ["watch", str(promising), "--data", str(alike), "--state", str(state)]
        assert main(quiet) == 0
        out = capsys.readouterr().out
        assert out.startswith("no alarm after 150 documents (shares of wrong labels: at most 0.45)")
        assert main(quiet) == 0 and capsys.readouterr().out == out
        assert main(["pack", str(promising), "--to", str(tmp_path / "a.sublora")]) == 0
        capsys.readouterr()
        swapped = new_documents(tmp_path / "swapped", swap=range(150))
        assert main(["watch", str(tmp_path / "a.sublora"), "--data", str(swapped)]) == 3
        assert capsys.readouterr().out.startswith("ALARM after ")
        assert main([*quiet, "--metric", "bpb"]) == 2
        assert "no upper bound on 'bpb': watch one of error" in capsys.readouterr().err

    @pytest.mark.parametrize(("labels", "characters"), [(("war", "truce"), 48), (("peace", "war"), 50)])
    def test_documents_with_other_labels_are_refused(self, certified, tmp_path, capsys, labels, characters):
        rows = [{"text": f"the treaty {i} of union", "label": labels[i % 2]} for i in range(40)]
        file = tmp_path / "in.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        other = prepare("labelled", tmp_path / "other", paths=[file], max_characters=characters)
        assert main(["watch", str(certified), "--data", str(other)]) == 2
        assert f"with its labels {', '.join(sorted(labels))}" in capsys.readouterr().err

    def test_from_python_it_is_fed_errors(self, promising):
        watch = Watch(read_classifier_certificate(promising))
        assert not watch.add(0.0) and watch.claim.metric == "error"
        with pytest.raises(CertificateError, match="a loss of 2 is not in shares of wrong labels"):
            watch.add(2)
        assert any(watch.add(1.0) for _ in range(60))


def test_the_command_writes_its_page(run, capsys):
    assert main(["report", str(run.path)]) == 0
    assert str(run.report) in capsys.readouterr().out and "a wrong label" in run.report.read_text()


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ["export", "RUN", "--to", "TO"],
                "a certificate of a classifier, and this is for those of",
            ),
            (["sample", "RUN"], "a certificate of a classifier, and this is for those of"),
            (
                ["verify", "RUN", "--data", "D", "--base", "B", "--retrain-base"],
                "--retrain-base is for the cert",
            ),
        ],
    )
    def test_in_one_line(self, run, tmp_path, capsys, words, said):
        before = sorted(run.path.iterdir())
        paths = {"RUN": str(run.path), "TO": str(tmp_path / "to")}
        assert main([paths.get(word, word) for word in words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
        assert sorted(run.path.iterdir()) == before and not (tmp_path / "to").exists()

    def test_the_other_kind(self, certified, tmp_path):
        with pytest.raises(CertificateError, match="certificate of a classifier"):
            Watch(certified)
        with pytest.raises(CertificateError, match="certificate of a language model, and no classifier's"):
            open_classifier(issue_run(tmp_path / "model").path)
