"""Simple classifiers, measured on every document of the population that they were not fitted to: facts, not bounds.

Torch-free.
"""

from collections.abc import Sequence

import numpy as np

from sublora.certificate.rounding import store_up
from sublora.classification.bayes import NaiveBayes
from sublora.classification.model import ErrorBaseline
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.labelled import Labels
from sublora.draws import shuffled

HALF = "naive Bayes fitted to a random half of the certified documents"
KNOWN = "naive Bayes fitted to the known documents"


def simple_classifiers(corpus: Corpus, labels: Labels, known: bool) -> tuple[ErrorBaseline, ...]:
    """Return what the majority class and naive Bayes reach.

    Args:
        corpus: labelled.
        labels: of it.
        known: its known documents are used.
    """
    counts = np.bincount(np.concatenate([labels.classes(part) for part in corpus.parts]), minlength=len(labels.names))
    total = int(counts.sum())
    # Of the commonest class of the population itself: no rule that always gives one label does better.
    out = [_fact(f"always {labels.names[int(counts.argmax())]!r}", total, total - int(counts.max()))]
    everything = [(part, np.arange(len(part))) for part in corpus.parts]
    if known and corpus.prior is not None:
        fitted = NaiveBayes(corpus.prior, np.arange(len(corpus.prior)), labels)
        out.append(_fact(KNOWN, total, _errors(fitted, everything, labels)))
    n = len(corpus.train)
    if n >= 4:
        order = shuffled("half", b"", n)
        fitted = NaiveBayes(corpus.train, np.sort(order[: n // 2]), labels)
        others = [(corpus.train, np.sort(order[n // 2 :])), *everything[1:]]
        out.append(_fact(HALF, total - n // 2, _errors(fitted, others, labels)))
    return tuple(out)


def _errors(classifier: NaiveBayes, documents: Sequence[tuple[Split, np.ndarray]], labels: Labels) -> int:
    return sum(int((classifier.classes(split, rows) != labels.classes(split)[rows]).sum()) for split, rows in documents)


def _fact(name: str, documents: int, errors: int) -> ErrorBaseline:
    bound = store_up(errors / documents)
    return ErrorBaseline(name=name, bits=0, documents=documents, errors=errors, exact=True, bound=bound)
