"""Measuring the losses of a model on units of text.

Suffixes: N scored tokens, V vocabulary, e width.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from sublora.corpus.batches import PackedWindows, pack_windows
from sublora.corpus.units import Units
from sublora.errors import ConfigError
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID
from sublora.nn.packed import PrefixReader, check_context, packed_attention, packs, read_plainly
from sublora.scoring.scores import TOP_K, Scores


@dataclass(frozen=True)
class Pace:
    """How much of a scoring is done at a time; every pace gives the same losses, but for their last digits.

    threads: that compute batches side by side; None: as many as torch would use inside one.
    logit_rows: tokens whose logits exist at the same time in a thread. With fewer, the head is read more often.
    loss_logits: logits that losses are taken from at a time.
    """

    threads: int | None
    logit_rows: int
    loss_logits: int


# 512 x 50,257 float32 numbers are 103 MB, and losses are taken from so many that they stay in the cache.
CPU = Pace(None, 512, 1 << 19)
# A device is one: it takes large pieces, one after the other. 4,096 x 50,257 numbers are 823 MB.
DEVICE = Pace(1, 4096, 1 << 28)
NO_PROMPT = np.zeros(0, np.int64)
# Units that are read again without their end, tokens before the cut that are compared, and by how many nats they may
# differ: rounding.
CUT_UNITS, CUT_TOKENS, CUT_TOLERANCE = 4, 32, 1e-2
NOT_CAUSAL = (
    "the model reads tokens before it predicts them, so what it says is no probability: take a causal language model "
    "(of BERT and its like, one whose configuration says is_decoder)"
)
_BITS, _SMOOTHED = 0, slice(1, 1 + len(TOKEN_SMOOTHING_GRID))
_MISSES = slice(1 + len(TOKEN_SMOOTHING_GRID), 1 + len(TOKEN_SMOOTHING_GRID) + len(TOP_K))


def score_units(
    model: nn.Module,
    units: Units,
    rows: Int[np.ndarray, " n"],
    *,
    block_size: int,
    stride: int,
    batch_size: int,
    keep_tokens: bool = False,
    rank_margin: float = 0.0,
    prompt: Integer[np.ndarray, " p"] = NO_PROMPT,
    read: Callable[[int], None] = lambda tokens: None,
) -> Scores:
    """Measure the losses of units, each from the end-of-text token as its first context.

    The model's distribution is renormalised over the tokens that can occur inside a unit, so the probabilities of all
    units of one length add up to 1. Units longer than the context are scored in windows; every token is predicted once.

    A prompt stands before every window: the model reads prompt, end-of-text and unit, or, in a later window, prompt and
    window, as if the window stood right behind the prompt. Its keys and values are computed once.

    On a processor, batches are divided between threads, and each is computed by one thread alone: nothing waits for
    another thread inside a layer, and the result does not depend on how many there are.

    Args:
        model: a transformers causal language model in float32.
        units: what is scored.
        rows: indices of units, each scored once per occurrence.
        block_size: context length.
        stride: new tokens per window.
        batch_size: windows per forward pass.
        keep_tokens: also return the bits of every token; the units must be of one length, at most block_size.
        rank_margin: a token counts as missed if another logit is at least its own minus this.
        prompt: tokens that stand before the end-of-text token that every unit begins behind; may be none.
        read: is told after every batch how many tokens the model has read in it.

    Raises:
        ConfigError: prompt and block are together longer than the model's context, or the model reads tokens before it
            predicts them.
    """
    check_context(model, len(prompt), block_size)
    split, lengths = units.split, units.split.lengths[rows]
    pace = CPU if next(model.parameters()).device.type == "cpu" else DEVICE
    sums = np.zeros((len(rows), _MISSES.stop))
    token_bits = np.zeros((len(rows), int(lengths[0]) if keep_tokens else 0), np.float32)
    # Modes of torch are a thread's own: each batch sets its own in its thread.
    with packed_attention(model), torch.inference_mode():  # type: ignore[arg-type]
        _require_causal(model, units, rows, block_size)
        readers = _readers(model, prompt, split.eot_token)
        batches = _batches(units, rows, block_size, stride, batch_size)
        for batch, losses in _map_threads(
            lambda batch: _score_batch(model, readers, batch, units, rank_margin, pace), batches, pace.threads
        ):
            np.add.at(sums, batch.owners, losses)
            read(sum(batch.lengths))
            if keep_tokens:
                token_bits[batch.owners, batch.places] = losses[:, _BITS]
    return Scores(
        bits=sums[:, _BITS],
        lengths=lengths,
        byte_lengths=np.zeros_like(lengths) if split.byte_lengths is None else split.byte_lengths[rows],
        known=np.zeros(len(rows)),
        base_bits=np.zeros((len(rows), 0)),
        smoothed=(sums[:, _SMOOTHED] / lengths[:, None]).astype(np.float32),
        misses=sums[:, _MISSES].astype(np.int64),
        token_bits=token_bits,
    )


def _require_causal(model: nn.Module, units: Units, rows: Int[np.ndarray, " n"], block_size: int) -> None:
    """Check that what a model predicts of the beginning of a unit does not depend on its end: else it is no code.

    Packed attention is ours and sees nothing ahead. Of architectures that transformers has for masked tokens too, the
    configuration has to say that this one is a decoder, whose attention is masked. And all others are asked about some
    of the very units that are measured, each cut at another share of its length: who reads the next token is found at
    the token before the cut.

    Raises:
        ConfigError: it does.
    """
    if packs(model) or not len(rows):  # type: ignore[arg-type]
        return
    config: Any = model.config
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise ConfigError(NOT_CAUSAL)
    head, device = model.get_output_embeddings(), next(model.parameters()).device  # type: ignore[operator]
    few = rows[np.linspace(0, len(rows) - 1, CUT_UNITS).astype(np.int64)]
    for i, row in enumerate(few):
        unit = torch.from_numpy(units.split.document(int(row))[:block_size].astype(np.int64)).to(device)
        cut = int(len(unit) * (i + 0.5) / CUT_UNITS)
        some = slice(max(0, cut - CUT_TOKENS), cut)
        targets = unit[1 : cut + 1][some, None]
        whole, begun = (
            head(read_plainly(model, unit[:end], 0, [end])[some]).float().log_softmax(1).gather(1, targets)  # type: ignore[arg-type]
            for end in (len(unit), max(cut, 1))
        )
        # A NaN is refused where units are scored.
        if bool(((whole - begun).abs() > CUT_TOLERANCE).any()):
            raise ConfigError(NOT_CAUSAL)


def _readers(model: nn.Module, prompt: np.ndarray, eot_token: int) -> tuple[PrefixReader, PrefixReader]:
    """What reads the first windows of units, which begin behind end-of-text, and what reads the later ones."""
    device = next(model.parameters()).device
    before = torch.from_numpy(prompt.astype(np.int64)).to(device)
    begin = torch.cat([before, torch.tensor([eot_token], device=device)])
    return PrefixReader(model, begin), PrefixReader(model, before)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Batch:
    """Windows, all the first of their unit or all later ones, one behind the other.

    inputs: tokens to read after the prefix: of a first window without end-of-text.
    lengths: inputs of each window.
    scored: which inputs predict a token that counts.
    targets: those tokens. Before them, those that the prefix predicts: the first of every first window.
    owners, places: unit and place in its window of each target.
    first: whether they are first windows.
    """

    inputs: np.ndarray
    lengths: list[int]
    scored: np.ndarray
    targets: np.ndarray
    owners: np.ndarray
    places: np.ndarray
    first: bool


def _batches(units: Units, rows: np.ndarray, block_size: int, stride: int, batch_size: int) -> Iterator[_Batch]:
    packed = pack_windows(units.split, rows, block_size, stride)
    later = np.concatenate([[False], packed.document[1:] == packed.document[:-1]])
    # Windows of one length are computed together.
    order = np.lexsort((-packed.lengths, later))
    n_first = int((~later).sum())
    for first, some in ((True, order[:n_first]), (False, order[n_first:])):
        for start in range(0, len(some), batch_size):
            yield _batch(packed, some[start : start + batch_size], first)


def _batch(packed: PackedWindows, chosen: np.ndarray, first: bool) -> _Batch:
    skipped = int(first)
    lengths, document, mask = packed.lengths[chosen], packed.document[chosen], packed.mask[chosen, skipped:]
    real = np.arange(skipped, packed.mask.shape[1]) < lengths[:, None]
    row, column = np.nonzero(mask)
    targets = packed.targets[chosen]
    by_prefix = targets[:, 0] if first else targets[:0, 0]
    n = len(by_prefix)
    return _Batch(
        inputs=packed.inputs[chosen, skipped:][real].astype(np.int64),
        lengths=(lengths - skipped).tolist(),
        scored=mask[real],
        targets=np.concatenate([by_prefix, targets[:, skipped:][mask]]).astype(np.int64),
        owners=np.concatenate([document[:n], document[row]]),
        places=np.concatenate([np.zeros(n, np.int64), column + skipped]),
        first=first,
    )


def _map_threads(
    function: Callable[[_Batch], np.ndarray], batches: Iterator[_Batch], count: int | None
) -> Iterator[tuple[_Batch, np.ndarray]]:
    """Apply a function to batches on so many threads, or as many as torch would use inside one; in order."""
    before = torch.get_num_threads()
    threads = count or before
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[tuple[_Batch, Future[np.ndarray]]] = deque()
            for batch in batches:
                waiting.append((batch, pool.submit(function, batch)))
                # A bounded queue: losses wait for their turn, logits never do.
                if len(waiting) > 2 * threads:
                    done, result = waiting.popleft()
                    yield done, result.result()
            for done, result in waiting:
                yield done, result.result()
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _score_batch(
    model: nn.Module,
    readers: tuple[PrefixReader, PrefixReader],
    batch: _Batch,
    units: Units,
    rank_margin: float,
    pace: Pace,
) -> np.ndarray:
    """Return the columns of `token_losses`, a row per target."""
    reader = readers[0] if batch.first else readers[1]
    device = next(model.parameters()).device
    hidden = reader.read(torch.from_numpy(batch.inputs).to(device), batch.lengths)
    hidden = hidden[torch.from_numpy(batch.scored).to(device)]
    targets = torch.from_numpy(batch.targets).to(device)
    if reader.last is not None:
        hidden = torch.cat([reader.last.expand(len(targets) - len(hidden), -1), hidden])
    head = model.get_output_embeddings()  # type: ignore[operator]
    losses = []
    for row_hidden, row_targets in zip(hidden.split(pace.logit_rows), targets.split(pace.logit_rows), strict=True):
        logits = head(row_hidden)[:, : units.vocab_size].float()
        if units.impossible is not None:
            logits[:, units.impossible] = -math.inf
        few_rows = max(1, pace.loss_logits // logits.shape[1])
        pairs = zip(logits.split(few_rows), row_targets.split(few_rows), strict=True)
        losses += [token_losses(few, wanted, units.n_symbols, rank_margin=rank_margin) for few, wanted in pairs]
    return torch.cat(losses).cpu().numpy()


def token_losses(
    logits_NV: Float[Tensor, "N V"],
    targets_N: Int[Tensor, " N"],
    n_symbols: int,
    grid: Sequence[float] = TOKEN_SMOOTHING_GRID,
    rank_margin: float = 0.0,
) -> Float[Tensor, "N columns"]:
    """Return, per token, its bits, its bits under token smoothing for each a, and whether it misses each top k.

    The rank of a token is the number of other tokens whose logit is at least its own minus the margin.

    Args:
        logits_NV: -inf for a token that cannot occur.
        targets_N: the tokens that did.
        n_symbols: number of tokens that can occur.
        grid: values of a.
        rank_margin: 0 counts exact ties against the model, more counts near ties too.
    """
    chosen = logits_NV.gather(1, targets_N[:, None])
    log_p = logits_NV.log_softmax(1).gather(1, targets_N[:, None]).double()
    # Adding up bytes is several times as fast as adding up booleans.
    rank = (logits_NV >= chosen - rank_margin).view(torch.uint8).sum(1, dtype=torch.int32) - 1
    a = torch.tensor(grid, dtype=torch.float64, device=log_p.device)
    smoothed = -torch.log2((1 - a) * log_p.exp() + a / n_symbols)
    misses = rank[:, None] >= torch.tensor(TOP_K, device=rank.device)
    return torch.cat([-log_p / math.log(2), smoothed, misses.double()], dim=1)
