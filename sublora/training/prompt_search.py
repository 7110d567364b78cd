"""Which known documents stand before every document: the best of several sets, by a part of the training documents.

The choice costs the bits that name the documents, and nothing else: the search may look at the training documents in
any way. Sets are drawn at random and grow by the half that helps most, because a good example is good in any company.
"""

import logging

import numpy as np
from jaxtyping import Int64

from sublora import seeds
from sublora.coding.prompt import Prompt
from sublora.config import Config
from sublora.corpus.corpus import Corpus
from sublora.corpus.units import Units, sample_units
from sublora.errors import ConfigError
from sublora.nn.create_model import architecture_from_config, build_base
from sublora.progress import progress
from sublora.scoring.prompt import prompt_tokens
from sublora.scoring.risk import score_units

log = logging.getLogger(__name__)


def search_prompt(config: Config, corpus: Corpus) -> Prompt:
    """Return the set of known documents behind which the base needs the fewest bits.

    Every candidate is measured on the same training documents, under the base without an adapter.

    Args:
        config: `prompt` says how many documents, how many candidates and how many documents to measure on.
        corpus: with known documents.

    Raises:
        ConfigError: the corpus has no known documents, or too few, or the prompt does not fit into the context.
    """
    p, known = config.prompt, corpus.prior
    if known is None or len(known) < p.documents:
        raise ConfigError(
            f"prompt.documents={p.documents} needs so many documents known beforehand: prepare the corpus with "
            "--absent-from or --prior-share, or set prompt.documents=0"
        )
    architecture = architecture_from_config(config, corpus.vocab_size)
    base = build_base(architecture, config.system.seed, config.prior.base)
    units = sample_units(corpus, corpus.train, "document_level", config.data.block_size)
    rng = seeds.stream(config.system.seed, "prompt")
    rows = np.sort(rng.choice(len(units), min(p.search_documents, len(units)), replace=False))
    candidates = [rng.choice(len(known), p.documents, replace=False) for _ in range(p.candidates)]
    losses = []
    with progress("choosing a prompt", len(candidates)) as advance:
        for candidate in candidates:
            prompt = Prompt(tuple(int(i) for i in candidate))
            tokens = prompt_tokens(prompt, known, corpus.eot_token)
            scores = score_units(
                base,
                units,
                rows,
                block_size=config.data.block_size,
                stride=config.data.block_size,
                batch_size=config.bounds.eval_batch_size,
                prompt=tokens,
            )
            losses.append((float((scores.bits / _sizes(units, rows)).mean()), prompt))
            advance(1, f"{losses[-1][0]:.4f}")
    loss, best = min(losses, key=lambda pair: pair[0])
    log.info("prompt: %d documents, %.4f bits on training documents under the base", p.documents, loss)
    return best


def _sizes(units: Units, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Bytes of documents, or their tokens where bytes are not known."""
    split = units.split
    return (split.lengths if split.byte_lengths is None else split.byte_lengths)[rows]
