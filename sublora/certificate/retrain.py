"""Fitting a certificate's base again to the documents known beforehand: whether they are all that it knows."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sublora.certificate.model import Certificate
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.units import sample_units
from sublora.draws import shuffled
from sublora.errors import CertificateError
from sublora.nn.practised import named_by
from sublora.nn.pretrained import load_pretrained, source_sha256
from sublora.nn.weights import hash_weights
from sublora.run_folder import RunFolder
from sublora.scoring.risk import score_units
from sublora.training.fitted_base import FittedBase, read_fitted_base
from sublora.training.pretrain import fit_base

# Documents, known and certified ones, that both bases are compared on, and by how many bits per token they may differ.
COMPARED_DOCUMENTS, TOLERANCE = 100, 1e-2
_WINDOWS = 16


@dataclass(frozen=True)
class Retrained:
    """A base and the one that was made again.

    identical: all weights agree to the last bit.
    weight_difference: the largest, absolute.
    loss_difference: between their mean losses on known documents, in bits per token, absolute; or by how much the one
        that was made again loses more on certified documents, if that is larger.
    documents: known and certified ones that they were compared on.
    """

    identical: bool
    weight_difference: float
    loss_difference: float
    documents: int

    def in_words(self) -> str:
        """Return what was found."""
        if self.identical:
            return "base retrained: the known documents give the same weights, bit for bit"
        return (
            f"base retrained: the known documents give weights that differ by at most {self.weight_difference:.3g}, "
            f"and by {self.loss_difference:.3g} bits per token on {self.documents} known and certified documents (at "
            f"most {TOLERANCE:g} is allowed); one thread of the issuer's machine gives the same bits"
        )


def retrain_base(certificate: Certificate, data_dir: Path, base: Path, start: str = "") -> Retrained:
    """Fit a base again to the documents known beforehand, as its folder says it was, and compare the weights.

    Args:
        certificate: that has been verified with this corpus and this base.
        data_dir: the corpus.
        base: folder of the base.
        start: folder, GGUF file or hub id of the base that the fitting began with; "" where that was random.

    Raises:
        CertificateError: the folder does not say how the base was made, or says so of other weights or documents; or
            the base that was made again has another loss on known documents, or a larger one on certified documents.
        ConfigError, CorpusError, TrainingError: the fitting failed.
    """
    fitted = read_fitted_base(base)
    if fitted is None or not base.is_dir():
        raise CertificateError(
            f"{base} has no {RunFolder(base).pretrain.name}: it does not say that it was fitted to known documents"
        )
    corpus = open_corpus(data_dir)
    if corpus.prior is None or corpus.prior.content_sha256() != fitted.documents_sha256:
        raise CertificateError(f"{base} says that it was fitted to other documents than those of {data_dir}")
    claimed, sha256 = load_pretrained(str(base), corpus.vocab_size)
    if sha256 != fitted.sha256 or named_by(str(base), sha256)[0] != certificate.prior.base.sha256:
        raise CertificateError(f"the weights in {base} are not those that its record and the certificate name")
    found = _fit_again(fitted, corpus, start)
    if hash_weights(found) == sha256:
        return Retrained(True, 0.0, 0.0, 0)
    return _compare(claimed, found, corpus, int(fitted.settings["data.block_size"]), bytes.fromhex(sha256))


def _fit_again(fitted: FittedBase, corpus: Corpus, start: str) -> torch.nn.Module:
    if fitted.start_is_random == bool(start):
        raise CertificateError(
            "the fitting began with random weights: leave out --start"
            if start
            else f"the fitting began with another base ({fitted.start}): give your own copy with --start"
        )
    if start and (found := source_sha256(start)) != fitted.start_sha256:
        raise CertificateError(
            f"the fitting began with a base of hash {fitted.start_sha256[:6]}..., but {start} has {found[:6]}..."
        )
    threads = torch.get_num_threads()
    # Sums are in another order with another number of threads.
    torch.set_num_threads(fitted.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return load_pretrained(str(fit_base(fitted.config(start), corpus, Path(folder) / "base")))[0]
    finally:
        torch.set_num_threads(threads)


def _compare(
    claimed: torch.nn.Module, found: torch.nn.Module, corpus: Corpus, block_size: int, seed: bytes
) -> Retrained:
    """Compare two bases on documents that nobody could choose before the claimed one was finished: `seed` names it."""
    assert corpus.prior is not None
    theirs, ours = (dict(model.named_parameters()) for model in (claimed, found))
    if {n: p.shape for n, p in theirs.items()} != {n: p.shape for n, p in ours.items()}:
        raise CertificateError("the base that was made again has other sizes")
    weights = max(float((theirs[name] - ours[name]).detach().abs().max()) for name in ours)
    more, compared = [], 0
    for split in (corpus.prior, corpus.train):
        units = sample_units(corpus, split, "document_level", block_size)
        rows = np.sort(shuffled("retrained", seed, len(units))[:COMPARED_DOCUMENTS])
        losses = []
        for model in (claimed, found):
            scores = score_units(
                model.eval(), units, rows, block_size=block_size, stride=block_size, batch_size=_WINDOWS
            )
            losses.append(float((scores.bits / scores.lengths).mean()))
        more.append(losses[1] - losses[0])
        compared += len(rows)
    # Written so that a NaN, which compares with nothing, is refused.
    again = Retrained(False, weights, float(np.max([abs(more[0]), more[1]])), compared)
    if not again.loss_difference <= TOLERANCE:
        raise CertificateError(f"the base does not follow from the known documents. {again.in_words()}")
    return again
