"""A corpus and a base, ready to measure messages: what issuing and a full replay have in common."""

import dataclasses
import importlib.metadata
import logging
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

import sublora
from sublora.certificate.assemble import Measured, corpus_part
from sublora.certificate.baselines import baselines
from sublora.certificate.division import check_bytes, check_division, check_seed
from sublora.certificate.draw import draw_units
from sublora.certificate.held_out import held_out
from sublora.certificate.known import MeasuredCode, known_code, measure_code
from sublora.certificate.model import Baseline, HeldOut, How, Known, PretrainedBase, Prior, RandomBase, Why
from sublora.certificate.terms import bytes_of_a_token, make_terms, min_bytes
from sublora.coding.message import Header, Message
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.split import common_documents
from sublora.corpus.units import sample_units
from sublora.nn.base import describe_base
from sublora.nn.create_model import build_base
from sublora.nn.practised import with_frame
from sublora.nn.sources import find_source
from sublora.run_folder import RunFolder
from sublora.scoring.measure import Protocol, Rebuilt, References, rebuild, score, scoring_key
from sublora.scoring.processes import Processes
from sublora.scoring.scores import Scores
from sublora.training.fitted_base import read_fitted_base
from sublora.training.practice_record import read_practice

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "peft", "numpy", "constriction")


class Evidence:
    """The units of a corpus, the code and the base known beforehand, and the processes that score.

    Args:
        header: of the messages that are measured; its mixture weight, prediction, prompt and adapter are not looked at.
        corpus: whose training documents are certified.
        source: of a pretrained base; "" for a random one.
        published: date of the base, as its user states it.
        processes: that share the scoring.
    """

    def __init__(self, header: Header, corpus: Corpus, source: str, published: str, processes: Processes) -> None:
        self.header, self.corpus, self.processes = header, corpus, processes
        self.source, self.published = source, published
        self.units = sample_units(corpus, corpus.train, header.setting.bound_type, header.architecture.block_size)
        self.code = known_code(corpus, self.units, header.setting.ngram_order)
        documents, least = header.setting.bound_type == "document_level", min_bytes(header.setting)
        whole = documents and header.setting.split_seed is not None
        self.measured_code = measure_code(self.code, corpus.parts if whole else (self.units.split,), least, whole)
        if documents:
            check_bytes(corpus, least)
        if whole:
            check_division(self.measured_code, len(self.units))
        if header.setting.split_seed is None:
            check_seed(corpus)
        self.pretrained = None
        if header.architecture.kind == "pretrained":
            self.pretrained = build_base(header.architecture, header.spec.seed, source)
        self.references = References(self.code.bits, self.pretrained)

    @cached_property
    def content_sha256(self) -> str:
        """The hash of the certified units."""
        return self.units.content_sha256()

    def known(self, header: Header, few: MeasuredCode | None = None) -> Known:
        """Return what is known of the known code and of the losses that a message predicts.

        Args:
            header: the message's.
            few: units that stand for all, where an estimate is enough.
        """
        setting = header.setting
        delta, token = float(setting.delta), bytes_of_a_token(setting)
        return (few or self.measured_code).known(delta, header.known_bits, header.prediction, token)

    def draw(self, data: bytes, samples: int) -> np.ndarray:
        """Return the units that a message is measured on."""
        return draw_units(data, self.content_sha256, len(self.units), samples)

    def losses(
        self, data: bytes, message: Message, protocol: Protocol, run: RunFolder | None = None
    ) -> tuple[Rebuilt, Scores]:
        """Rebuild the model from a message, draw, and score.

        Args:
            data: bytes of the message.
            message: what they decode to.
            protocol: how losses are measured.
            run: keeps the scores of finished chunks, so that an interrupted scoring goes on where it was.
        """
        rebuilt = rebuild(message, self.source, self.corpus.prior)
        drawn = self.draw(data, message.header.samples)
        kept: Path | None = None
        if run is not None:
            kept = run.scoring / scoring_key(data, self.content_sha256, self.units, drawn, protocol)
        references = dataclasses.replace(self.references, prompted=message.header.compares_prompt)
        return rebuilt, score(
            rebuilt, references, self.units, drawn, protocol, self.processes, "measuring the risk", kept
        )

    def beside(
        self, data: bytes, message: Message, rebuilt: Rebuilt, protocol: Protocol
    ) -> tuple[tuple[Baseline, ...], HeldOut | None]:
        """Return what a certificate says beside its claims: simple codes, and the loss on held-out text."""
        n = self.units.sample_size(message.header.setting.bound_type)
        terms = make_terms(message.header, 8 * len(data), n, self.known(message.header))
        log.info("fitting and certifying simple codes of the %d documents, to compare with", len(self.units))
        return (
            baselines(self.corpus, self.code, terms),
            held_out(rebuilt, self.references, self.corpus, terms, protocol, self.processes, message.header.samples),
        )

    def measured(
        self,
        message: Message,
        rebuilt: Rebuilt,
        scores: Scores,
        beside: tuple[tuple[Baseline, ...], HeldOut | None],
        batch_size: int,
    ) -> Measured:
        """Return everything that a certificate is assembled from."""
        simple_codes, on_held_out = beside
        return Measured(
            scores=scores,
            corpus=corpus_part(self.corpus, self.units, message.header),
            prior=self._prior(message, rebuilt),
            baselines=simple_codes,
            held_out=on_held_out,
            how=how_computed(batch_size),
        )

    def _prior(self, message: Message, rebuilt: Rebuilt) -> Prior:
        documents = self._documents(message)
        return Prior(
            base=base_part(
                message.header,
                rebuilt.base_sha256,
                self.pretrained,
                self.source,
                self.published,
                self.corpus,
                documents,
            ),
            D=rebuilt.D,
            tokenizer=str(self.corpus.meta["tokenizer"]),
            documents=0 if documents is None else len(documents),
            documents_sha256=None if documents is None else documents.content_sha256(),
            prompt_tokens=len(rebuilt.prompt),
            known=self.known(message.header),
        )

    def _documents(self, message: Message) -> Split | None:
        """The documents known beforehand that a message names."""
        return self.corpus.prior if message.header.setting.prior_tag is not None else None


