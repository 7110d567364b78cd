"""Attestations: what is signed, by whom, and that no byte of it can change."""

import base64
import copy
import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from sublora.certificate.attestation import (
    CERTIFICATE_PREDICATE,
    REPRODUCED_PREDICATE,
    Claim,
    Reproduction,
    Summary,
    attest,
    check_statement,
    check_subjects,
    find_subjects,
    read_attestation,
    read_envelope,
    read_reproduction,
    reproduce,
    reproduced_statement,
    reproduction_of,
    sign,
    statement,
    summary_of,
)
from sublora.certificate.attestation.statement import Found
from sublora.errors import CertificateError
from sublora.files import canonical_json, sha256

SUMMARY = Summary(
    claims=(Claim("bpd", 3.979823, "betting_subsampled"), Claim("top_1_error", 0.784273, "betting_subsampled")),
    delta=0.05,
    joint=False,
    n=22_941,
    measured=2_000,
    bits=3_536,
    prior=("Base weights: random, seed 42.", "Tokenizer: bytes."),
    assumptions=("Documents are drawn independently — “as if”.",),
    version="0.1.0",
)
REPRODUCTION = Reproduction(
    "an auditor",
    {"sublora": "0.1.0", "torch": "2.13.0"},
    (Found("bpd", 3.979823, 3.979701),),
    delta=0.05,
    measured=2_000,
)
KINDS = {"ed25519": ed25519.Ed25519PrivateKey.generate, "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1())}


def write_key(folder, key, password=None):
    """Write a key and its public key in PEM; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, encryption))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder / "key.pem", folder / "public.pem"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Return private and public path of an ed25519 key."""
    return write_key(tmp_path_factory.mktemp("keys"), KINDS["ed25519"]())


@pytest.fixture
def run(tmp_path):
    """Return a folder with the files of a certified run; they need not mean anything here."""
    folder = tmp_path / "run"
    files = {
        "message.bin": bytes(range(200)),
        "certificate.json": b'{"format": 2}\n',
        "losses.safetensors": b"not a subject",
        "adapter/adapter_model.safetensors": b"adapter",
        "adapter/.hidden": b"no subject either",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def base(tmp_path):
    """Return a folder with the files of a base model."""
    folder = tmp_path / "weights"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer" / "vocab.json").write_bytes(b"{}")
    return folder


def public_key(path):
    return SSlibKey.from_crypto(serialization.load_pem_public_key(path.read_bytes()))


def pae(kind, payload):
    """The bytes that are signed, from the definition in DSSE's protocol.md."""
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])


def signed_as(value, key_path, payload=None, payload_type="application/vnd.in-toto+json"):
    """Return an envelope around anything, signed correctly and written canonically."""
    payload = canonical_json(value) if payload is None else payload
    private = serialization.load_pem_private_key(key_path.read_bytes(), None)
    signature = private.sign(pae(payload_type.encode(), payload))
    return envelope_of(payload, payload_type, [(SSlibKey.from_crypto(private.public_key()).keyid, signature)])


def envelope_of(payload, payload_type, signatures):
    def encode(data):
        return base64.b64encode(data).decode()

    written = [{"keyid": keyid, "sig": encode(signature)} for keyid, signature in signatures]
    value = {"payload": encode(payload), "payloadType": payload_type, "signatures": written}
    return canonical_json(value) + b"\n"


