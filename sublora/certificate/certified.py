"""A certificate with its message, from a run's folder or a pack. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from sublora.certificate.model import Certificate
from sublora.certificate.reading import certificate_of, read_certificate
from sublora.certificate.zipped import CERTIFICATE, MESSAGE, SUFFIX, read_zip
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Message, decode_message
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.errors import CertificateError, ConfigError
from sublora.files import read_bytes, sha256
from sublora.run_folder import RunFolder


@dataclass(frozen=True)
class Certified:
    """A certificate, and the message that it is about.

    certificate: its form and its digest are checked, nothing else.
    data: the message.
    message: decoded.
    """

    certificate: Certificate
    data: bytes
    message: Message

    def with_known_documents(self, *corpora: Corpus | None) -> Corpus | None:
        """Return the first corpus whose known documents are those of the certificate, None where none has them."""
        expected = self.certificate.prior.documents_sha256
        for corpus in corpora:
            if corpus is not None and corpus.prior is not None and corpus.prior.content_sha256() == expected:
                return corpus
        return None

    def prompting(self, data_dir: Path | None) -> Corpus | None:
        """Return the corpus that the prompt names documents of, None where it names none.

        Args:
            data_dir: the certified corpus.

        Raises:
            ConfigError: it is not given, and is needed.
            CorpusError: it cannot be read.
            CertificateError: it has other known documents.
        """
        if not self.message.header.prompt.documents:
            return None
        if data_dir is None:
            raise ConfigError("the prompt names documents of the corpus: give it with --data")
        found = self.with_known_documents(open_corpus(data_dir))
        if found is None:
            raise CertificateError(f"{data_dir} does not hold the known documents that the prompt names")
        return found


def certified(certificate: Certificate, data: bytes, where: str) -> Certified:
    """Return a certificate with its message.

    Args:
        certificate: as it was read.
        data: the bytes that are said to be its message.
        where: they are from, for the error.

    Raises:
        CertificateError: they are another message.
        MessageError: they are none.
    """
    if sha256(data) != certificate.message.sha256:
        raise CertificateError(f"{where} is not the message that the certificate is about")
    return Certified(certificate, data, decode_message(data, max_symbols=min(max(certificate.prior.D, 1), MAX_SYMBOLS)))


def open_certified(path: Path) -> Certified:
    """Read a certificate and its message.

    Args:
        path: a pack (NAME.sublora), or the certificate beside its message, or the folder of both.

    Raises:
        CertificateError, MessageError: one is missing or damaged, or they do not belong together.
    """
    if path.suffix == SUFFIX and not path.is_dir():
        parts = read_zip(path)
        certificate = certificate_of(parts[CERTIFICATE], f"{path}: {CERTIFICATE}")
        return certified(certificate, parts[MESSAGE], f"{path}: {MESSAGE}")
    certificate, run = read_certificate(path), RunFolder.of(path)
    data = read_bytes(run.message, "the message", CertificateError, MAX_BYTES)
    return certified(certificate, data, str(run.message))
