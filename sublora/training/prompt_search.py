"""Which documents stand before every document: found one by one, on a part of the training documents.

The choice costs the bits that name the documents or write them out, and nothing else: the search may look at the
training documents in any way. Each place takes the best of some candidates: all are measured on a few documents, the
best quarter on all of them.
"""

import logging

import numpy as np
from jaxtyping import Float64, Int64
from transformers import PreTrainedModel

from sublora import seeds
from sublora.coding.prompt import Prompt
from sublora.config import Config
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.units import Units, sample_units
from sublora.errors import ConfigError
from sublora.nn.create_model import architecture_from_config, build_base
from sublora.progress import progress
from sublora.scoring.prompt import prompt_tokens
from sublora.scoring.risk import score_units

log = logging.getLogger(__name__)

# Candidates have so many tokens: a shorter one shows nothing, a longer one costs time for every document.
TOKENS = (8, 60)
# All candidates are measured on this share of the documents, and this share of the candidates on all.
FIRST_LOOK, KEPT = 0.2, 0.25


def search_prompt(config: Config, corpus: Corpus) -> Prompt:
    """Return documents behind which the base needs few bits, in the order in which they were found.

    Args:
        config: `prompt` says how many documents, from where, how many candidates for each, and how many documents to
            measure on.
        corpus: with known documents, unless the prompt is from the training documents.

    Raises:
        ConfigError: the corpus has no such documents, or too few.
    """
    p = config.prompt
    source = corpus.train if p.source == "training" else corpus.prior
    places = np.zeros(0, np.int64)
    if source is not None:
        places = np.flatnonzero((source.lengths >= TOKENS[0]) & (source.lengths <= TOKENS[1]))
    if source is None or len(places) < p.documents:
        where = "training" if p.source == "training" else "known"
        raise ConfigError(
            f"prompt.documents={p.documents} needs so many {where} documents of {TOKENS[0]} to {TOKENS[1]} tokens: "
            "prepare the corpus with --absent-from or --prior-share, or set prompt.source=training, or "
            "prompt.documents=0"
        )
    search = _Search(config, corpus, source)
    rng = seeds.stream(config.system.seed, "prompt")
    chosen: list[int] = []
    with progress("choosing a prompt, documents", p.documents) as advance:
        for _ in range(p.documents):
            candidates = rng.choice(places, min(p.candidates, len(places)), replace=False)
            rows = rng.permutation(search.rows)
            few = rows[: max(1, round(FIRST_LOOK * len(rows)))]
            first = np.argsort([search.loss([*chosen, int(c)], few) for c in candidates], kind="stable")
            kept = candidates[first[: max(1, round(KEPT * len(candidates)))]]
            losses = [search.loss([*chosen, int(c)], rows) for c in kept]
            chosen.append(int(kept[int(np.argmin(losses))]))
            advance(1, f"{min(losses):.4f}")
    log.info("prompt: %s documents %s, %.4f bits on training documents under the base", p.source, chosen, min(losses))
    return search.prompt(chosen)


class _Search:
    """Measures prompts under the base."""

    def __init__(self, config: Config, corpus: Corpus, source: Split) -> None:
        self.config, self.corpus, self.source = config, corpus, source
        architecture = architecture_from_config(config, corpus.vocab_size)
        self.base: PreTrainedModel = build_base(architecture, config.system.seed, config.prior.base)
        self.units: Units = sample_units(corpus, corpus.train, "document_level", config.data.block_size)
        rng = seeds.stream(config.system.seed, "prompt documents")
        count = min(config.prompt.search_documents, len(self.units))
        self.rows = np.sort(rng.choice(len(self.units), count, replace=False))

    def prompt(self, documents: list[int]) -> Prompt:
        """Return some documents of the source as a prompt."""
        if self.config.prompt.source == "known":
            return Prompt(tuple(documents))
        return Prompt(texts=tuple(tuple(self.source.document(i).tolist()) for i in documents))

    def loss(self, documents: list[int], rows: Int64[np.ndarray, " n"]) -> float:
        """Return the mean bits per byte (per token where bytes are not known) behind a prompt."""
        block_size = self.config.data.block_size
        scores = score_units(
            self.base,
            self.units,
            rows,
            block_size=block_size,
            stride=block_size,
            batch_size=self.config.bounds.eval_batch_size,
            prompt=prompt_tokens(self.prompt(documents), self.corpus.prior, self.corpus.eot_token),
        )
        return float((scores.bits / self._sizes(rows)).mean())

    def _sizes(self, rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        split = self.units.split
        return (split.lengths if split.byte_lengths is None else split.byte_lengths)[rows].astype(np.float64)
