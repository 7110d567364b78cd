"""Re-checking a certificate: its arithmetic from the recorded losses, or everything from the message and the corpus."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sublora.bounds.certificate import CERTIFICATE, LOSSES, MESSAGE, read_certificate
from sublora.bounds.claims import Terms, make_claims
from sublora.bounds.scores import Scores, read_scores
from sublora.coding.message import Message, decode_message
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.errors import CertificateError
from sublora.files import sha256

log = logging.getLogger(__name__)

# Recomputed from the same recorded losses, a bound agrees to rounding.
_ARITHMETIC_TOLERANCE = 1e-9


def _expect(what: str, claimed: object, found: object) -> None:
    if claimed != found:
        raise CertificateError(f"{what} differs: the certificate says {claimed}, but it is {found}")


def terms_of(certificate: dict[str, Any]) -> Terms:
    """Return what the bound depends on, as the certificate states it.

    Raises:
        CertificateError: a field is missing.
    """
    try:
        corpus = certificate["corpus"]
        return Terms(
            bits=certificate["message"]["bits"],
            n=corpus["n"],
            delta=certificate["delta"],
            joint=certificate["joint"],
            mixture_weight=certificate["mixture_weight"],
            n_symbols=corpus["vocab_size"] - 1,
            min_tokens=corpus["min_tokens"],
            subsampled=certificate["draw"]["samples"] > 0,
        )
    except (KeyError, TypeError) as error:
        raise CertificateError(f"the certificate lacks the field {error}") from error


def verify(path: Path, data_dir: Path | None, dataset: str = "") -> dict[str, Any]:
    """Verify a certificate; return it.

    Args:
        path: certificate.json or its folder; message.bin and losses.safetensors lie beside it.
        data_dir: the corpus. None checks the arithmetic alone: digest, message, ledger, and every bound from the
            recorded losses. With the corpus the model is rebuilt from the bytes, the documents are drawn and scored
            again, and every claim must follow from the new losses.
        dataset: subfolder of data_dir.

    Raises:
        CertificateError, MessageError: names the first thing that differs.
    """
    certificate = read_certificate(path)
    folder = path if path.is_dir() else path.parent
    message_bytes, message = _check_message(certificate, folder)
    scores = _check_arithmetic(certificate, folder)
    log.info(
        "%s: digest, message, ledger and the arithmetic of %d claims agree",
        folder / CERTIFICATE,
        len(certificate["claims"]),
    )
    if data_dir is not None:
        corpus = open_corpus(data_dir, dataset)
        _check_corpus(certificate, corpus)
        _replay(certificate, message_bytes, message, corpus, scores)
    return certificate


def _check_message(certificate: dict[str, Any], folder: Path) -> tuple[bytes, Message]:
    try:
        data = (folder / MESSAGE).read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read the message {folder / MESSAGE}: {error.strerror}") from error
    claimed = certificate["message"]
    message = decode_message(data, max_symbols=certificate["prior"]["D"])
    _expect("the length of the message in bits", claimed["bits"], 8 * len(data))
    # Certificates of older versions do not name the number of coordinates.
    _expect("the number of coordinates", claimed.get("coordinates", len(message.alpha)), len(message.alpha))
    _expect("the hash of the message", claimed["sha256"], sha256(data))
    _expect("the ledger's sum in bits", claimed["bits"], round(sum(claimed["ledger"].values()), 6))
    _expect("the mixture weight", certificate["mixture_weight"], 2.0**-message.mixture_exponent)
    return data, message


def _check_arithmetic(certificate: dict[str, Any], folder: Path) -> Scores:
    path = folder / LOSSES
    scores = read_scores(path)
    _expect("the hash of the losses", certificate["losses_sha256"], sha256(path.read_bytes()))
    terms = terms_of(certificate)
    _expect("the number of losses", certificate["draw"]["samples"] or terms.n, len(scores.bits))
    _compare_claims(
        certificate, make_claims(scores, terms), lambda claimed, found: abs(claimed - found) <= _ARITHMETIC_TOLERANCE
    )
    return scores


def _compare_claims(
    certificate: dict[str, Any], found: list[dict[str, Any]], agrees: Callable[[float, float], bool]
) -> None:
    claimed = certificate["claims"]
    _expect("the list of claims", [c["metric"] for c in claimed], [f["metric"] for f in found])
    for c, f in zip(claimed, found, strict=True):
        if not agrees(c["bound"], f["bound"]):
            raise CertificateError(
                f"the bound on {c['metric']} differs: the certificate says {c['bound']:.6f}, but it is {f['bound']:.6f}"
            )


def _check_corpus(certificate: dict[str, Any], corpus: Corpus) -> None:
    claimed = certificate["corpus"]
    _expect("the hash of the corpus", claimed["sha256"], corpus.train.compute_sha256())
    _expect("the number of documents n", claimed["n"], len(corpus.train))
    _expect("the vocabulary size", claimed["vocab_size"], corpus.vocab_size)
    _expect("the shortest document in tokens", claimed["min_tokens"], corpus.min_tokens)


def _replay(certificate: dict[str, Any], data: bytes, message: Message, corpus: Corpus, recorded: Scores) -> None:
    from sublora.bounds.measure import Protocol, draw_documents, rebuild, score
    from sublora.nn.create_model import Architecture

    architecture = Architecture(**certificate["prior"]["architecture"])
    rebuilt = rebuild(message, architecture)
    _expect("the hash of the base weights", certificate["prior"]["base_sha256"], rebuilt.base_sha256)
    _expect("the number of parameters D", certificate["prior"]["D"], rebuilt.D)
    draw = certificate["draw"]
    documents = draw_documents(data, certificate["corpus"]["sha256"], len(corpus.train), draw["samples"])
    protocol = Protocol(draw["samples"], certificate["prior"]["stride"], draw["batch_size"])
    scores = score(rebuilt.model, corpus.train, documents, corpus, architecture.block_size, protocol, "scoring again")
    _expect(
        "the documents' lengths",
        sha256(np.ascontiguousarray(recorded.lengths).tobytes()),
        sha256(np.ascontiguousarray(scores.lengths).tobytes()),
    )
    # Nothing is added to the new losses, so a claim that passes follows from them without any tolerance.
    _compare_claims(
        certificate, make_claims(scores, terms_of(certificate), margin=0.0), lambda claimed, found: found <= claimed
    )
