"""A labelled corpus and a base, ready to measure classifiers: what issuing and a full replay have in common."""

from functools import cached_property

import numpy as np

from sublora.certificate.assemble import corpus_part
from sublora.certificate.division import chance
from sublora.certificate.draw import draw_units
from sublora.certificate.evidence import base_part, how_computed
from sublora.certificate.model import Beforehand
from sublora.classification.assemble import Measured, base_of
from sublora.classification.baselines import simple_classifiers
from sublora.classification.predictions import Predictions
from sublora.coding.verbalizer import Classifier, verbalizer_of
from sublora.corpus.corpus import Corpus
from sublora.corpus.labelled import labels_of
from sublora.corpus.units import sample_units
from sublora.errors import CertificateError, CorpusError
from sublora.scoring.labels import label_logits
from sublora.scoring.measure import Rebuilt, rebuild
from sublora.scoring.processes import Processes


class LabelEvidence:
    """The labelled documents of a corpus, and the processes that read them.

    Args:
        corpus: whose training documents are certified.
        source: of a pretrained base; "" for a random one.
        published: date of the base, as its user states it.
        processes: that share the work.

    Raises:
        CorpusError: a document without a label of the corpus, or documents that no chance divides like this.
    """

    def __init__(self, corpus: Corpus, source: str, published: str, processes: Processes) -> None:
        self.corpus, self.source, self.published, self.processes = corpus, source, published, processes
        self.labels = labels_of(corpus)
        self.verbalizer = verbalizer_of(self.labels)
        self.units = sample_units(corpus, corpus.train, "document_level", 1)
        self._classes = [self.labels.classes(part) for part in corpus.parts]
        if corpus.prior is not None:
            self.labels.classes(corpus.prior)
        self._check_division()

    @cached_property
    def content_sha256(self) -> str:
        """The hash of the certified documents, labels included."""
        return self.units.content_sha256()

    def _check_division(self) -> None:
        """Every class must be as frequent in the certified documents as a random choice makes it."""
        everything, n = np.concatenate(self._classes), len(self.units)
        for number, name in enumerate(self.labels.names):
            found = (everything == number).astype(np.float64)
            apart = abs(float(found[:n].mean() - found.mean()))
            if apart > chance(found, n):
                raise CorpusError(
                    f"the {n:,} certified documents are no random choice from their {len(found):,}: the share of "
                    f"{name!r} differs by {apart:.3f}. Were the documents put into an order before they were divided?"
                )

    def logits(self, rebuilt: Rebuilt, rows: np.ndarray, batch_size: int, description: str) -> np.ndarray:
        """Return what a rebuilt model says of some certified documents."""
        return label_logits(rebuilt, self.units.split, rows, self.verbalizer, batch_size, self.processes, description)

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """Return the labels of some certified documents."""
        return self._classes[0][rows]

    def measure(self, data: bytes, classifier: Classifier, batch_size: int) -> Measured:
        """Rebuild the classifier from its message, draw, and return what it and its base say.

        Args:
            data: bytes of the message.
            classifier: what they decode to.
            batch_size: documents read at once.
        """
        header = classifier.model.header
        known = self.corpus.prior if header.setting.prior_tag is not None else None
        longest, context = int(self.units.split.lengths.max()), header.architecture.block_size
        if longest > context:
            raise CertificateError(f"a document has {longest} tokens, and the message's context {context}")
        rows = draw_units(data, self.content_sha256, len(self.units), header.samples)
        rebuilt = rebuild(classifier.model, self.source, self.corpus.prior)
        logits = self.logits(rebuilt, rows, batch_size, "measuring the error, documents")
        D, prompt_tokens, sha256 = rebuilt.D, len(rebuilt.prompt), rebuilt.base_sha256
        # Two models at a time are not needed.
        del rebuilt
        base = rebuild(base_of(classifier).model, self.source, self.corpus.prior)
        base_logits = self.logits(base, rows, batch_size, "measuring the base, documents")
        pretrained = base.model if header.architecture.kind == "pretrained" else None
        described = base_part(header, sha256, pretrained, self.source, self.published, self.corpus, known)
        del base, pretrained
        everything = np.bincount(np.concatenate(self._classes), minlength=len(self.labels.names))
        return Measured(
            predictions=Predictions(rows, self.classes(rows), logits, base_logits),
            classes=list(zip(self.labels.names, everything.tolist(), strict=True)),
            simple=simple_classifiers(self.corpus, self.labels, known is not None),
            corpus=corpus_part(self.corpus, self.units, header),
            prior=Beforehand(
                base=described,
                D=D,
                tokenizer=str(self.corpus.meta["tokenizer"]),
                documents=0 if known is None else len(known),
                documents_sha256=None if known is None else known.content_sha256(),
            ),
            how=how_computed(batch_size),
            prompt_tokens=prompt_tokens,
        )
