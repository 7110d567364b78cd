"""The sample unit of a claim: what n counts, what a draw draws, and what a model is asked to predict."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from sublora.config import BOUND_TYPES
from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.digest import hash_documents
from sublora.corpus.fallback import UNIT, FallbackCode, fallback_code
from sublora.errors import CorpusError


@dataclass(frozen=True)
class Units:
    """The n independent units of a split.

    Attributes:
        split: the units, as if each were a document.
        vocab_size: tokens of the corpus, end-of-text included.
        min_tokens: no unit is shorter.
        impossible: the token that cannot occur inside a unit, None where every token can.
        fallback: a code for units that was known before the corpus.
    """

    split: Split
    vocab_size: int
    min_tokens: int
    impossible: int | None
    fallback: FallbackCode

    def __len__(self) -> int:
        return len(self.split)

    def fallback_bits(self) -> Float64[np.ndarray, " n"]:
        """Return the length of every unit in the fallback code, in bits."""
        return self.fallback.lengths(self.split, np.arange(len(self))) * UNIT

    def sample_size(self, bound_type: str) -> int:
        """Return n: the number of units, or of their tokens for a claim about tokens."""
        return int(self.split.lengths.sum()) if bound_type == "token_level" else len(self)

    def content_sha256(self) -> str:
        """Read the token file again, and return the hash of the units: see `Split.content_sha256`.

        Blocks hold tokens that are part of no document, end-of-text among them: their hash covers these too.

        Raises:
            CorpusError: the file has other documents than its index says.
        """
        if self.impossible is not None:
            return self.split.content_sha256()
        split = self.split
        return hash_documents(split.tokens, np.stack([split.starts, split.lengths, split.known_bytes()], axis=1))

    @property
    def n_symbols(self) -> int:
        """Number of tokens that can occur inside a unit."""
        return self.vocab_size - (self.impossible is not None)


def blocks(split: Split, block_size: int) -> Split:
    """Return the units of `block_size` successive tokens of the token file, as if they were documents.

    End-of-text is included. The first begins where the file begins, they do not overlap, and a remainder shorter than
    a block is left out. A block may begin and end inside a document, and its first token is predicted from the
    end-of-text token: a block is all that the model sees.

    Raises:
        CorpusError: the file is shorter than a block.
    """
    n = len(split.tokens) // block_size
    if not n:
        raise CorpusError(f"{split.path} has {len(split.tokens)} tokens, fewer than a block of {block_size}")
    return dataclasses.replace(
        split,
        starts=block_size * np.arange(n, dtype=np.int64),
        lengths=np.full(n, block_size, np.int64),
        # End-of-text is no byte, so bytes per block are no measure of its text.
        byte_lengths=None,
        min_tokens=block_size,
    )


def window_tokens(lengths: Integer[np.ndarray, " n"], block_size: int, stride: int) -> Int64[np.ndarray, " n"]:
    """Return how many tokens a model reads to score units of these lengths in windows that advance by `stride`."""
    later = np.maximum(0, -((block_size - lengths) // stride))
    return lengths + later * (block_size - stride)


def sample_units(corpus: Corpus, split: Split, bound_type: str, block_size: int) -> Units:
    """Return the units of a split of a corpus that a claim of some type is about.

    Args:
        corpus: vocabulary and shortest document.
        split: its training or held-out documents.
        bound_type: document_level, or sequence_level or token_level, which read blocks.
        block_size: tokens of a block.

    Raises:
        CorpusError: the file is shorter than a block.
        ValueError: an unknown type.
    """
    if bound_type not in BOUND_TYPES:
        raise ValueError(f"no claim is of the type {bound_type!r}: {', '.join(BOUND_TYPES)}")
    fallback = fallback_code(str(corpus.meta["tokenizer"]), corpus.vocab_size)
    if bound_type == "document_level":
        # A document's length is given, so end-of-text cannot occur inside it.
        return Units(split, corpus.vocab_size, corpus.min_tokens, split.eot_token, fallback)
    return Units(blocks(split, block_size), corpus.vocab_size, block_size, None, fallback)


def held_out_units(corpus: Corpus, bound_type: str, block_size: int) -> Units | None:
    """Return the units that held-out losses are reported on: of the test part where there is one, else of `val`.

    The test part has chosen nothing. None where there are none: no held-out documents, or fewer tokens than a block.
    """
    split = corpus.val if corpus.test is None else corpus.test
    if split is None or not len(split) or (bound_type != "document_level" and len(split.tokens) < block_size):
        return None
    return sample_units(corpus, split, bound_type, block_size)
