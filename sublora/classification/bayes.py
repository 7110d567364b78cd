"""Naive Bayes over words and pairs of words: the simple classifier that a certificate has to beat. Torch-free."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int, Int64

from sublora.corpus.corpus import Split
from sublora.corpus.labelled import Labels

BUCKETS = 1 << 17
"""Words and pairs of words are counted in so many: what a large vocabulary would need is not all seen."""
SMOOTHING = 0.1
"""count that every bucket has in every class before a document is seen"""
_DOCUMENTS_AT_ONCE = 4096


class NaiveBayes:
    """A multinomial naive Bayes classifier (McCallum & Nigam 1998) of labelled documents.

    Args:
        split: labelled documents.
        rows: those it is fitted to.
        labels: of the corpus.
    """

    def __init__(self, split: Split, rows: Int[np.ndarray, " n"], labels: Labels) -> None:
        self.labels = labels
        classes = labels.classes(split)[rows]
        count = len(labels.names)
        counts = np.full(count * BUCKETS, SMOOTHING)
        for few, owner, bucket in _features(split, rows, labels):
            counts += np.bincount(classes[few][owner] * BUCKETS + bucket, minlength=len(counts))
        table = counts.reshape(count, BUCKETS)
        self._weights = (np.log(table) - np.log(table.sum(axis=1, keepdims=True))).T.copy()
        self._prior = np.log((np.bincount(classes, minlength=count) + 1.0) / (len(rows) + count))

    def classes(self, split: Split, rows: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the likeliest class of documents; of equal ones the first."""
        out = []
        for few, owner, bucket in _features(split, rows, self.labels):
            scores: Float64[np.ndarray, "m classes"] = np.tile(self._prior, (few.stop - few.start, 1))
            np.add.at(scores, owner, self._weights[bucket])
            out.append(scores.argmax(axis=1))
        return np.concatenate(out) if out else np.zeros(0, np.int64)


def _features(
    split: Split, rows: Int[np.ndarray, " n"], labels: Labels
) -> Iterator[tuple[slice, Int64[np.ndarray, " f"], Int64[np.ndarray, " f"]]]:
    """Yield slices of rows, and of every word and pair of words in them the place of its document and its bucket."""
    for start in range(0, len(rows), _DOCUMENTS_AT_ONCE):
        few = slice(start, min(start + _DOCUMENTS_AT_ONCE, len(rows)))
        # -1 stands before the first word.
        texts = [np.append(np.int64(-1), labels.text(split, int(i)).astype(np.int64)) for i in rows[few]]
        owner = np.repeat(np.arange(len(texts)), [len(text) - 1 for text in texts])
        word = np.concatenate([text[1:] for text in texts])
        before = np.concatenate([text[:-1] for text in texts])
        pair = (word + 1_000_003 * (before + 2)) % BUCKETS
        yield few, np.concatenate([owner, owner]), np.concatenate([word % BUCKETS, pair])
