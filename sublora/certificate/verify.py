"""Re-checking a certificate: its arithmetic from the recorded losses, or everything from the message and the corpus."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from sublora.certificate.baselines import baselines
from sublora.certificate.certificate import CERTIFICATE, LOSSES, MESSAGE, read_certificate
from sublora.certificate.claims import LOSS_MARGIN, Terms
from sublora.certificate.derive import base_weights, numbers, terms_of, words
from sublora.certificate.draw import draw_units
from sublora.certificate.fallback import measure_fallback
from sublora.coding.message import Message, decode_message
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.fallback import fallback_code
from sublora.corpus.units import Units, sample_units
from sublora.errors import CertificateError, SubloraError
from sublora.files import sha256
from sublora.scoring.scores import Scores, read_scores

log = logging.getLogger(__name__)

# Recomputed from the same recorded losses, a number agrees to rounding.
_ARITHMETIC_TOLERANCE = 1e-9
# What a claim is split into, and compared with, agrees to this when it is measured again: the claim itself was computed
# with the margin added to every loss. The claim has no tolerance at all.
_REPLAY_TOLERANCE = 10 * LOSS_MARGIN


def _expect(what: str, claimed: object, found: object, tolerance: float = 0.0) -> None:
    """Compare two JSON values; numbers may differ by `tolerance` and words not at all."""
    if isinstance(claimed, dict) and isinstance(found, dict) and set(claimed) == set(found):
        for key in found:
            _expect(f"{what}: {key}", claimed[key], found[key], tolerance)
    elif isinstance(claimed, list) and isinstance(found, list) and len(claimed) == len(found):
        for i, (c, f) in enumerate(zip(claimed, found, strict=True)):
            _expect(f"{what} {i + 1}", c, f, tolerance)
    elif isinstance(claimed, int | float) and isinstance(found, int | float):
        # Written so that a NaN, which compares with nothing, differs.
        if not abs(claimed - found) <= tolerance:
            raise CertificateError(f"{what} differs: the certificate says {claimed}, but it is {found}")
    elif claimed != found:
        raise CertificateError(f"{what} differs: the certificate says {claimed}, but it is {found}")


def verify(path: Path, data_dir: Path | None, dataset: str = "") -> dict[str, Any]:
    """Verify a certificate; return it.

    Args:
        path: certificate.json or its folder; message.bin lies beside it, and losses.safetensors may.
        data_dir: the corpus. None checks the arithmetic alone: digest, message, ledger, and every number and sentence
            that follows from the recorded losses. With the corpus the model is rebuilt from the bytes, the units are
            drawn and scored again, and every claim must follow from the new losses; the recorded ones are checked if
            they are there.
        dataset: subfolder of data_dir.

    Raises:
        CertificateError, MessageError, CorpusError: names the first thing that differs.
    """
    certificate = read_certificate(path)
    folder = path if path.is_dir() else path.parent
    try:
        _check(certificate, folder, None if data_dir is None else open_corpus(data_dir, dataset))
    except SubloraError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise CertificateError(f"a field of {folder / CERTIFICATE} is missing or impossible: {error!r}") from error
    return certificate


def _check(certificate: dict[str, Any], folder: Path, corpus: Corpus | None) -> None:
    data, message = _check_message(certificate, folder)
    recorded = None
    if corpus is None or (folder / LOSSES).exists():
        recorded = _check_arithmetic(certificate, folder)
        log.info("%s: message and ledger agree, and what follows from the recorded losses", folder / CERTIFICATE)
    else:
        log.info("no %s: the claims are compared with the losses that are measured now", folder / LOSSES)
    for name, found in words(certificate, certificate["claims"]).items():
        _expect(name, certificate[name], found)
    if corpus is not None:
        _replay(certificate, data, message, corpus, _check_corpus(certificate, corpus), recorded)


def _check_message(certificate: dict[str, Any], folder: Path) -> tuple[bytes, Message]:
    try:
        data = (folder / MESSAGE).read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read the message {folder / MESSAGE}: {error.strerror}") from error
    claimed, prior = certificate["message"], certificate["prior"]
    message = decode_message(data, max_symbols=prior["D"])
    _expect("the length of the message in bits", claimed["bits"], 8 * len(data))
    _expect("the number of coordinates", claimed["coordinates"], len(message.alpha))
    _expect("the hash of the message", claimed["sha256"], sha256(data))
    _expect("the ledger's sum in bits", claimed["bits"], sum(claimed["ledger"].values()), 1e-6)
    _expect("the mixture weight", certificate["mixture_weight"], 2.0**-message.mixture_exponent)
    _expect("the base weights", prior["base_weights"], base_weights(prior["architecture"]["source"], message.spec))
    return data, message


def _check_arithmetic(certificate: dict[str, Any], folder: Path) -> Scores:
    path = folder / LOSSES
    scores = read_scores(path)
    _expect("the hash of the losses", certificate["losses_sha256"], sha256(path.read_bytes()))
    terms = terms_of(certificate)
    _check_fallback(certificate, terms)
    measured = scores.token_bits.size if terms.about_tokens else len(scores.bits)
    _expect("the number of losses", certificate["draw"]["samples"] or terms.n, measured)
    found = numbers(certificate, scores)
    _expect_metrics(certificate, found)
    for claimed, computed in zip(certificate["claims"], found["claims"], strict=True):
        _expect(f"the bound on {claimed['metric']}", claimed["bound"], computed["bound"], _ARITHMETIC_TOLERANCE)
    for name, value in found.items():
        _expect(name, certificate[name], value, _ARITHMETIC_TOLERANCE)
    return scores


def _check_fallback(certificate: dict[str, Any], terms: Terms) -> None:
    code = fallback_code(certificate["prior"]["tokenizer"], certificate["corpus"]["vocab_size"])
    _expect("the fallback code", terms.fallback.code, code.name)
    _expect("the longest price of the fallback code", terms.fallback.limit, code.limit)


def _expect_metrics(certificate: dict[str, Any], found: dict[str, Any]) -> None:
    _expect("the list of claims", [c["metric"] for c in certificate["claims"]], [f["metric"] for f in found["claims"]])


def _check_corpus(certificate: dict[str, Any], corpus: Corpus) -> Units:
    claimed, prior = certificate["corpus"], certificate["prior"]
    _expect("the hash of the corpus", claimed["sha256"], corpus.train.compute_sha256())
    _expect("the source of the corpus", claimed["source"], str(corpus.meta["source"]))
    _expect("the rule for documents", claimed["rule"], str(corpus.meta["rule"]))
    _expect("the tokenizer", prior["tokenizer"], str(corpus.meta["tokenizer"]))
    _expect("the vocabulary size", claimed["vocab_size"], corpus.vocab_size)
    _expect("the end-of-text token", claimed["eot_token"], corpus.eot_token)
    units = sample_units(corpus, corpus.train, certificate["bound_type"], prior["architecture"]["block_size"])
    _expect("the shortest unit in tokens", claimed["min_tokens"], units.min_tokens)
    terms = terms_of(certificate)
    _expect("n", claimed["n"], units.sample_size(terms.bound_type))
    measured = dataclasses.asdict(measure_fallback(units, terms.delta))
    _expect("the fallback code's length", certificate["fallback"], measured, _ARITHMETIC_TOLERANCE)
    return units


def _replay(
    certificate: dict[str, Any], data: bytes, message: Message, corpus: Corpus, units: Units, recorded: Scores | None
) -> None:
    from sublora.certificate.held_out import held_out
    from sublora.nn.create_model import Architecture
    from sublora.scoring.measure import Protocol, rebuild, score
    from sublora.scoring.processes import Processes

    prior, draw, terms = certificate["prior"], certificate["draw"], terms_of(certificate)
    drawn = draw_units(data, certificate["corpus"]["sha256"], len(units), draw["samples"])
    if recorded is not None:
        # Before anything is scored: another message, corpus or number of draws draws other documents.
        differ = np.flatnonzero(recorded.lengths != units.split.lengths[drawn])
        _expect("the number of units of another length than recorded", 0, len(differ))
    architecture = Architecture(**prior["architecture"])
    rebuilt = rebuild(message, architecture)
    _expect("the hash of the base weights", prior["base_sha256"], rebuilt.base_sha256)
    _expect("the number of parameters D", prior["D"], rebuilt.D)
    protocol = Protocol(architecture.block_size, prior["stride"], draw["batch_size"], terms.about_tokens)
    processes = Processes("cpu")
    # Nothing is added to the new losses, so a claim that passes follows from them without any tolerance.
    found = numbers(certificate, score(rebuilt, units, drawn, protocol, processes, "scoring again"), margin=0.0)
    _expect_metrics(certificate, found)
    for claimed, measured in zip(certificate["claims"], found["claims"], strict=True):
        if not measured["bound"] <= claimed["bound"]:
            raise CertificateError(
                f"the bound on {claimed['metric']} differs: the certificate says {claimed['bound']:.6f}, "
                f"but it is {measured['bound']:.6f}"
            )
    for name, value in found.items():
        _expect(name, certificate[name], value, _REPLAY_TOLERANCE)
    measured_now = held_out(rebuilt, corpus, terms, protocol, processes)
    _expect("the held-out loss", certificate["held_out"], measured_now, LOSS_MARGIN)
    _expect("what simple codes reach", certificate["baselines"], baselines(corpus, terms), _ARITHMETIC_TOLERANCE)
