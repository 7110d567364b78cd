"""Learning the frame of a certificate's base again: whether the known documents are all that it knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sublora.certificate.model import Certificate
from sublora.corpus.corpus import open_corpus
from sublora.errors import CertificateError
from sublora.nn.practised import read_practised, with_frame
from sublora.nn.pretrained import load_pretrained
from sublora.nn.spectral import Frame
from sublora.run_folder import RunFolder
from sublora.training.practice_record import read_practice
from sublora.training.practise import learn_frames

# What two frames must have in common: rounding in another order turns directions that hardly matter.
LEAST_OVERLAP = 0.95


@dataclass(frozen=True)
class PractisedAgain:
    """A frame and the one that was learned again.

    identical: they agree to the last bit.
    overlap: between 0 and 1: the share of the one's energy that lies in the other's directions.
    """

    identical: bool
    overlap: float

    def in_words(self) -> str:
        """Return what was found."""
        if self.identical:
            return "frame practised again: the known documents give the same frame, bit for bit"
        return (
            f"frame practised again: the known documents give one that shares {self.overlap:.3f} of its energy (at "
            f"least {LEAST_OVERLAP:g} is asked for); one thread of the issuer's machine gives the same bits"
        )


def practise_again(certificate: Certificate, data_dir: Path, base: Path) -> PractisedAgain | None:
    """Learn the frame of a base again, as its folder says it was, and compare; None where the base brings none.

    Args:
        certificate: that has been verified with this corpus and this base.
        data_dir: the corpus.
        base: folder of the base.

    Raises:
        CertificateError: the folder does not say how the frame was made, or says so of another frame or of other
            documents; or the frame that was learned again has other directions.
        ConfigError, CorpusError, TrainingError: the practice failed.
    """
    claimed = read_practised(str(base))
    if claimed is None:
        return None
    record, corpus = read_practice(base), open_corpus(data_dir)
    if record is None:
        raise CertificateError(f"{base} has no {RunFolder(base).practice.name}: it does not say how its frame was made")
    if corpus.prior is None or corpus.prior.content_sha256() != record.documents_sha256:
        raise CertificateError(f"the frame in {base} is said to be of other documents than those of {data_dir}")
    if with_frame(load_pretrained(str(base))[1], claimed.sha256) != certificate.prior.base.sha256:
        raise CertificateError(f"weights and frame in {base} are not those that the certificate names")
    threads = torch.get_num_threads()
    # Sums are in another order with another number of threads.
    torch.set_num_threads(record.threads)
    try:
        again, found = learn_frames(record.config(str(base)), corpus)
    finally:
        torch.set_num_threads(threads)
    if found.frame_sha256 == claimed.sha256:
        return PractisedAgain(True, 1.0)
    result = PractisedAgain(False, overlap(claimed.frames, again))
    # Written so that a NaN, which compares with nothing, is refused.
    if not result.overlap >= LEAST_OVERLAP:
        raise CertificateError(f"the frame does not follow from the known documents. {result.in_words()}")
    return result


def overlap(one: Mapping[str, Frame], other: Mapping[str, Frame]) -> float:
    """Return the share of the energy of one's scaled cores that lies between the directions of the other.

    An entry at (a, b) of `one` keeps |P_left u_a|^2 |P_right v_b|^2 of its energy, P the projections on the directions
    of `other`; entries count by the square of their scale. Both sides have orthonormal vectors.

    Raises:
        CertificateError: they are frames of other layers or sizes.
    """
    if {k: f.left_or.shape + f.right_ri.shape for k, f in one.items()} != {
        k: f.left_or.shape + f.right_ri.shape for k, f in other.items()
    }:
        raise CertificateError("the frame that was learned again has other layers or ranks")
    kept = total = 0.0
    for name, frame in one.items():
        left = np.sum((other[name].left_or.T.astype(np.float64) @ frame.left_or) ** 2, axis=0)
        right = np.sum((frame.right_ri @ other[name].right_ri.T.astype(np.float64)) ** 2, axis=1)
        energy = frame.scale_rr.astype(np.float64) ** 2
        kept += float(left @ energy @ right)
        total += float(energy.sum())
    return kept / total
