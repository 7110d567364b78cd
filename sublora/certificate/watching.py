"""Watching a corpus: its documents are scored as a certificate's were, and their losses are read in order."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int8

from sublora.certificate.assemble import coded_setting
from sublora.certificate.certified import Certified, open_certified
from sublora.certificate.claims import losses_by_metric
from sublora.certificate.known import known_code
from sublora.certificate.matching import require_base
from sublora.certificate.model import Certificate
from sublora.certificate.terms import make_terms
from sublora.certificate.watch import Watch
from sublora.corpus.corpus import Corpus, Split, open_corpus
from sublora.corpus.split import in_order
from sublora.corpus.units import sample_units
from sublora.errors import CertificateError, CorpusError
from sublora.files import sha256

# Documents that are scored at a time; after each such batch the state is written.
BATCH = 256
NEEDS_KNOWN = "the model needs the documents that were known beforehand: give the certified corpus with --known"
Losses = Iterator[Float64[np.ndarray, " m"]]
# What a message says of documents in general. The rest of its setting is about the claim and the certified ones.
_OF_DOCUMENTS = ("tokenizer_tag", "vocab_size", "eot_token", "min_tokens", "min_characters")


def watch_corpus(
    path: Path,
    data_dir: Path,
    *,
    base: str = "",
    known: Path | None = None,
    state: Path | None = None,
    metric: str = "",
    alpha: float = 0.05,
) -> Watch:
    """Read the losses of a corpus's documents until there is an alarm, and return the watch.

    Documents are those of all parts but the one known beforehand, in the order of their source where the corpus says
    how they were divided.

    Args:
        path: of a certificate, of the folder that holds it and its message, or of a pack.
        data_dir: new documents, prepared with the tokenizer and the rule of the certified ones.
        base: the user's own copy of a pretrained base.
        known: the certified corpus, where prompt or fallback need its known documents and the new corpus has others.
        state: file that is gone on from, if it is there, and written after every batch. The same corpus again goes on
            where it was left.
        metric: of the claim that is watched; the headline unless given.
        alpha: probability of an alarm although the claim is true.

    Raises:
        CertificateError, MessageError, CorpusError, ConfigError: something is missing, damaged, or of another kind.
    """
    certified, corpus = open_certified(path), open_corpus(data_dir)

    def losses(watch: Watch) -> Losses:
        return _losses(certified, corpus, None if known is None else open_corpus(known), base, watch)

    return watch_documents(certified, corpus, losses, base=base, state=state, metric=metric, alpha=alpha)


def watch_documents(
    certified: Certified[Any],
    corpus: Corpus,
    losses: Callable[[Watch], Losses],
    *,
    base: str,
    state: Path | None,
    metric: str,
    alpha: float,
) -> Watch:
    """Read the losses of documents under a certificate of any kind until there is an alarm, and return the watch.

    What `watch_corpus` opens is open here, and `losses` measures the documents, in batches, from `watch.read` on. Other
    arguments and errors are those of `watch_corpus`.
    """
    watch = Watch(certified.certificate, metric=metric, alpha=alpha)
    require_base(certified.message.header, base)
    if state is not None and state.exists():
        watch.resume(state)
    _require_alike(certified, corpus)
    content = corpus_sha256(corpus)
    if watch.corpus != content:
        watch.corpus, watch.read = content, 0
    for batch in () if watch.alarm else losses(watch):
        for loss in batch:
            watch.read += 1
            if watch.add(float(loss)):
                break
        if state is not None:
            watch.save(state)
        if watch.alarm:
            break
    return watch


def corpus_sha256(corpus: Corpus) -> str:
    """Return a hash of a corpus's documents, all parts but the one known beforehand; the token files are read again."""
    return sha256("".join(part.content_sha256() for part in corpus.parts).encode())


def _require_alike(certified: Certified[Any], corpus: Corpus) -> None:
    setting = certified.message.header.setting
    found = coded_setting(
        corpus,
        bound_type=setting.bound_type,
        delta=setting.delta,
        joint=setting.joint,
        population=False,
        prior=False,
        ngram_order=0,
    )
    for name in _OF_DOCUMENTS:
        ours, theirs = getattr(setting, name), getattr(found, name)
        if ours != theirs:
            raise CorpusError(
                f"the documents of {corpus.path} are of another kind: {name} is {theirs}, and in the certificate "
                f"{ours}: prepare them with the same source and tokenizer"
            )


def _losses(certified: Certified[Certificate], corpus: Corpus, known: Corpus | None, base: str, watch: Watch) -> Losses:
    """The losses of documents from `watch.read` on, in batches."""
    from sublora.certificate.rebuilt import rebuild_certified
    from sublora.nn.create_model import build_base
    from sublora.scoring.measure import References, protocol_of, score
    from sublora.scoring.processes import Processes

    header, certificate = certified.message.header, certified.certificate
    setting = header.setting
    holder = certified.with_known_documents(known, corpus)
    if holder is None and (setting.ngram_order or header.prompt.documents):
        raise CertificateError(NEEDS_KNOWN)
    splits = corpus.parts
    units = [sample_units(corpus, part, setting.bound_type, header.architecture.block_size) for part in splits]
    code = known_code(holder or corpus, units[0], setting.ngram_order)
    rebuilt = rebuild_certified(certified, base, None if holder is None else holder.prior)
    pretrained = build_base(header.architecture, header.spec.seed, base) if base else None
    references, processes = References(code.bits, pretrained), Processes("cpu")
    terms = make_terms(header, 8 * len(certified.data), certificate.corpus.n, certificate.prior.known)
    protocol = protocol_of(header, certificate.how.batch_size)
    parts, rows = _order(corpus, [u.split for u in units], setting.bound_type)
    for start in range(watch.read, len(rows), BATCH):
        some = slice(start, start + BATCH)
        losses = np.empty(len(rows[some]))
        for part, of in enumerate(units):
            chosen = parts[some] == part
            if chosen.any():
                scores = score(rebuilt, references, of, rows[some][chosen], protocol, processes, "watching")
                losses[chosen] = losses_by_metric(scores, terms)[watch.claim.metric].values
        yield losses


def _order(
    corpus: Corpus, splits: list[Split], bound_type: str
) -> tuple[Int8[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Part and row of every unit; no seed divided blocks, which stand in the order of the files."""
    if bound_type == "document_level":
        return in_order(corpus)
    parts = np.repeat(np.arange(len(splits), dtype=np.int8), [len(split) for split in splits])
    return parts, np.concatenate([np.arange(len(split)) for split in splits])
