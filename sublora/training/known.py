"""The known documents that a base, or a frame, is learned from."""

import dataclasses

import numpy as np
from jaxtyping import Int64

from sublora.corpus.corpus import Corpus, Split
from sublora.errors import CorpusError


def known_documents(corpus: Corpus) -> Split:
    """Return the documents known beforehand.

    Raises:
        CorpusError: there are fewer than two.
    """
    if corpus.prior is None:
        raise CorpusError(
            f"{corpus.path} has no documents known beforehand, which a base is fitted to: prepare the corpus with "
            "--prior-share, --prior-before or --absent-from"
        )
    if len(corpus.prior) < 2:
        raise CorpusError(f"{corpus.path} has one document known beforehand, and none can be held back: give more")
    return corpus.prior


def known_rows(corpus: Corpus, choice: str) -> Int64[np.ndarray, " n"]:
    """Return which known documents are meant, in the order of the corpus.

    Args:
        corpus: with known documents; those of an older copy of the source come first.
        choice: one of `sublora.config.sections.KNOWN_DOCUMENTS`.

    Raises:
        CorpusError: fewer than two are meant.
    """
    known = known_documents(corpus)
    older = int(corpus.meta.get("prior", {}).get("older", 0))
    middle = len(known) // 2
    first, last = {
        "all": (0, len(known)), "own": (older, len(known)), "earlier": (0, middle), "later": (middle, len(known))
    }[choice]  # fmt: skip
    if last - first >= 2:
        return np.arange(first, last)
    if choice == "own":
        raise CorpusError(
            f"{corpus.path} has no known documents but those of the older copy: prepare it with --prior-share or "
            "--prior-before, or set pretrain.documents=all"
        )
    raise CorpusError(f"{corpus.path} has {len(known)} known documents, and too few are {choice}: set documents=all")


def part_of(split: Split, rows: Int64[np.ndarray, " n"]) -> Split:
    """Return some documents of a split with a token stream of their own, so that crops are cut from them alone."""
    lengths = split.lengths[rows]
    starts = np.cumsum(lengths + 1) - lengths - 1
    tokens = np.full(int(lengths.sum()) + len(rows), split.eot_token, split.tokens.dtype)
    for row, start, length in zip(rows, starts, lengths, strict=True):
        tokens[start : start + length] = split.document(int(row))
    sizes = None if split.byte_lengths is None else split.byte_lengths[rows]
    return dataclasses.replace(split, tokens=tokens, starts=starts, lengths=lengths, byte_lengths=sizes)
