"""A certified model in one line, from a run's folder or a pack."""

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
from sublora.scoring.measure import Rebuilt

log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str], *, base: str = "", data: str | os.PathLike[str] | None = None
) -> PreTrainedModel:
    """Return the decoded model of a certificate: a plain model of transformers, with its adapter merged.

    A prompt is no part of the model. A certificate that has one is about the model behind it, and a warning says so.
    Of a classifier it is the language model that is asked for labels; a warning says how.

    Args:
        path: the run's folder, its certificate, or a pack (NAME.sublora).
        base: the user's own copy of a pretrained base: folder, GGUF file or hub id; "" for a random one.
        data: the certified corpus, where the prompt names documents of it.

    Raises:
        CertificateError, MessageError: certificate or message are missing or damaged, or do not belong together; or the
            base is missing, too much, or another one than the certificate's.
        ConfigError: the base cannot be loaded, or a corpus is missing.
        CorpusError: the corpus cannot be read.
    """
    certified = open_any(Path(path))
    rebuilt = _rebuilt(certified, base, None if data is None else Path(data))
    if isinstance(certified, CertifiedClassifier):
        v = certified.verbalizer
        log.warning(
            "the certificate is about a classifier: of the tokens %s the likeliest behind the first %d characters of a "
            "text and the tokens %s",
            list(v.labels), v.most_characters, list(v.cue),
        )  # fmt: skip
    if len(rebuilt.prompt):
        log.warning(
            "the certificate is about this model behind a prompt of %d tokens, which `sublora sample` and `sublora "
            "export` put before a text: without it nothing is claimed",
            len(rebuilt.prompt),
        )
    return rebuilt.model


def open_rebuilt(path: Path, base: str, data: Path | None) -> tuple[Certified[Certificate], Rebuilt]:
    """Return a language model's certificate with its message, and the model and prompt that they describe."""
    certified = open_certified(path)
    return certified, _rebuilt(certified, base, data)


def _rebuilt(certified: Certified[Any], base: str, data: Path | None) -> Rebuilt:
    require_base(certified.message.header, base)
    corpus = certified.prompting(data)
    return rebuild_certified(certified, base, None if corpus is None else corpus.prior)
