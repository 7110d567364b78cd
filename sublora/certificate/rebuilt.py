"""The model that a certificate is about, on the user's own copy of its base."""

from typing import Any

from sublora.certificate.certified import Certified
from sublora.certificate.matching import require_base
from sublora.corpus.corpus import Split
from sublora.errors import CertificateError
from sublora.nn.quiet import quiet_transformers
from sublora.scoring.measure import Rebuilt, rebuild


def rebuild_certified(certified: Certified[Any], base: str, known: Split | None) -> Rebuilt:
    """Return the model of a certificate, in evaluation mode.

    Args:
        certified: certificate and message.
        base: source of a pretrained base; "" for a random one.
        known: documents that a prompt may name.

    Raises:
        ConfigError: the base cannot be loaded.
        MessageError: the message does not fit its architecture.
        CertificateError: the base is missing, too much, or another one than the certificate's.
    """
    require_base(certified.message.header, base)
    with quiet_transformers():
        rebuilt = rebuild(certified.message, base, known)
    if rebuilt.base_sha256 != certified.certificate.prior.base.sha256:
        raise CertificateError("the base is another one than the certificate's: its hash differs")
    rebuilt.model.eval()
    return rebuilt
