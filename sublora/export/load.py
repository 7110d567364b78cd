"""A certified model in one line, from a run's folder or a pack; or the model of a message alone."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sublora.certificate.certified import Certified, open_certified
from sublora.certificate.matching import require_base
from sublora.certificate.model import Certificate
from sublora.certificate.rebuilt import rebuild_certified
from sublora.classification.certified import CertifiedClassifier, open_any
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Message, decode_message
from sublora.coding.prompt import Prompt
from sublora.coding.verbalizer import Verbalizer, decode_classifier, is_classifier_message
from sublora.errors import CertificateError
from sublora.files import read_bytes
from sublora.nn.quiet import quiet_transformers
from sublora.run_folder import RunFolder
from sublora.scoring.measure import Rebuilt, rebuild

log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] = "",
    data: str | os.PathLike[str] | None = None,
) -> PreTrainedModel:
    """Return the decoded model of a certificate or of a message: a plain model of transformers, its adapter merged.

    A prompt is no part of the model. A certificate that has one is about the model behind it, and a warning says so.
    Of a classifier it is the language model that is asked for labels; a warning says how.

    Args:
        path: the run's folder, its certificate, or a pack (NAME.sublora). Or a message alone (NAME.bin), whatever lies
            beside it: nothing is claimed then, and a pretrained base is told by the 24 bits of its hash that are in the
            message, not by all 256.
        base: the user's own copy of a pretrained base: folder, GGUF file or hub id; "" for a random one.
        data: the certified corpus, where the prompt of a certificate names documents of it.

    Raises:
        CertificateError, MessageError: certificate or message are missing or damaged, or do not belong together; or the
            base is missing, too much, or another one than the certificate's.
        ConfigError: the base cannot be loaded or is not the message's, or a corpus is missing.
        CorpusError: the corpus cannot be read.
    """
    file, source = Path(path), os.fspath(base)
    if file.suffix == RunFolder(file).message.suffix:
        return _of_message(read_bytes(file, "the message", CertificateError, MAX_BYTES), source)
    certified = open_any(file)
    rebuilt = _rebuilt(certified, source, None if data is None else Path(data))
    if isinstance(certified, CertifiedClassifier):
        _say_how_it_is_asked(certified.verbalizer)
    if len(rebuilt.prompt):
        log.warning(
            "the certificate is about this model behind a prompt of %d tokens, which `sublora sample` and `sublora "
            "export` put before a text: without it nothing is claimed",
            len(rebuilt.prompt),
        )
    return rebuilt.model


def _of_message(data: bytes, base: str) -> PreTrainedModel:
    message: Message
    if is_classifier_message(data):
        classifier = decode_classifier(data, max_symbols=MAX_SYMBOLS)
        message = classifier.model
        _say_how_it_is_asked(classifier.verbalizer)
    else:
        message = decode_message(data, max_symbols=MAX_SYMBOLS)
    require_base(message.header, base)
    if message.header.prompt != Prompt():
        log.warning("the message has a prompt, which is no part of the model")
    # The weights do not depend on the prompt, and its documents may be elsewhere.
    alone = dataclasses.replace(message, header=dataclasses.replace(message.header, prompt=Prompt()))
    with quiet_transformers():
        return rebuild(alone, base, None).model.eval()


def _say_how_it_is_asked(v: Verbalizer) -> None:
    log.warning(
        "this is a classifier: of the tokens %s the likeliest behind the first %d characters of a text and the tokens "
        "%s is its label",
        list(v.labels), v.most_characters, list(v.cue),
    )  # fmt: skip


def open_rebuilt(path: Path, base: str, data: Path | None) -> tuple[Certified[Certificate], Rebuilt]:
    """Return a language model's certificate with its message, and the model and prompt that they describe."""
    certified = open_certified(path)
    return certified, _rebuilt(certified, base, data)


def _rebuilt(certified: Certified[Any], base: str, data: Path | None) -> Rebuilt:
    require_base(certified.message.header, base)
    corpus = certified.prompting(data)
    return rebuild_certified(certified, base, None if corpus is None else corpus.prior)