def how_computed(batch_size: int) -> How:
    """Return what a certificate says of how its losses are computed here."""
    versions = {"sublora": sublora.__version__} | {p: importlib.metadata.version(p) for p in PACKAGES}
    return How(batch_size=batch_size, versions=versions)


def base_part(
    header: Header,
    sha256: str,
    pretrained: PreTrainedModel | None,
    source: str,
    published: str,
    corpus: Corpus,
    known: Split | None,
) -> RandomBase | PretrainedBase:
    """Return what a certificate says of the base of a message.

    Args:
        header: the message's.
        sha256: of the weights.
        pretrained: the base that was loaded; None for a random one.
        source: that it was loaded from.
        published: date of it, as its user states it.
        corpus: that is certified.
        known: the known documents that the message names.
    """
    architecture = header.architecture
    if pretrained is None:
        return RandomBase(
            kind="random",
            family=architecture.family,
            n_layer=architecture.n_layer,
            n_head=architecture.n_head,
            n_embd=architecture.n_embd,
            attention_window=architecture.attention_window,
            seed=header.spec.seed,
            sha256=sha256,
        )
    facts = describe_base(source, pretrained)
    return PretrainedBase(
        kind="pretrained",
        name=facts.name,
        licence=facts.licence,
        published=published or None,
        evidence=why_known(source, sha256, corpus, known),
        sha256=sha256,
    )


def absent_from_older_copy(corpus: Corpus) -> bool:
    """Whether a corpus holds an older copy of its source, among its known documents, and none of the others is in it.

    That it is an older copy of the source is what its description says; whoever prepared the corpus himself knows.
    """
    prior = corpus.meta.get("prior")
    older = prior.get("older") if isinstance(prior, dict) else None
    if not corpus.meta.get("older_copy") or not older or corpus.prior is None:
        return False
    return not any(common_documents(part, corpus.prior) for part in corpus.parts)


def why_known(source: str, sha256: str, corpus: Corpus, known: Split | None) -> Why:
    """Return why a base's weights cannot have been fitted to the certified documents.

    Args:
        source: of the base; a folder may say that it was fitted to known documents, or that its frame was.
        sha256: that names it.
        corpus: that is certified.
        known: the known documents that the message names, None where it names none.

    Raises:
        ConfigError: there is no such base, or what its folder says is damaged.
    """
    found = find_source(source)
    if found.kind == "folder":
        weights = _weights_without_frame(found.path, sha256, known)
        if weights is None:
            return "assumed"
        fitted = read_fitted_base(found.path)
        if (
            fitted is not None
            and known is not None
            and (fitted.sha256, fitted.documents_sha256) == (weights, known.content_sha256())
        ):
            return "known documents" if fitted.start_is_random else "known documents, from an assumed start"
    return "documents absent from an older copy" if absent_from_older_copy(corpus) else "assumed"


def _weights_without_frame(folder: Path, sha256: str, known: Split | None) -> str | None:
    """The hash of a base's weights alone; None where its frame is not said to be of the known documents."""
    if not RunFolder(folder).frame.is_file():
        return sha256
    record = read_practice(folder)
    if record is None or known is None or record.documents_sha256 != known.content_sha256():
        return None
    return record.weights_sha256 if with_frame(record.weights_sha256, record.frame_sha256) == sha256 else None
