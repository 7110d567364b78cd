"""The signature: DSSE envelopes, made and verified by securesystemslib. No cryptography of our own.

A file holds one envelope in its canonical JSON and a line feed. A reader refuses every other way to write it, so that
with one signature no byte of the file can change unnoticed.

Source: github.com/secure-systems-lab/dsse, protocol.md and envelope.md, version 1.0.0.
"""

import base64
import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sublora.certificate.attestation.statement import check_statement
from sublora.errors import CertificateError
from sublora.files import canonical_json

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_KEY_TYPES = ("ed25519", "ecdsa")
_HOW_TO_SIGN = "make a key with: openssl genpkey -algorithm ed25519 -out key.pem"
_HOW_TO_VERIFY = "make one with: openssl pkey -in key.pem -pubout -out public.pem"


def _require_libraries() -> None:
    try:
        import cryptography  # noqa: F401
        import securesystemslib  # noqa: F401
    except ImportError as error:
        raise CertificateError(
            "attestations need the packages cryptography and securesystemslib: pip install 'sublora[attest]'"
        ) from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {what} {path}: {error.strerror}") from error


def _signer(path: Path) -> "CryptoSigner":
    _require_libraries()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    pem = _read(path, "the key")
    try:
        signer = CryptoSigner(load_pem_private_key(pem, password=None))
    except TypeError as error:
        raise CertificateError(
            f"the key {path} is encrypted: decrypt it with openssl pkey -in KEY -out PLAIN, or {_HOW_TO_SIGN}"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} is not a private key in PEM that can sign: {_HOW_TO_SIGN}") from error
    _check_type(signer.public_key, path)
    return signer


def _public_key(path: Path) -> "SSlibKey":
    _require_libraries()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    pem = _read(path, "the public key")
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} is not a public key in PEM: {_HOW_TO_VERIFY}") from error
    _check_type(key, path)
    return key


def _check_type(key: "SSlibKey", path: Path) -> None:
    if key.keytype not in _KEY_TYPES:
        raise CertificateError(f"{path} is a key of type {key.keytype}, but ed25519 or ecdsa is needed: {_HOW_TO_SIGN}")


def sign(statement: Any, key_path: Path, *more_keys: Path) -> bytes:
    """Return the bytes of an envelope: the statement's canonical JSON, signed with every key.

    With ed25519 the same statement and key give the same bytes.

    Args:
        statement: of `statement` or `reproduced_statement`.
        key_path: private key, ed25519 or ecdsa (P-256, P-384, P-521), not encrypted, in PEM.
        more_keys: others that sign the same statement.

    Raises:
        CertificateError: the statement is malformed, or a key cannot be read or used.
    """
    check_statement(statement)
    signers = [_signer(path) for path in (key_path, *more_keys)]
    if len({signer.public_key.keyid for signer in signers}) < len(signers):
        raise CertificateError("a key is given twice: every signature needs a key of its own")
    from securesystemslib.dsse import Envelope

    envelope = Envelope(canonical_json(statement), PAYLOAD_TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    return _write(envelope.to_dict())


def _write(envelope: dict[str, Any]) -> bytes:
    return canonical_json(envelope) + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key of an object occurs twice")
    return found


def _parse(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{what} is not JSON: {error}") from error


def _base64(text: object, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        data = None
    if data is None or base64.b64encode(data).decode() != text:
        raise CertificateError(f"{what} is not an envelope: it has a field that is not canonical base64")
    return data


def _check_form(envelope: Any, data: bytes, what: str) -> None:
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise CertificateError(f"{what} is not an envelope: its fields must be payload, payloadType and signatures")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise CertificateError(f"{what} holds {envelope['payloadType']!r}, but {PAYLOAD_TYPE} is expected")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or not signatures:
        raise CertificateError(f"{what} is not signed")
    _base64(envelope["payload"], what)
    for signature in signatures:
        if not isinstance(signature, dict) or set(signature) != {"keyid", "sig"} or type(signature["keyid"]) is not str:
            raise CertificateError(f"{what} is not an envelope: the fields of a signature must be keyid and sig")
        _base64(signature["sig"], what)
    if len({signature["keyid"] for signature in signatures}) < len(signatures):
        raise CertificateError(f"{what} is not an envelope: one key signed it twice")
    if _write(envelope) != data:
        raise CertificateError(f"{what} was changed, or made by another tool: it is not the JSON that sublora writes")


def unverified_statement(data: bytes, what: str = "the attestation") -> dict[str, Any]:
    """Return the statement of an envelope whose signatures nobody has checked: to be shown, and not to be relied on.

    Args:
        data: content of the file.
        what: the file is called in errors.

    Raises:
        CertificateError: the bytes are not a canonical envelope, or the statement is not of a kind that we know.
    """
    envelope = _parse(data, what)
    _check_form(envelope, data, what)
    return _statement(_base64(envelope["payload"], what), what)


def _statement(payload: bytes, what: str) -> dict[str, Any]:
    statement = _parse(payload, f"the payload of {what}")
    check_statement(statement)
    if canonical_json(statement) != payload:
        raise CertificateError(f"the payload of {what} is not canonical JSON")
    return dict(statement)


def read_envelope(data: bytes, public_key_path: Path, what: str = "the attestation") -> dict[str, Any]:
    """Verify an envelope and return its statement.

    The given key must be among those that signed. Signatures of other keys are not verified.

    Args:
        data: content of the file.
        public_key_path: in PEM.
        what: the file is called in errors.

    Raises:
        CertificateError: the bytes are not a canonical envelope, the given key did not sign them, they were changed, or
            the statement is not of a kind that we know.
    """
    envelope = _parse(data, what)
    _check_form(envelope, data, what)
    key = _public_key(public_key_path)
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    if key.keyid not in {signature["keyid"] for signature in envelope["signatures"]}:
        raise CertificateError(f"{what} is not signed by the key {public_key_path}")
    # The library rewrites the dictionary that it reads.
    signed = Envelope.from_dict(copy.deepcopy(envelope))
    try:
        signed.verify([key], threshold=1)
    except VerificationError as error:
        raise CertificateError(f"{what} was changed after {public_key_path} signed it: wrong signature") from error
    # Nothing of the payload is looked at before its signature is known to be right.
    return _statement(signed.payload, what)
