"""Measuring the losses of a model on units of text.

Suffixes: N scored tokens, V vocabulary, e width.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sublora.corpus.batches import pack_windows
from sublora.corpus.units import Units
from sublora.inequalities.smoothing import TOKEN_SMOOTHING_GRID
from sublora.scoring.scores import TOP_K, Scores

# Tokens whose logits exist at the same time in a thread: 1,024 x 50,257 float32 numbers are 206 MB. With fewer, the
# weights of the head are read more often. Losses are taken from a few rows at a time, which stay in the cache.
LOGIT_ROWS, LOSS_ROWS = 1024, 16
# A window is at least so long, as a share of the longest of its batch.
LEAST_FILLED = 0.875
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
) -> Scores:
    """Measure the losses of units, each from the end-of-text token as its first context.

    The model's distribution is renormalised over the tokens that can occur inside a unit, so the probabilities of all
    units of one length add up to 1. Units longer than the context are scored in windows; every token is predicted once.

    Batches are divided between threads, and each is computed by one thread alone: nothing waits for another thread
    inside a layer, and the result does not depend on how many there are.

    Args:
        model: a transformers causal language model in float32.
        units: what is scored.
        rows: indices of units, each scored once per occurrence.
        block_size, stride: context length, and new tokens per window.
        batch_size: windows per forward pass.
        keep_tokens: also return the bits of every token; the units must be of one length, at most block_size.
    """
    split, lengths = units.split, units.split.lengths[rows]
    sums = np.zeros((len(rows), _MISSES.stop))
    token_bits = np.zeros((len(rows), int(lengths[0]) if keep_tokens else 0), np.float32)
    batches = _batches(units, rows, block_size, stride, batch_size)
    for batch, losses in _map_threads(lambda batch: _score_batch(model, batch, units), batches):
        np.add.at(sums, batch.owners, losses)
        if keep_tokens:
            token_bits[batch.owners, batch.places] = losses[:, _BITS]
    return Scores(
        bits=sums[:, _BITS],
        lengths=lengths,
        byte_lengths=np.zeros_like(lengths) if split.byte_lengths is None else split.byte_lengths[rows],
        fallback=units.fallback.lengths(split, rows),
        smoothed=(sums[:, _SMOOTHED] / lengths[:, None]).astype(np.float32),
        misses=sums[:, _MISSES].astype(np.int64),
        token_bits=token_bits,
    )


@dataclass(frozen=True)
class _Batch:
    """Windows of about the same length: inputs, targets and which count; unit and place of each scored token."""

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    owners: np.ndarray
    places: np.ndarray


def _batches(units: Units, rows: np.ndarray, block_size: int, stride: int, batch_size: int) -> Iterator[_Batch]:
    packed = pack_windows(units.split, rows, block_size, stride)
    order = np.argsort(-packed.lengths, kind="stable")
    start = 0
    while start < len(order):
        width = int(packed.lengths[order[start]])
        # Windows come from long to short: those that would be mostly padding wait for the next batch.
        alike = packed.lengths[order[start : start + batch_size]] >= LEAST_FILLED * width
        chosen = order[start : start + int(alike.sum())]
        start += len(chosen)
        mask = packed.mask[chosen, :width]
        window, places = np.nonzero(mask)
        inputs, targets = packed.inputs[chosen, :width], packed.targets[chosen, :width]
        yield _Batch(inputs, targets, mask, packed.document[chosen][window], places)


def _map_threads(
    function: Callable[[_Batch], np.ndarray], batches: Iterator[_Batch]
) -> Iterator[tuple[_Batch, np.ndarray]]:
    """Apply a function to batches on as many threads as torch would use inside one; results come in order."""
    threads = torch.get_num_threads()
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
        torch.set_num_threads(threads)


@torch.inference_mode()
def _score_batch(model: nn.Module, batch: _Batch, units: Units) -> np.ndarray:
    """Return the columns of `token_losses`, a row per scored token."""
    device = next(model.parameters()).device
    mask = torch.from_numpy(batch.mask).to(device)
    inputs = torch.from_numpy(batch.inputs.astype(np.int64)).to(device)
    targets = torch.from_numpy(batch.targets.astype(np.int64)).to(device)[mask]
    hidden = model.base_model(input_ids=inputs, use_cache=False)[0][mask]  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    losses = []
    for row_hidden, row_targets in zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):
        logits = head(row_hidden)[:, : units.vocab_size].float()
        if units.impossible is not None:
            logits[:, units.impossible] = -math.inf
        pairs = zip(logits.split(LOSS_ROWS), row_targets.split(LOSS_ROWS), strict=True)
        losses += [token_losses(few_logits, few_targets, units.n_symbols) for few_logits, few_targets in pairs]
    return torch.cat(losses).cpu().numpy()


def token_losses(
    logits_NV: Float[Tensor, "N V"],
    targets_N: Int[Tensor, " N"],
    n_symbols: int,
    grid: Sequence[float] = TOKEN_SMOOTHING_GRID,
) -> Float[Tensor, "N columns"]:
    """Return, per token, its bits, its bits under token smoothing for each a, and whether it misses each top k.

    The rank of a token is the number of other tokens that are at least as probable.

    Args:
        logits_NV: -inf for a token that cannot occur.
        targets_N: the tokens that did.
        n_symbols: number of tokens that can occur.
        grid: values of a.
    """
    chosen = logits_NV.gather(1, targets_N[:, None])
    log_p = logits_NV.log_softmax(1).gather(1, targets_N[:, None]).double()
    # Adding up bytes is several times as fast as adding up booleans.
    rank = (logits_NV >= chosen).view(torch.uint8).sum(1, dtype=torch.int32) - 1
    a = torch.tensor(grid, dtype=torch.float64, device=log_p.device)
    smoothed = -torch.log2((1 - a) * log_p.exp() + a / n_symbols)
    misses = rank[:, None] >= torch.tensor(TOP_K, device=rank.device)
    return torch.cat([-log_p / math.log(2), smoothed, misses.double()], dim=1)
