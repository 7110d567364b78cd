"""Watching labelled documents: a classifier reads them as the certified ones were read, and its errors are counted."""

from pathlib import Path

import numpy as np

from sublora.certificate.watch import Watch
from sublora.certificate.watching import BATCH, NEEDS_KNOWN, Losses, watch_documents
from sublora.classification.certified import CertifiedClassifier, open_classifier, require_labels
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.corpus.labelled import Labels
from sublora.corpus.split import in_order
from sublora.errors import CertificateError
from sublora.scoring.decisions import label_errors


def watch_classifier(
    path: Path,
    data_dir: Path,
    *,
    base: str = "",
    known: Path | None = None,
    state: Path | None = None,
    metric: str = "",
    alpha: float = 0.05,
) -> Watch:
    """Read labelled documents until there is an alarm, and return the watch.

    Arguments and errors are those of `sublora.certificate.watching.watch_corpus`, but the certificate is a
    classifier's, the documents have the labels of the certified ones, and the headline is the share of errors.
    `top_2_error` is the share of labels that are not among the two likeliest, and so on.
    """
    certified, corpus = open_classifier(path), open_corpus(data_dir)
    labels = require_labels(certified.verbalizer, corpus)

    def losses(watch: Watch) -> Losses:
        return _losses(certified, corpus, labels, None if known is None else open_corpus(known), base, watch)

    return watch_documents(certified, corpus, losses, base=base, state=state, metric=metric, alpha=alpha)


def _losses(
    certified: CertifiedClassifier, corpus: Corpus, labels: Labels, known: Corpus | None, base: str, watch: Watch
) -> Losses:
    """The errors of documents from `watch.read` on, in batches."""
    from sublora.certificate.rebuilt import rebuild_certified
    from sublora.scoring.labels import label_logits
    from sublora.scoring.processes import Processes

    classes = [labels.classes(part) for part in corpus.parts]
    k = next(k for k, upper in certified.certificate.claims.uppers.items() if upper == watch.claim)
    holder = certified.with_known_documents(known, corpus)
    if holder is None and certified.message.header.prompt.documents:
        raise CertificateError(NEEDS_KNOWN)
    rebuilt = rebuild_certified(certified, base, None if holder is None else holder.prior)
    verbalizer, size, processes = certified.verbalizer, certified.certificate.how.batch_size, Processes("cpu")
    parts, rows = in_order(corpus)
    for start in range(watch.read, len(rows), BATCH):
        some = slice(start, start + BATCH)
        errors = np.empty(len(rows[some]))
        for part, split in enumerate(corpus.parts):
            chosen = parts[some] == part
            if chosen.any():
                few = rows[some][chosen]
                logits = label_logits(rebuilt, split, few, verbalizer, size, processes, "watching")
                errors[chosen] = label_errors(logits, classes[part][few], 0.0, k)
        yield errors
