"""Message, certificate and attestation as the bytes of one zip file, in its one form. Torch-free.

A pack from elsewhere is untrusted input. It is read only if it is, byte for byte, what `to_zip` makes of its parts: no
other names or paths, none twice, nothing compressed that could grow, nothing between, before or behind the parts.
Nothing is compressed, because the bytes would then depend on the version of a library.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from sublora.certificate.attestation.attest import MOST_BYTES as MOST_ATTESTATION_BYTES
from sublora.certificate.reading import MOST_BYTES as MOST_CERTIFICATE_BYTES
from sublora.coding.message import MAX_BYTES
from sublora.errors import CertificateError
from sublora.files import read_bytes
from sublora.run_folder import RunFolder

SUFFIX = ".sublora"
_RUN = RunFolder(Path())
CERTIFICATE, MESSAGE = (file.name for file in _RUN.of_model())
CLASSIFIER_CERTIFICATE, CLASSIFIER = (file.name for file in _RUN.of_classifier())
ATTESTATION = _RUN.attestation.name
# The most bytes that each part may have, in the order of the file.
_MOST = {
    MESSAGE: MAX_BYTES,
    CERTIFICATE: MOST_CERTIFICATE_BYTES,
    CLASSIFIER: MAX_BYTES,
    CLASSIFIER_CERTIFICATE: MOST_CERTIFICATE_BYTES,
    ATTESTATION: MOST_ATTESTATION_BYTES,
}
# One certificate, with its message.
_REQUIRED = ({MESSAGE, CERTIFICATE}, {CLASSIFIER, CLASSIFIER_CERTIFICATE})
# More than the headers of a zip with three parts have.
_MOST_HEADERS = 1 << 10
# Signature, version, flags, method, time, date, checksum, size as stored and as read, lengths of name and extras.
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_SIGNATURE = b"PK\x03\x04"


def to_zip(parts: Mapping[str, bytes]) -> bytes:
    """Return the one zip file of some parts.

    Args:
        parts: by file name: message, certificate and, perhaps, attestation.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in _MOST:
            if name in parts:
                # A fixed date, and the same system and rights wherever it is written.
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, parts[name])
    return file.getvalue()


def read_zip(path: Path) -> dict[str, bytes]:
    """Return the parts of a pack by their names.

    Raises:
        CertificateError: the file is missing, too long, or not in the one form.
    """
    data = read_bytes(path, "the pack", CertificateError, sum(_MOST.values()) + _MOST_HEADERS)
    damaged = f"{path} is no pack as sublora pack writes it: it is damaged, or holds something else"
    parts: dict[str, bytes] = {}
    at = 0
    while data[at : at + len(_SIGNATURE)] == _SIGNATURE:
        if len(data) - at < _LOCAL_HEADER.size:
            raise CertificateError(damaged)
        *_, size, name_length, _ = _LOCAL_HEADER.unpack_from(data, at)
        start = at + _LOCAL_HEADER.size + name_length
        name = data[at + _LOCAL_HEADER.size : start].decode("ascii", "replace")
        if name not in _MOST or name in parts or size > _MOST[name]:
            raise CertificateError(damaged)
        parts[name] = data[start : start + size]
        at = start + size
    if parts.keys() - {ATTESTATION} not in _REQUIRED or to_zip(parts) != data:
        raise CertificateError(damaged)
    return parts
