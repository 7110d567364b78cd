"""A certificate with its message, from a run's folder or a pack. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from sublora.certificate.issued import Issued
from sublora.certificate.model import Certificate
from sublora.certificate.reading import MOST_BYTES, OF_CLASSIFIER, certificate_of
from sublora.certificate.zipped import (
    CERTIFICATE,
    CLASSIFIER,
    CLASSIFIER_CERTIFICATE,
    MESSAGE,
    SUFFIX,
    read_zip,
)
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Message, decode_message
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.errors import CertificateError, ConfigError
from sublora.files import read_bytes, sha256
from sublora.run_folder import RunFolder

Kind = TypeVar("Kind", bound=Issued)


@dataclass(frozen=True)
class Certified(Generic[Kind]):
    """A certificate of some kind, and the message that it is about.

    certificate: its form and its digest are checked, nothing else.
    data: the message.
    message: decoded; a classifier's is that of its language model.
    """

    certificate: Kind
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


@dataclass(frozen=True)
class Read:
    """The files of a certificate as they are, which nobody has looked into.

    classifier: whose certificate it is by its name.
    certificate, message: bytes.
    certificate_at, message_at: where they are from, for errors.
    """

    classifier: bool
    certificate: bytes
    message: bytes
    certificate_at: str
    message_at: str

    def require_message(self, certificate: Issued) -> int:
        """Check that the message is that of a certificate; return how many symbols it may have.

        Raises:
            CertificateError: it is another one.
        """
        if sha256(self.message) != certificate.message.sha256:
            raise CertificateError(f"{self.message_at} is not the message that the certificate is about")
        return min(max(certificate.prior.D, 1), MAX_SYMBOLS)


def read_files(path: Path) -> Read:
    """Read the files of a certificate of some kind.

    Args:
        path: a pack (NAME.sublora), or the certificate beside its message, or the folder of both.

    Raises:
        CertificateError: one is missing, or the pack is damaged.
    """
    if path.suffix == SUFFIX and not path.is_dir():
        parts = read_zip(path)
        classifier = CLASSIFIER in parts
        certificate, message = (CLASSIFIER_CERTIFICATE, CLASSIFIER) if classifier else (CERTIFICATE, MESSAGE)
        at, message_at = f"{path}: {certificate}", f"{path}: {message}"
        return Read(classifier, parts[certificate], parts[message], at, message_at)
    files = RunFolder.files_at(path)
    of = path if path.suffix == ".json" else files.certificate
    return Read(
        RunFolder.holds_classifier(path),
        read_bytes(of, "the certificate", CertificateError, MOST_BYTES),
        read_bytes(files.message, "the message", CertificateError, MAX_BYTES),
        str(of),
        str(files.message),
    )


def open_certified(path: Path) -> Certified[Certificate]:
    """Read the certificate of a language model and its message.

    Args:
        path: see `read_files`.

    Raises:
        CertificateError, MessageError: one is missing or damaged, they do not belong together, or are a classifier's.
    """
    return model_of(read_files(path))


def model_of(read: Read) -> Certified[Certificate]:
    """Return the certificate of a language model and its message from their files; see `open_certified`."""
    if read.classifier:
        raise CertificateError(f"{read.certificate_at}: {OF_CLASSIFIER}")
    certificate = certificate_of(read.certificate, read.certificate_at)
    message = decode_message(read.message, max_symbols=read.require_message(certificate))
    return Certified(certificate, read.message, message)
