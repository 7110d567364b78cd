"""Measuring the risk of a model on documents.

Suffixes: N scored tokens, V vocabulary, e width.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sublora.bounds.scores import TOP_K, Scores
from sublora.bounds.smoothing import TOKEN_SMOOTHING_GRID
from sublora.corpus.batches import pack_windows
from sublora.corpus.corpus import Split
from sublora.progress import progress

log = logging.getLogger(__name__)

# Tokens whose logits exist at the same time: 2,048 x 50,257 float32 numbers are 400 MB.
LOGIT_ROWS = 2048
# Documents that are cut into windows and sorted by length together.
DOCUMENTS_AT_ONCE = 1024


@torch.inference_mode()
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

    Args:
        model: a transformers causal language model in float32.
        split: the documents.
        documents: indices, each scored once per occurrence.
        eot_token, vocab_size: of the corpus; vocab_size includes the end-of-text token.
        block_size, stride: context length, and new tokens per window.
        batch_size: windows per forward pass.
        description: shown beside the progress bar.
    """
    total: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(Scores)}
    with progress(f"{description}, tokens", int(split.lengths[documents].sum())) as advance:
        for begin in range(0, len(documents), DOCUMENTS_AT_ONCE):
            part = documents[begin : begin + DOCUMENTS_AT_ONCE]
            sums = _score_part(model, split, part, eot_token, vocab_size, block_size, stride, batch_size, advance)
            lengths = split.lengths[part]
            total["byte_lengths"].append(
                np.zeros_like(lengths) if split.byte_lengths is None else split.byte_lengths[part]
            )
            total["bits"].append(sums[:, 0])
            total["lengths"].append(lengths)
            total["smoothed"].append(sums[:, 1 : 1 + len(TOKEN_SMOOTHING_GRID)] / lengths[:, None])
            total["errors"].append(sums[:, 1 + len(TOKEN_SMOOTHING_GRID) :] / lengths[:, None])
    return Scores(**{name: np.concatenate(parts) for name, parts in total.items()})


def _score_part(
    model: nn.Module,
    split: Split,
    documents: np.ndarray,
    eot_token: int,
    vocab_size: int,
    block_size: int,
    stride: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> Float[np.ndarray, "n columns"]:
    """Sums over the tokens of each document: bits, smoothed bits, errors."""
    packed = pack_windows(split, documents, block_size, stride)
    device = next(model.parameters()).device
    sums = np.zeros((len(documents), 1 + len(TOKEN_SMOOTHING_GRID) + len(TOP_K)))
    order = np.argsort(-packed.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = int(packed.lengths[rows[0]])
        inputs = torch.from_numpy(packed.inputs[rows, :width].astype(np.int64)).to(device)
        mask = torch.from_numpy(packed.mask[rows, :width]).to(device)
        targets = torch.from_numpy(packed.targets[rows, :width].astype(np.int64)).to(device)[mask]
        hidden = model.base_model(input_ids=inputs, use_cache=False)[0][mask]  # type: ignore[operator]
        losses = torch.cat(
            [
                token_losses(
                    _logits(model, hidden[i : i + LOGIT_ROWS], vocab_size), targets[i : i + LOGIT_ROWS], eot_token
                )
                for i in range(0, len(targets), LOGIT_ROWS)
            ]
        )
        owner = np.repeat(packed.document[rows], packed.mask[rows, :width].sum(1))
        np.add.at(sums, owner, losses.cpu().numpy())
        advance(len(targets))
    return sums


def _logits(model: nn.Module, hidden: Float[Tensor, "N e"], vocab_size: int) -> Float[Tensor, "N V"]:
    return model.get_output_embeddings()(hidden)[:, :vocab_size].float()  # type: ignore[operator]


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