class TestStatement:
    def test_is_an_in_toto_statement_of_version_1(self, run):
        value = statement(find_subjects(run), SUMMARY)
        assert value["_type"] == "https://in-toto.io/Statement/v1"
        assert value["predicateType"] == CERTIFICATE_PREDICATE
        assert {s["name"]: s["digest"] for s in value["subject"]} == {
            name: {"sha256": sha256((run / name).read_bytes())}
            for name in ("adapter/adapter_model.safetensors", "certificate.json", "message.bin")
        }

    @pytest.mark.parametrize("kind", ["certificate", "reproduced"])
    def test_in_totos_own_types_read_the_same(self, run, kind):
        subjects = find_subjects(run)
        ours = statement(subjects, SUMMARY) if kind == "certificate" else reproduced_statement(subjects, REPRODUCTION)
        theirs = json_format.Parse(canonical_json(ours), statement_pb2.Statement())
        Statement.copy_from_pb(theirs).validate()
        assert json_format.MessageToDict(theirs) == ours

    def test_says_what_the_certificate_says(self, run):
        predicate = statement(find_subjects(run), SUMMARY)["predicate"]
        assert (predicate["K"], predicate["n"], predicate["delta"], predicate["joint"]) == (
            3_536,
            22_941,
            "0.05",
            False,
        )
        assert predicate["prior"] == list(SUMMARY.prior)
        assert predicate["assumptions"] == list(SUMMARY.assumptions)
        assert predicate["sampleSize"] == 2_000
        assert predicate["assuranceLevel"] == "self_attested"
        assert predicate["claims"][0] == {
            "metric": "bpd",
            "comparator": "<=",
            "threshold": "3.979823",
            "passed": True,
            "bound": "3.979823",
            "method": "betting_subsampled",
        }

    def test_a_verifiers_statement_names_the_certificate_and_both_bounds(self, run):
        predicate = reproduced_statement(find_subjects(run), REPRODUCTION)["predicate"]
        assert predicate["certificate"] == {"sha256": sha256((run / "certificate.json").read_bytes())}
        assert predicate["verifier"] == {"id": "an auditor", "version": {"sublora": "0.1.0", "torch": "2.13.0"}}
        assert (predicate["claims"][0]["threshold"], predicate["claims"][0]["bound"]) == ("3.979823", "3.979701")
        assert predicate["assuranceLevel"] == "reproduced"

    def test_objects_come_back(self, run):
        subjects = find_subjects(run)
        assert summary_of(statement(subjects, SUMMARY)) == SUMMARY
        assert reproduction_of(reproduced_statement(subjects, REPRODUCTION)) == REPRODUCTION

    @pytest.mark.parametrize("value", [1e-7, 0.1 + 0.2, 5e-324, 123456789.0, 1 / 3])
    def test_numbers_come_back_from_decimals_without_exponents(self, run, value):
        summary = dataclasses.replace(SUMMARY, claims=(Claim("bpd", value, "betting"),))
        value = statement(find_subjects(run), summary)
        assert "e" not in value["predicate"]["claims"][0]["bound"]
        assert summary_of(value) == summary

    @pytest.mark.parametrize(
        "change",
        [
            {"delta": 0.0},
            {"delta": float("nan")},
            {"n": 0},
            {"bits": -1},
            {"claims": ()},
            {"claims": (Claim("bpd", float("inf"), "betting"),)},
        ],
        ids=str,
    )
    def test_impossible_values_are_refused(self, run, change):
        with pytest.raises(CertificateError):
            statement(find_subjects(run), dataclasses.replace(SUMMARY, **change))

    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "a\\b", "", ".", "a\0b", "./a"])
    def test_names_stay_inside_the_folder(self, run, name):
        with pytest.raises(CertificateError, match="relative path"):
            statement({**find_subjects(run), name: "0" * 64}, SUMMARY)

    @pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "0" * 64 + "\n"], ids=repr)
    def test_digests_are_sha256_in_lower_case(self, run, digest):
        with pytest.raises(CertificateError, match="SHA-256"):
            statement({**find_subjects(run), "more": digest}, SUMMARY)

    @pytest.mark.parametrize("key", ["prior", "assumptions"])
    def test_sentences_are_strings(self, run, key):
        value = statement(find_subjects(run), SUMMARY)
        value["predicate"][key] = ["a sentence", 1]
        with pytest.raises(CertificateError, match="list of sentences"):
            check_statement(value)

    def test_a_bound_above_the_claim_is_no_reproduction(self, run):
        worse = dataclasses.replace(REPRODUCTION, found=(Found("bpd", 3.979823, 3.979824),))
        with pytest.raises(CertificateError, match="does not confirm"):
            reproduced_statement(find_subjects(run), worse)

    def test_a_field_too_many_too_few_or_of_another_value_is_refused(self, run):
        """Every place of both statements is removed, replaced, and given a neighbour."""
        subjects = find_subjects(run)
        for value in (statement(subjects, SUMMARY), reproduced_statement(subjects, REPRODUCTION)):
            check_statement(value)
            changed = list(changes(value))
            assert len(changed) > 100
            for change, what in changed:
                with pytest.raises(CertificateError):
                    check_statement(change)
                    pytest.fail(what)


