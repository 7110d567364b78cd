"""The parts of a certificate, each from what it follows from. Issuing and verifying both build them here.
Torch-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sublora.certificate.base_bounds import base_alone, base_prompted
from sublora.certificate.claims import LOSS_MARGIN, decompose, earlier_bound, make_claims
from sublora.certificate.model import (
    FORMAT,
    Baseline,
    Certificate,
    CorpusPart,
    HeldOut,
    How,
    MessagePart,
    PredictionPart,
    Prior,
    Setting,
    competitors,
)
from sublora.certificate.terms import Terms, make_terms
from sublora.certificate.wording import limits, statement
from sublora.coding.architecture import tag
from sublora.coding.message import Header, Message
from sublora.coding.setting import Setting as CodedSetting
from sublora.config import BoundType
from sublora.corpus.corpus import BYTES_TOKENIZER, Corpus
from sublora.corpus.split import check_known
from sublora.corpus.units import Units
from sublora.errors import CertificateError
from sublora.files import sha256
from sublora.scoring.scores import Scores


def coded_setting(
    corpus: Corpus,
    *,
    bound_type: BoundType,
    delta: Fraction,
    joint: bool,
    population: bool,
    prior: bool,
    ngram_order: int,
) -> CodedSetting:
    """Return what a message says of its claim and its corpus.

    Args:
        corpus: that is certified.
        bound_type: what is bounded: documents, blocks or tokens.
        delta: probability that a claim may fail.
        joint: delta is divided between the claims, so that all hold at once.
        population: the claim is about the population that the corpus was drawn from.
        prior: documents known beforehand are used.
        ngram_order: of the code that is fitted to them; 0 for none.

    Raises:
        CertificateError: a claim about a population that the corpus does not record, or about blocks of one.
        CorpusError: known documents that it does not have, or that are training documents too.
    """
    if population and bound_type != "document_level":
        # N counts documents, and no seed drew blocks from anything.
        raise CertificateError(f"a {bound_type} claim is not about a population of documents: set bounds.claim=source")
    if population and corpus.split_seed is None:
        raise CertificateError(
            f"{corpus.path} does not record a random choice from a population: set bounds.claim=source"
        )
    if prior:
        check_known(corpus)
    tokenizer = str(corpus.meta["tokenizer"])
    return CodedSetting(
        bound_type=bound_type,
        delta=delta,
        joint=joint,
        split_seed=corpus.split_seed if population else None,
        tokenizer_tag=None if tokenizer == BYTES_TOKENIZER else tag(sha256(tokenizer.encode())),
        vocab_size=corpus.vocab_size,
        eot_token=corpus.eot_token,
        min_tokens=corpus.min_tokens,
        min_characters=int(corpus.meta.get("min_characters", 0)),
        prior_tag=tag(corpus.prior.content_sha256()) if prior and corpus.prior is not None else None,
        ngram_order=ngram_order,
    )


def corpus_part(corpus: Corpus, units: Units, header: Header) -> CorpusPart:
    """Return what a certificate says of its corpus; everything is counted and hashed anew."""
    setting = header.setting
    return CorpusPart(
        source=str(corpus.meta["source"]),
        rule=str(corpus.meta["rule"]),
        sha256=units.content_sha256(),
        n=units.sample_size(setting.bound_type),
        distinct=units.split.n_distinct(),
        population=None if setting.split_seed is None else corpus.population,
        population_sha256=None if setting.split_seed is None else corpus.population_sha256(),
        split_seed=setting.split_seed,
    )


def setting_part(header: Header) -> Setting:
    """Return what a message says of its claim, in words that a person reads."""
    s = header.setting
    return Setting(
        bound_type=s.bound_type,
        about="source" if s.split_seed is None else "population",
        delta=decimal(s.delta),
        joint=s.joint,
        mixture_weight=2.0**-header.mixture_exponent,
        prediction=PredictionPart(
            slope=header.prediction.slope,
            document_bits=header.prediction.document_bits,
            ceiling=header.prediction.ceiling_per(1),
        ),
        stride=header.stride,
        block_size=header.architecture.block_size,
        samples=header.samples,
        min_tokens=s.min_tokens,
        min_characters=s.min_characters,
        vocab_size=s.vocab_size,
        eot_token=s.eot_token,
    )


def decimal(delta: Fraction) -> str:
    """Return a decimal fraction in (0, 1) exactly, as in 0.05."""
    digits = next(d for d in range(1, 64) if 10**d % delta.denominator == 0)
    return f"0.{int(delta * 10**digits):0{digits}d}"


def message_part(data: bytes, message: Message) -> MessagePart:
    """Return what a certificate says of its message; the ledger is read off the bytes."""
    return MessagePart(
        bits=8 * len(data),
        division_bits=message.header.division_bits,
        setting_bits=message.header.known_bits,
        coordinates=len(message.alpha),
        sha256=sha256(data),
        ledger=message.ledger,
    )


@dataclass(frozen=True)
class Measured:
    """What a certificate is assembled from, besides its message."""

    scores: Scores
    corpus: CorpusPart
    prior: Prior
    baselines: Sequence[Baseline]
    held_out: HeldOut | None
    how: How

    def terms(self, data: bytes, message: Message) -> Terms:
        """Return what the bounds depend on besides the losses."""
        return make_terms(message.header, 8 * len(data), self.corpus.n, self.prior.known)


def assemble(data: bytes, message: Message, measured: Measured, margin: float = LOSS_MARGIN) -> Certificate:
    """Return the certificate that follows from a message and what was measured of it.

    Args:
        data: bytes of the message.
        message: what they decode to.
        measured: losses, corpus, what was known beforehand.
        margin: added to every loss before it is bounded.
    """
    terms = measured.terms(data, message)
    claims = make_claims(measured.scores, terms, margin)
    setting = setting_part(message.header)
    baselines = tuple(measured.baselines)
    base, prompted = base_alone(measured.scores, terms), base_prompted(measured.scores, terms)
    corpus, prior = measured.corpus, measured.prior
    return Certificate(
        format=FORMAT,
        statement=statement(claims, setting, corpus, prior, terms.bits, competitors(baselines, base, prompted)),
        limits=limits(setting, corpus, prior),
        claims=claims,
        comparison=earlier_bound(measured.scores, terms),
        decomposition=decompose(measured.scores, terms, claims[0].bound),
        base_alone=base,
        base_prompted=prompted,
        baselines=baselines,
        held_out=measured.held_out,
        setting=setting,
        message=message_part(data, message),
        prior=prior,
        corpus=corpus,
        how=measured.how,
        losses_sha256=sha256(measured.scores.to_bytes()),
    )
