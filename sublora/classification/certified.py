"""The certificate of a classifier with its message, from a run's folder or a pack. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from sublora.certificate.certified import Certified, Read, model_of, read_files
from sublora.certificate.model import Certificate
from sublora.certificate.reading import sealed_certificate
from sublora.classification.model import FORMAT, ClassifierCertificate
from sublora.coding.verbalizer import Verbalizer, decode_classifier, verbalizer_of
from sublora.corpus.corpus import Corpus
from sublora.corpus.labelled import Labels, labels_of
from sublora.errors import CertificateError


@dataclass(frozen=True)
class CertifiedClassifier(Certified[ClassifierCertificate]):
    """The certificate of a classifier, and the message that it is about.

    verbalizer: how its language model is asked for labels.
    """

    verbalizer: Verbalizer


def open_any(path: Path) -> Certified[Certificate] | CertifiedClassifier:
    """Read a certificate of either kind and its message.

    Args:
        path: a pack (NAME.sublora), or the certificate beside its message, or the folder of both.

    Raises:
        CertificateError, MessageError: one is missing or damaged, or they do not belong together.
    """
    read = read_files(path)
    return _classifier_of(read) if read.classifier else model_of(read)


def open_classifier(path: Path) -> CertifiedClassifier:
    """Read the certificate of a classifier and its message; see `open_any`.

    Raises:
        CertificateError, MessageError: as there, or it is the certificate of a language model.
    """
    read = read_files(path)
    if not read.classifier:
        raise CertificateError(f"{read.certificate_at} is the certificate of a language model, and no classifier's")
    return _classifier_of(read)


def require_labels(verbalizer: Verbalizer, corpus: Corpus) -> Labels:
    """Return the labels of a corpus, which a message must read as the corpus has them.

    Raises:
        CorpusError: it has no labels.
        CertificateError: the message reads others, or in another way.
    """
    labels = labels_of(corpus)
    if verbalizer_of(labels) != verbalizer:
        raise CertificateError(
            "the label tokens differ: the message has other classes, or reads texts in another way, than "
            f"{corpus.path} with its labels {', '.join(labels.names)}"
        )
    return labels


def _classifier_of(read: Read) -> CertifiedClassifier:
    certificate = sealed_certificate(read.certificate, read.certificate_at, ClassifierCertificate, FORMAT)
    found = decode_classifier(read.message, max_symbols=read.require_message(certificate))
    return CertifiedClassifier(certificate, read.message, found.model, found.verbalizer)