# What may change in a statement that still makes sense: it then says something else, which the signature is for.
FREE = {"prior", "assumptions", "version", "id", "metric", "method", "digest", "name"}


def changes(value, path=()):
    """Yield variants of a JSON value that differ in one place, with a name for the place."""
    here = value
    for step in path:
        here = here[step]
    for step in here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ():
        place = (*path, step)
        free = any(part in FREE for part in place)
        for new in ("removed", None, True, 1.5, "x", [], {}):
            if free and (new == "x" or isinstance(here, list) or path[-1:] == ("version",)):
                continue
            if new == "removed" and isinstance(step, int) and len(here) > 1:
                continue
            if new == [] and step in ("prior", "assumptions"):
                continue
            if new is True and step in ("joint", "passed"):
                continue
            if new == {} and step == "version":
                continue
            variant = copy.deepcopy(value)
            target = variant
            for part in path:
                target = target[part]
            if new == "removed":
                del target[step]
            else:
                target[step] = new
            yield variant, f"{place}: {new}"
        yield from changes(value, place)
    if isinstance(here, dict) and path[-1:] != ("version",):
        variant = copy.deepcopy(value)
        target = variant
        for part in path:
            target = target[part]
        target["more"] = 1
        yield variant, f"{path}: one more"


class TestEnvelope:
    @pytest.mark.parametrize("kind", KINDS)
    def test_securesystemslib_verifies_it(self, run, tmp_path, kind):
        private, public = write_key(tmp_path, KINDS[kind]())
        value = statement(find_subjects(run), SUMMARY)
        envelope = Envelope.from_dict(json.loads(sign(value, private)))
        assert len(envelope.verify([public_key(public)], threshold=1)) == 1
        assert (json.loads(envelope.payload), envelope.payload_type) == (value, "application/vnd.in-toto+json")
        other = write_key(tmp_path / "other", KINDS[kind]())[1]
        with pytest.raises(VerificationError):
            envelope.verify([public_key(other)], threshold=1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_definition_verifies_it(self, run, tmp_path, kind):
        private, public = write_key(tmp_path, KINDS[kind]())
        envelope = json.loads(sign(statement(find_subjects(run), SUMMARY), private))
        payload = base64.b64decode(envelope["payload"], validate=True)
        signed = pae(b"application/vnd.in-toto+json", payload)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        key = serialization.load_pem_public_key(public.read_bytes())
        how = () if kind == "ed25519" else (ec.ECDSA(hashes.SHA256()),)
        key.verify(signature, signed, *how)
        with pytest.raises(InvalidSignature):
            key.verify(signature, signed + b" ", *how)

    def test_openssl_makes_the_key_and_verifies_the_signature(self, run, tmp_path):
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl")

        def openssl(*words):
            return subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

        openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
        openssl("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")
        value = statement(find_subjects(run), SUMMARY)
        data = sign(value, tmp_path / "key.pem")
        assert read_envelope(data, tmp_path / "public.pem") == value
        envelope = json.loads(data)
        payload = base64.b64decode(envelope["payload"])
        (tmp_path / "signed.bin").write_bytes(pae(b"application/vnd.in-toto+json", payload))
        (tmp_path / "signature.bin").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        files = ("-in", "signed.bin", "-sigfile", "signature.bin")
        assert "Success" in openssl("pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", *files)

    def test_the_test_vector_of_dsse(self):
        vector = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        assert pae(b"http://example.com/HelloWorld", b"hello world") == vector
        assert Envelope(b"hello world", "http://example.com/HelloWorld", {}).pae() == vector

    def test_what_is_signed_is_read(self, run, keys):
        for value in (
            statement(find_subjects(run), SUMMARY),
            reproduced_statement(find_subjects(run), REPRODUCTION),
        ):
            data = sign(value, keys[0])
            assert read_envelope(data, keys[1]) == value
            assert sign(value, keys[0]) == data, "ed25519 is deterministic"

    def test_every_flipped_bit_of_the_file_is_refused(self, run, keys):
        data = sign(statement(find_subjects(run), SUMMARY), keys[0])
        read_envelope(data, keys[1])
        for i in range(len(data)):
            for bit in range(8):
                changed = bytearray(data)
                changed[i] ^= 1 << bit
                with pytest.raises(CertificateError):
                    read_envelope(bytes(changed), keys[1])
                    pytest.fail(f"bit {bit} of byte {i}")

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_byte_replaced_removed_or_added_is_refused(self, run, tmp_path, kind):
        private, public = write_key(tmp_path, KINDS[kind]())
        small = dataclasses.replace(SUMMARY, claims=SUMMARY.claims[:1], prior=(), assumptions=())
        data = sign(statement(find_subjects(run), small), private)
        for i in range(len(data)):
            for new in (b"", b"A", b" ", b"\\u0041", data[i : i + 1] * 2):
                changed = data[:i] + new + data[i + 1 :]
                if changed != data:
                    with pytest.raises(CertificateError):
                        read_envelope(changed, public)
                        pytest.fail(f"byte {i} by {new!r}")

    def test_of_two_signers_either_is_enough_and_the_others_bytes_do_not_count(self, run, keys, tmp_path):
        second = write_key(tmp_path, KINDS["ecdsa"]())
        value = statement(find_subjects(run), SUMMARY)
        data = sign(value, keys[0], second[0])
        assert read_envelope(data, keys[1]) == read_envelope(data, second[1]) == value
        envelope = json.loads(data)
        assert len(envelope["signatures"]) == 2
        # A damaged signature of one key is no matter to the other, and is seen by its own.
        envelope["signatures"][1]["sig"] = base64.b64encode(b"damaged").decode()
        damaged = canonical_json(envelope) + b"\n"
        assert read_envelope(damaged, keys[1]) == value
        with pytest.raises(CertificateError, match="was changed"):
            read_envelope(damaged, second[1])

    def test_the_keys_of_two_signatures_cannot_be_exchanged(self, run, keys, tmp_path):
        second = write_key(tmp_path, KINDS["ed25519"]())
        envelope = json.loads(sign(statement(find_subjects(run), SUMMARY), keys[0], second[0]))
        first, other = envelope["signatures"]
        first["sig"], other["sig"] = other["sig"], first["sig"]
        for public in (keys[1], second[1]):
            with pytest.raises(CertificateError, match="was changed"):
                read_envelope(canonical_json(envelope) + b"\n", public)

    def test_the_wrong_key_is_refused(self, run, keys, tmp_path):
        data = sign(statement(find_subjects(run), SUMMARY), keys[0])
        wrong = write_key(tmp_path, KINDS["ed25519"]())
        with pytest.raises(CertificateError, match="is not signed by the key"):
            read_envelope(data, wrong[1])
        # Nor does it help to write the right key's name on a signature of the wrong one.
        envelope = json.loads(sign(statement(find_subjects(run), SUMMARY), wrong[0]))
        envelope["signatures"][0]["keyid"] = public_key(keys[1]).keyid
        with pytest.raises(CertificateError, match="was changed"):
            read_envelope(canonical_json(envelope) + b"\n", keys[1])

    def test_a_changed_payload_is_refused(self, run, keys):
        value = statement(find_subjects(run), SUMMARY)
        envelope = json.loads(sign(value, keys[0]))
        value["predicate"]["claims"][0].update(bound="1.0", threshold="1.0")
        check_statement(value)
        envelope["payload"] = base64.b64encode(canonical_json(value)).decode()
        with pytest.raises(CertificateError, match=r"was changed after .* signed it"):
            read_envelope(canonical_json(envelope) + b"\n", keys[1])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff\xfe",
            b"null\n",
            b"[]\n",
            b"{}\n",
            b"[" * 100_000,
            b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}\n',
            b'{"payload":7,"payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":"","sig":""}]}\n',
            b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[7]}\n',
            b'{"payload":"","payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}\n',
            b'{"payload":"\\ud800","payloadType":"application/vnd.in-toto+json","signatures":[7]}\n',
            b'{"payload":"QR==","payloadType":"application/vnd.in-toto+json","signatures":[7]}\n',
        ],
        ids=lambda data: str(data[:70]),
    )
    def test_what_is_not_an_envelope_is_refused_in_one_line(self, keys, data):
        with pytest.raises(CertificateError) as caught:
            read_envelope(data, keys[1])
        assert "\n" not in str(caught.value)

    def test_an_envelope_written_otherwise_is_refused(self, run, keys):
        """Spaces, order, repeated and unknown keys, other base64: all with a right signature."""
        # A question mark at every offset modulo three: one of them is a slash in base64.
        data = sign(statement(find_subjects(run), dataclasses.replace(SUMMARY, prior=("???",))), keys[0])
        envelope = json.loads(data)
        first = envelope["signatures"][0]
        written = [
            data.rstrip(b"\n"),
            data + b"\n",
            json.dumps(envelope).encode() + b"\n",
            json.dumps(dict(reversed(envelope.items())), separators=(",", ":")).encode() + b"\n",
            data.replace(b'{"payload":', b'{"payload":"","payload":', 1),
            canonical_json({**envelope, "payload": envelope["payload"].replace("/", "_")}) + b"\n",
            canonical_json({**envelope, "more": 1}) + b"\n",
            canonical_json({**envelope, "signatures": [{**first, "cert": ""}]}) + b"\n",
            canonical_json({**envelope, "signatures": [first, first]}) + b"\n",
            canonical_json({**envelope, "signatures": [{"sig": first["sig"]}]}) + b"\n",
            canonical_json({**envelope, "signatures": [{**first, "sig": first["sig"].rstrip("=")}]}) + b"\n",
        ]
        for changed in written:
            assert changed != data
            with pytest.raises(CertificateError):
                read_envelope(changed, keys[1])
                pytest.fail(str(changed[:200]))

    def test_statements_of_other_kinds_are_refused_although_they_are_signed(self, run, keys):
        good = statement(find_subjects(run), SUMMARY)
        assert signed_as(good, keys[0]) == sign(good, keys[0])
        unknown = {**good, "predicateType": "https://example.com/other/v1"}
        old = {**good, "_type": "https://in-toto.io/Statement/v0.1"}
        exchanged = {**good, "predicateType": REPRODUCED_PREDICATE}
        infinite = {**good, "more": float("inf")}
        cases = [
            (signed_as(unknown, keys[0]), "unknown type"),
            (signed_as(old, keys[0]), "no in-toto statement of version 1"),
            (signed_as(exchanged, keys[0]), "malformed"),
            (signed_as({**good, "more": 1}, keys[0]), "malformed"),
            (signed_as(None, keys[0], payload=json.dumps(infinite).encode()), "malformed"),
            (signed_as(good, keys[0], payload_type="application/json"), "is expected"),
            (signed_as(good, keys[0], payload=json.dumps(good).encode()), "not canonical JSON"),
            (signed_as(None, keys[0], payload=b"no JSON"), "not JSON"),
            (signed_as(None, keys[0], payload=b'{"a":1,"a":1}'), "occurs twice"),
            (signed_as([], keys[0]), "malformed"),
        ]
        for data, error in cases:
            with pytest.raises(CertificateError, match=error):
                read_envelope(data, keys[1])

    def test_sign_refuses_what_read_would_refuse(self, run, keys):
        value = {**statement(find_subjects(run), SUMMARY), "more": 1}
        with pytest.raises(CertificateError, match="malformed"):
            sign(value, keys[0])
        with pytest.raises(CertificateError, match="given twice"):
            sign(statement(find_subjects(run), SUMMARY), keys[0], keys[0])


