"""Signed attestations of a certificate: in-toto statements in DSSE envelopes, signed offline with a key file.

Torch-free. The libraries that sign are imported only where a key is used: certificates are verified without them.
"""

from sublora.certificate.attestation.attest import (
    attest,
    read_attestation,
    read_reproduction,
    reproduce,
)
from sublora.certificate.attestation.envelope import read_envelope, sign
from sublora.certificate.attestation.statement import (
    CERTIFICATE_PREDICATE,
    REPRODUCED_PREDICATE,
    STATEMENT,
    Claim,
    Found,
    Reproduction,
    Summary,
    check_statement,
    reproduced_statement,
    reproduction_of,
    statement,
    summary_of,
)
from sublora.certificate.attestation.subjects import check_subjects, find_subjects

__all__ = [
    "CERTIFICATE_PREDICATE",
    "REPRODUCED_PREDICATE",
    "STATEMENT",
    "Claim",
    "Found",
    "Reproduction",
    "Summary",
    "attest",
    "check_statement",
    "check_subjects",
    "find_subjects",
    "read_attestation",
    "read_envelope",
    "read_reproduction",
    "reproduce",
    "reproduced_statement",
    "reproduction_of",
    "sign",
    "statement",
    "summary_of",
]
