"""Cutting tokens: what is trained on, and sliding windows that predict every token of a document once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, UInt

from sublora.config import BATCHINGS
from sublora.corpus.corpus import Split
from sublora.errors import ConfigError, CorpusError


def sample_batch(
    split: Split, rng: np.random.Generator, batch_size: int, block_size: int, perturb_window: int = 0
) -> tuple[Int64[np.ndarray, "batch block"], Int64[np.ndarray, "batch block"]]:
    """Return inputs and targets of random crops of the token stream, documents one after the other.

    Args:
        split: where the crops come from.
        rng: the stream that chooses them.
        batch_size: number of crops.
        block_size: tokens of a crop.
        perturb_window: shuffle the crops inside windows of this size, see `perturb_word_order`.

    Raises:
        CorpusError: the split is shorter than a crop.
    """
    n_starts = len(split.tokens) - block_size
    if n_starts < 1:
        raise CorpusError(f"{split.path} has {len(split.tokens)} tokens, too few for data.block_size={block_size}")
    starts = rng.integers(0, n_starts, size=batch_size)
    crops = split.tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
    crops = perturb_word_order(crops, perturb_window, rng)
    return crops[:, :-1], crops[:, 1:]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens to predict, one behind the other, each as if it stood alone behind the same prefix.

    The loss is the sum of weights times nats.

    Attributes:
        prefix: tokens that every row sees first; none for crops.
        inputs: tokens that are read after the prefix.
        lengths: inputs of each row.
        targets: first the tokens that the prefix predicts, one for each row unless there is no prefix, then those that
            the inputs predict.
        weights: of the targets.
        counted: where the targets stand among all that prefix and inputs predict; None: these are all of it.
    """

    prefix: Int64[np.ndarray, " prefix"]
    inputs: Int64[np.ndarray, " inputs"]
    lengths: Int64[np.ndarray, " rows"]
    targets: Int64[np.ndarray, " targets"]
    weights: Float32[np.ndarray, " targets"]
    counted: Int64[np.ndarray, " targets"] | None = None


