"""Measuring the risk of a model on documents.

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

from sublora.bounds.scores import TOP_K, Scores
from sublora.bounds.smoothing import TOKEN_SMOOTHING_GRID
from sublora.corpus.batches import pack_windows
from sublora.corpus.corpus import Split
from sublora.progress import progress

# Tokens whose logits exist at the same time: 2,048 x 50,257 float32 numbers are 400 MB.
LOGIT_ROWS = 2048
# Documents that are cut into windows and sorted by length together.
DOCUMENTS_AT_ONCE = 1024


def score_documents(
    model: nn.Module,
    split: Split,
    documents: Int[np.ndarray, " n"],
    *,
    eot_token: int,
    vocab_size: int,
    block_size: int,
    stride: int,
    batch_size: int,
    description: str = "scoring",
) -> Scores:
    """Measure the losses of documents, each from the end-of-text token as its first context.

    A document's length is given, so the end-of-text token cannot occur inside it: the model's distribution is
    renormalised over the other vocab_size - 1 tokens, and the probabilities of all documents of one length add up to 1.
    Documents longer than the context are scored in windows; every token is predicted once.

    Batches are divided between threads, and each is computed by one thread alone: nothing waits for another thread
    inside a layer, and the result does not depend on how many there are.

    Args:
        model: a transformers causal language model in float32.
        split: the documents.
        documents: indices, each scored once per occurrence.
        eot_token, vocab_size: of the corpus; vocab_size includes the end-of-text token.
        block_size, stride: context length, and new tokens per window.
        batch_size: windows per forward pass.
        description: shown beside the progress bar.
    """
    sums = np.zeros((len(documents), 1 + len(TOKEN_SMOOTHING_GRID) + len(TOP_K)))
    batches = _batches(split, documents, block_size, stride, batch_size)
    with progress(f"{description}, tokens", int(split.lengths[documents].sum())) as advance:
        for owners, losses in _map_threads(lambda batch: _score_batch(model, batch, eot_token, vocab_size), batches):
            np.add.at(sums, owners, losses)
            advance(len(owners))
    lengths = split.lengths[documents]
    return Scores(
        bits=sums[:, 0],
        lengths=lengths,
        byte_lengths=np.zeros_like(lengths) if split.byte_lengths is None else split.byte_lengths[documents],
        smoothed=sums[:, 1 : 1 + len(TOKEN_SMOOTHING_GRID)] / lengths[:, None],
        errors=sums[:, 1 + len(TOKEN_SMOOTHING_GRID) :] / lengths[:, None],
    )


@dataclass(frozen=True)
class _Batch:
    """Windows of about the same length: inputs, targets and which of them count, and each scored token's document."""

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    owners: np.ndarray


def _batches(split: Split, documents: np.ndarray, block_size: int, stride: int, batch_size: int) -> Iterator[_Batch]:
    for begin in range(0, len(documents), DOCUMENTS_AT_ONCE):
        packed = pack_windows(split, documents[begin : begin + DOCUMENTS_AT_ONCE], block_size, stride)
        order = np.argsort(-packed.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = int(packed.lengths[rows[0]])
            mask = packed.mask[rows, :width]
            owners = begin + np.repeat(packed.document[rows], mask.sum(1))
            yield _Batch(packed.inputs[rows, :width], packed.targets[rows, :width], mask, owners)


def _map_threads(
    function: Callable[[_Batch], tuple[np.ndarray, np.ndarray]], batches: Iterator[_Batch]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Apply a function to batches on as many threads as torch would use inside one; results come in order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                # A bounded queue: windows of a large corpus are cut as they are needed.
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _score_batch(model: nn.Module, batch: _Batch, eot_token: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the document of each scored token, and its columns of `token_losses`."""
    device = next(model.parameters()).device
    mask = torch.from_numpy(batch.mask).to(device)
    inputs = torch.from_numpy(batch.inputs.astype(np.int64)).to(device)
    targets = torch.from_numpy(batch.targets.astype(np.int64)).to(device)[mask]
    hidden = model.base_model(input_ids=inputs, use_cache=False)[0][mask]  # type: ignore[operator]
    head = model.get_output_embeddings()  # type: ignore[operator]
    losses = [
        token_losses(head(rows)[:, :vocab_size].float(), row_targets, eot_token)
        for rows, row_targets in zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
    ]
    return batch.owners, torch.cat(losses).cpu().numpy()


def token_losses(
    logits_NV: Float[Tensor, "N V"],
    targets_N: Int[Tensor, " N"],
    eot_token: int,
    grid: Sequence[float] = TOKEN_SMOOTHING_GRID,
) -> Float[Tensor, "N columns"]:
    """Return, per token, its bits, its bits under token smoothing for each a, and whether it misses each top k.

    The rank of a token is the number of other tokens that are at least as probable.
    """
    if eot_token < logits_NV.shape[1]:
        logits_NV = logits_NV.clone()
        logits_NV[:, eot_token] = -math.inf
    chosen = logits_NV.gather(1, targets_N[:, None])
    log_p = chosen[:, 0].double() - logits_NV.logsumexp(1).double()
    rank = (logits_NV >= chosen).sum(1) - 1
    n_tokens = logits_NV.shape[1] - (eot_token < logits_NV.shape[1])
    a = torch.tensor(grid, dtype=torch.float64, device=log_p.device)
    smoothed = -torch.log2((1 - a) * log_p.exp()[:, None] + a / n_tokens)
    misses = rank[:, None] >= torch.tensor(TOP_K, device=rank.device)
    return torch.cat([-log_p[:, None] / math.log(2), smoothed, misses.double()], dim=1)