class TestKeys:
    def test_errors_of_keys_are_one_line(self, run, keys, tmp_path):
        value = statement(find_subjects(run), SUMMARY)
        encrypted = write_key(tmp_path / "encrypted", KINDS["ed25519"](), b"password")[0]
        foreign = write_key(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
        (tmp_path / "noise.pem").write_bytes(b"noise")
        cases = [
            (tmp_path / "missing.pem", "cannot read the key"),
            (encrypted, "is encrypted"),
            (foreign[0], "type rsa"),
            (tmp_path / "noise.pem", "not a private key"),
            (keys[1], "not a private key"),
            (tmp_path, "cannot read the key"),
        ]
        for path, error in cases:
            with pytest.raises(CertificateError, match=error) as caught:
                sign(value, path)
            assert "\n" not in str(caught.value)
            assert str(path) in str(caught.value)
        data = sign(value, keys[0])
        for path, error in [
            (tmp_path / "missing.pem", "cannot read the public key"),
            (foreign[1], "type rsa"),
            (tmp_path / "noise.pem", "not a public key"),
            (keys[0], "not a public key"),
        ]:
            with pytest.raises(CertificateError, match=error) as caught:
                read_envelope(data, path)
            assert "\n" not in str(caught.value)

    def test_the_libraries_are_asked_for_only_when_a_key_is_used(self):
        code = """
import sys
for name in ("torch", "securesystemslib", "cryptography"):
    sys.modules[name] = None
from pathlib import Path
from sublora.certificate.attestation import Claim, Summary, sign, statement
from sublora.errors import CertificateError
files = {"message.bin": "0" * 64, "certificate.json": "1" * 64}
value = statement(files, Summary((Claim("bpd", 1.0, "betting"),), 0.05, False, 1, 1, 1, (), (), "0"))
try:
    sign(value, Path("key.pem"))
except CertificateError as error:
    assert "pip install" in str(error)
else:
    raise SystemExit("signed without a library")
"""
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


class TestFiles:
    def test_attest_and_read(self, run, base, keys):
        path = attest(run, keys[0], SUMMARY, base)
        assert path == run / "attestation.json"
        assert read_attestation(run, keys[1], base) == SUMMARY
        names = [s["name"] for s in read_envelope(path.read_bytes(), keys[1])["subject"]]
        assert names == [
            "adapter/adapter_model.safetensors",
            "base/model.safetensors",
            "base/tokenizer/vocab.json",
            "certificate.json",
            "message.bin",
        ]

    def test_reproduce_is_about_the_same_files(self, run, base, keys, tmp_path):
        auditor = write_key(tmp_path / "auditor", KINDS["ed25519"]())
        first = attest(run, keys[0], SUMMARY, base)
        path = reproduce(run, auditor[0], REPRODUCTION, base)
        assert path == run / "reproduced.json"
        assert read_reproduction(run, auditor[1], base) == REPRODUCTION
        issuer, verifier = read_envelope(first.read_bytes(), keys[1]), read_envelope(path.read_bytes(), auditor[1])
        assert issuer["subject"] == verifier["subject"]
        with pytest.raises(CertificateError, match="not signed by"):
            read_reproduction(run, keys[1], base)

    def test_one_kind_is_not_taken_for_the_other(self, run, keys):
        attest(run, keys[0], SUMMARY)
        shutil.copy(run / "attestation.json", run / "reproduced.json")
        with pytest.raises(CertificateError, match="is expected"):
            read_reproduction(run, keys[1])

    def test_every_changed_byte_of_a_subject_is_refused(self, run, base, keys):
        value = read_envelope(attest(run, keys[0], SUMMARY, base).read_bytes(), keys[1])
        names = check_subjects(value, run, base)
        assert len(names) == 5
        for name in names:
            path = base / name.removeprefix("base/") if name.startswith("base/") else run / name
            data = path.read_bytes()
            for i in range(len(data)):
                path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
                with pytest.raises(CertificateError, match="is not the file that was attested"):
                    check_subjects(value, run, base)
            path.unlink()
            with pytest.raises(CertificateError, match="cannot read the attested file"):
                check_subjects(value, run, base)
            path.write_bytes(data)
        assert check_subjects(value, run, base) == names

    def test_a_base_that_was_attested_must_be_there(self, run, base, keys, tmp_path):
        attest(run, keys[0], SUMMARY, base)
        with pytest.raises(CertificateError, match="give the folder of the base"):
            read_attestation(run, keys[1])
        with pytest.raises(CertificateError, match="no files of a base"):
            attest(run, keys[0], SUMMARY, tmp_path / "nothing")

    @pytest.mark.parametrize("name", ["message.bin", "certificate.json"])
    def test_nothing_is_written_without_the_files(self, run, keys, name):
        (run / name).unlink()
        with pytest.raises(CertificateError, match="cannot read the attested file"):
            attest(run, keys[0], SUMMARY)
        assert not (run / "attestation.json").exists()

    def test_a_missing_attestation_is_an_error(self, run, keys):
        with pytest.raises(CertificateError, match="cannot read the attestation"):
            read_attestation(run, keys[1])