@dataclass(frozen=True)
class Batches:
    """What a split is trained on: crops of its token stream, or documents as they are scored.

    crops: the loss is the mean over tokens of bits per token. documents: drawn uniformly with replacement, each behind
    the prompt and the end-of-text token, cut to the block size; the loss is the mean over documents of bits per byte,
    or of bits per token where the bytes are not known. So every document counts as much as any other, as in a claim.
    labels: documents too, but the loss is the mean over documents of the bits of their last token, which is the label.

    Attributes:
        split: training text.
        block_size: tokens per row, at most.
        batching: "crops", "documents" or "labels".
        prompt: tokens that stand before the end-of-text token that every document begins behind.
        perturb_window: see `perturb_word_order`.

    Raises:
        ConfigError: another batching, a prompt before crops, or labels behind texts that are cut or shuffled.
    """

    split: Split
    block_size: int
    batching: str = "crops"
    prompt: Int64[np.ndarray, " prompt"] = field(default_factory=lambda: np.zeros(0, np.int64))
    perturb_window: int = 0

    def __post_init__(self) -> None:
        if self.batching not in BATCHINGS:
            raise ConfigError(f"data.batching={self.batching} is not known: {', '.join(BATCHINGS)}")
        if self.batching == "crops" and len(self.prompt):
            raise ConfigError("a prompt stands before documents, and crops are none: set data.batching=documents")
        if self.batching == "labels":
            self._check_labels()

    def _check_labels(self) -> None:
        if self.perturb_window > 1:
            raise ConfigError("words are not shuffled before a label: set data.perturb_word_order_window_size=0")
        if (longest := int(self.split.lengths.max(initial=0))) > self.block_size:
            raise ConfigError(
                f"a document of {longest} tokens would lose its label: set data.block_size to {longest} or more"
            )

    @property
    def unit(self) -> str:
        """What the loss is in: bits per token, byte or label."""
        if self.batching == "labels":
            return "bits per label"
        by_bytes = self.batching == "documents" and self.split.byte_lengths is not None
        return "bits per byte" if by_bytes else "bits per token"

    @property
    def enough(self) -> bool:
        """Whether the split holds anything to draw."""
        return len(self.split) > 0 if self.batching != "crops" else len(self.split.tokens) > self.block_size

    def sample(self, rng: np.random.Generator, n: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Return n rows, or the share of them that one of several processes computes.

        Args:
            rng: the stream that chooses them.
            n: rows of all processes together.
            part: (k, m) for process k of m: its rows are k, k + m, ...; the mean of the processes' losses is the loss.

        Raises:
            CorpusError: the split is shorter than a crop.
        """
        rank, world = part
        if self.batching == "crops":
            x, y = sample_batch(self.split, rng, n, self.block_size, self.perturb_window)
            x, y = x[rank::world], y[rank::world]
            weights = np.full(y.size, world / (n * self.block_size), np.float32)
            lengths = np.full(len(x), self.block_size)
            return Batch(self.prompt, x.flatten(), lengths, y.flatten(), weights)
        chosen = sample_documents(self.split, rng, n, self.block_size, self.perturb_window)
        return self._documents([(i, tokens) for i, tokens in chosen[rank::world]], world / n)

    def _documents(self, documents: list[tuple[int, Int64[np.ndarray, " _"]]], share: float) -> Batch:
        numbers = np.array([i for i, _ in documents], np.int64)
        rows = [tokens for _, tokens in documents]
        lengths = np.array([len(row) for row in rows])
        prefix, inputs = np.append(self.prompt, np.int64(self.split.eot_token)), np.concatenate([r[:-1] for r in rows])
        if self.batching == "labels":
            last = np.array([row[-1] for row in rows], np.int64)
            counted = len(rows) + np.cumsum(lengths - 1) - 1
            return Batch(prefix, inputs, lengths - 1, last, np.full(len(rows), share, np.float32), counted)
        # A document that is cut has as many bytes per token as the whole of it.
        per_token = np.ones(len(rows))
        if self.split.byte_lengths is not None:
            per_token = self.split.lengths[numbers] / self.split.byte_lengths[numbers]
        weights = share * per_token / lengths
        return Batch(
            prefix=prefix,
            inputs=inputs,
            lengths=lengths - 1,
            targets=np.concatenate([[row[0] for row in rows], *(row[1:] for row in rows)]).astype(np.int64),
            weights=np.concatenate([weights, np.repeat(weights, lengths - 1)]).astype(np.float32),
        )


def sample_documents(
    split: Split, rng: np.random.Generator, batch_size: int, block_size: int, perturb_window: int = 0
) -> list[tuple[int, Int64[np.ndarray, " _"]]]:
    """Return documents drawn uniformly with replacement, each with its number, cut to the block size.

    Args:
        split: where they come from.
        rng: the stream that chooses them.
        batch_size: number of documents.
        block_size: most tokens of a document.
        perturb_window: shuffle the documents inside windows of this size, see `perturb_word_order`.
    """
    numbers = rng.integers(0, len(split), size=batch_size)
    cut = [split.document(int(i))[:block_size].astype(np.int64) for i in numbers]
    return [(int(i), perturb_word_order(row, perturb_window, rng)) for i, row in zip(numbers, cut, strict=True)]


def perturb_word_order(
    tokens: Integer[np.ndarray, "*batch length"], window: int, rng: np.random.Generator
) -> Integer[np.ndarray, "*batch length"]:
    """Return the tokens, shuffled inside consecutive windows of a given size (the last may be shorter).

    It measures how much a model owes to word order (Lotfi et al. 2024, "Unlocking tokens as data points").

    Args:
        tokens: shuffled along the last axis.
        window: 0 and 1 keep the order; the length or more shuffles everything.
        rng: the stream of the shuffles.
    """
    if window <= 1:
        return tokens
    length = tokens.shape[-1]
    whole = length - length % window
    blocks = tokens[..., :whole].reshape(*tokens.shape[:-1], -1, window)
    head = rng.permuted(blocks, axis=-1).reshape(*tokens.shape[:-1], whole)
    return np.concatenate([head, rng.permuted(tokens[..., whole:], axis=-1)], axis=-1)


def windows(
    document: Integer[np.ndarray, " length"], eot_token: int, block_size: int, stride: int
) -> Iterator[tuple[Integer[np.ndarray, " width"], Integer[np.ndarray, " width"], int]]:
    """Yield the windows that predict every token of a document exactly once.

    The first token is predicted from the end-of-text token. The first window predicts `block_size` tokens; each later
    one predicts up to `stride` new tokens from at least `block_size - stride` tokens before them.

    Args:
        document: its tokens, without end-of-text.
        eot_token: the context of the first token.
        block_size: tokens that the model reads at once.
        stride: new tokens per window, at most `block_size`.

    Yields:
        (inputs, targets, n_context): the first `n_context` targets were predicted by an earlier window.

    Raises:
        ConfigError: the stride is not between 1 and the block size.
    """
    _check_stride(block_size, stride)
    inputs = np.concatenate([np.array([eot_token], document.dtype), document[:-1]])
    for k in range(int(_n_windows(np.array([len(document)]), block_size, stride)[0])):
        cut = slice(k * stride, k * stride + block_size)
        yield inputs[cut], document[cut], block_size - stride if k else 0


class PackedWindows(NamedTuple):
    """The windows of several documents, padded on the right to the longest.

    Attributes:
        inputs: padded with the end-of-text token.
        targets: padded with the end-of-text token.
        mask: which targets count: each token of each document once, no padding.
        document: for each window, the position of its document in the list that was asked for.
        lengths: tokens of each window before the padding.
    """

    inputs: UInt[np.ndarray, "windows block"]
    targets: UInt[np.ndarray, "windows block"]
    mask: Bool[np.ndarray, "windows block"]
    document: Int64[np.ndarray, " windows"]
    lengths: Int64[np.ndarray, " windows"]


def pack_windows(split: Split, documents: Integer[np.ndarray, " n"], block_size: int, stride: int) -> PackedWindows:
    """Return the windows of `windows` for many documents at once.

    Args:
        split: where the documents are.
        documents: their indices; one may occur more than once.
        block_size: most tokens of a window.
        stride: new tokens of a later window.

    Raises:
        ConfigError: the stride is not between 1 and the block size.
    """
    _check_stride(block_size, stride)
    lengths = split.lengths[documents]
    n_windows = _n_windows(lengths, block_size, stride)
    document = np.repeat(np.arange(len(documents)), n_windows)
    number = np.arange(len(document)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    first = number * stride
    width = np.minimum(lengths[document] - first, block_size)
    start = split.starts[documents][document] + first

    # No window is wider than its document, however long the context is.
    column = np.arange(width.max(initial=1))
    real = column < width[:, None]
    targets = split.tokens[np.minimum(start[:, None] + column, len(split.tokens) - 1)]
    targets[~real] = split.eot_token
    inputs = np.empty_like(targets)
    inputs[:, 0] = np.where(number == 0, split.eot_token, split.tokens[start - 1])
    inputs[:, 1:] = targets[:, :-1]
    inputs[~real] = split.eot_token
    n_context = np.where(number == 0, 0, block_size - stride)
    return PackedWindows(inputs, targets, real & (column >= n_context[:, None]), document, width)


def _n_windows(lengths: Integer[np.ndarray, " n"], block_size: int, stride: int) -> Integer[np.ndarray, " n"]:
    return 1 + np.maximum(0, -((block_size - lengths) // stride))


def _check_stride(block_size: int, stride: int) -> None:
    if not 1 <= stride <= block_size:
        raise ConfigError(f"the stride is {stride}, but must be between 1 and the block size {block_size}")
