"""The training loss: cross-entropy of next tokens whose logits are never all there at the same time.

Shape suffixes: N tokens, V vocabulary, e width, r rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sublora.corpus.batches import Batch
from sublora.nn.called import call_with, places
from sublora.nn.lora import ADAPTER, LoraLinear
from sublora.nn.packed import Layout, packed_attention, packs, read, read_plainly
from sublora.nn.subspace import SubspaceModule

# Logits that exist at the same time: 64 MB of float32.
LOGITS_AT_ONCE = 1 << 24


class _HeadCrossEntropy(torch.autograd.Function):
    """The loss and its gradients in one pass over chunks of tokens, so that no chunk's logits outlive it.

    The gradient of the mean is a fixed multiple of what is computed here, whatever is done with the loss later.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_Ne: Tensor,
        weight_Ve: Tensor,
        low_Nr: Tensor,
        up_Vr: Tensor,
        targets_N: Tensor,
        weights_N: Tensor | None,
    ) -> Tensor:
        needs = ctx.needs_input_grad
        weight_Ve, up_Vr = weight_Ve.to(hidden_Ne.dtype), up_Vr.to(hidden_Ne.dtype)
        low_Nr = low_Nr.to(hidden_Ne.dtype)
        grads = [
            torch.zeros_like(t, dtype=torch.float32 if at else t.dtype) if needed else None
            for at, (t, needed) in enumerate(zip((hidden_Ne, weight_Ve, low_Nr, up_Vr), needs, strict=False))
        ]
        grad_hidden, grad_weight, grad_low, grad_up = grads
        total = hidden_Ne.new_zeros((), dtype=torch.float32)
        for rows in _chunks(len(targets_N), len(weight_Ve)):
            hidden, low, targets = hidden_Ne[rows], low_Nr[rows], targets_N[rows]
            logits = _logits(hidden, weight_Ve, low, up_Vr).float()
            total += _sum_of_losses(logits, targets, weights_N, rows)
            logits = torch.softmax(logits, 1, out=logits)
            logits[torch.arange(len(targets), device=logits.device), targets] -= 1
            error = logits.div_(len(targets_N)) if weights_N is None else logits.mul_(weights_N[rows, None])
            error = error.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(error, weight_Ve, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += error.t() @ hidden
            if grad_low is not None:
                grad_low[rows] = (error @ up_Vr).float()
            if grad_up is not None:
                grad_up += error.t() @ low
        ctx.save_for_backward(*grads)
        return total / len(targets_N) if weights_N is None else total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        return (*(None if grad is None else grad * scale for grad in ctx.saved_tensors), None, None)


def _sum_of_losses(logits: Tensor, targets: Tensor, weights_N: Tensor | None, rows: slice) -> Tensor:
    if weights_N is None:
        return F.cross_entropy(logits, targets, reduction="sum")
    return F.cross_entropy(logits, targets, reduction="none") @ weights_N[rows]


def _chunks(n_tokens: int, vocab_size: int) -> list[slice]:
    step = max(1, LOGITS_AT_ONCE // vocab_size)
    return [slice(start, start + step) for start in range(0, n_tokens, step)]


def _logits(
    hidden_Ne: Float[Tensor, "N e"], weight_Ve: Float[Tensor, "V e"], low_Nr: Float[Tensor, "N r"], up_Vr: Tensor
) -> Float[Tensor, "N V"]:
    return (hidden_Ne @ weight_Ve.t()).addmm_(low_Nr, up_Vr.t())


def head_cross_entropy(
    hidden_Ne: Float[Tensor, "N e"],
    weight_Ve: Float[Tensor, "V e"],
    low_Nr: Float[Tensor, "N r"],
    up_Vr: Float[Tensor, "V r"],
    targets_N: Int[Tensor, " N"],
    weights_N: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean (or weighted sum) of the cross-entropies in nats, differentiable in the first four arguments.

    The logits are `hidden weight^T + low up^T`.

    Without gradients only a chunk of logits exists at a time; with them the gradient of every chunk is formed beside
    its loss, so nothing is computed twice (Hsu et al. 2024, "Liger kernel", section 3.2).

    Args:
        hidden_Ne: final hidden states, in the precision that the products are computed in.
        weight_Ve: the output head.
        low_Nr: what LoRA on the head reads of the hidden states; r may be 0.
        up_Vr: how that is added to the logits.
        targets_N: next tokens.
        weights_N: of the tokens' losses, which are added up; None for their mean.
    """
    if torch.is_grad_enabled():
        return _HeadCrossEntropy.apply(hidden_Ne, weight_Ve, low_Nr, up_Vr, targets_N, weights_N)
    weight_Ve, up_Vr, low_Nr = (t.to(hidden_Ne.dtype) for t in (weight_Ve, up_Vr, low_Nr))
    sums = [
        _sum_of_losses(
            _logits(hidden_Ne[rows], weight_Ve, low_Nr[rows], up_Vr).float(), targets_N[rows], weights_N, rows
        )
        for rows in _chunks(len(targets_N), len(weight_Ve))
    ]
    total = torch.stack(sums).sum()
    return total / len(targets_N) if weights_N is None else total


@dataclass(frozen=True)
class Rows:
    """Rows behind a prefix of at least one token: its tokens, those of each row, where they stand, and which of what
    they predict is asked for (None: all).
    """

    prefix: int
    lengths: list[int]
    layout: Layout
    counted: Tensor | None = None


def hidden_states(model: Any, input_ids: Int[Tensor, "*shape"], rows: Rows | None) -> Float[Tensor, "n e"]:
    """Return the final hidden states that predict the targets of a batch, one for each.

    Args:
        model: a causal language model of transformers; inside `packed_attention` if there are rows.
        input_ids: rows of one length without a prefix, or prefix and rows one behind the other.
        rows: what stands where, in the second case.
    """
    if rows is None:
        return model.base_model(input_ids=input_ids, use_cache=False)[0].flatten(0, 1)
    if packs(model):
        hidden = read(model, input_ids, rows.layout)
    else:
        hidden = read_plainly(model, input_ids, rows.prefix, rows.lengths)
    hidden = torch.cat([hidden[rows.prefix - 1].expand(len(rows.lengths), -1), hidden[rows.prefix :]])
    return hidden if rows.counted is None else hidden[rows.counted]


class NextTokenLoss(nn.Module):
    """A causal language model of transformers, with or without PEFT's adapter, as a function of text to its loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        input_ids: Int[Tensor, "*shape"],
        targets: Int[Tensor, "*targets"],
        weights: Float[Tensor, "*targets"] | None = None,
        rows: Rows | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of the targets in nats, or its sum with weights.

        Args:
            input_ids: tokens, see `hidden_states`.
            targets: next tokens; first those that a prefix predicts.
            weights: of the targets' losses, which are added up; None for their mean.
            rows: that lie packed in the tokens, see `hidden_states`.
        """
        model = transformer(self.net)
        hidden = hidden_states(model, input_ids, rows)
        head = model.get_output_embeddings()
        adapted = isinstance(head, LoraLinear)
        linear = head.base_layer if adapted else head
        rows_of_tokens = _rows_of_tokens(model)
        if linear.bias is not None:
            logits = head(hidden)[:, rows_of_tokens].float()
            if weights is None:
                return F.cross_entropy(logits, targets.flatten())
            return F.cross_entropy(logits, targets.flatten(), reduction="none") @ weights
        weight = linear.weight[rows_of_tokens]
        if adapted:
            low = head.lora_A[ADAPTER](head.lora_dropout[ADAPTER](hidden)) * head.scaling[ADAPTER]
            up = head.lora_B[ADAPTER].weight[rows_of_tokens]
        else:
            low, up = hidden.new_zeros(len(hidden), 0), hidden.new_zeros(len(weight), 0)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        return head_cross_entropy(hidden, weight, low, up, targets.flatten(), weights)


class SubspaceLoss(nn.Module):
    """The loss of a model in its subspace: (inputs, targets) -> mean cross-entropy in nats.

    It is what a training step calls; gradients reach alpha and the gates only.

    Args:
        subspace: the model.
        compile: let torch.compile make kernels, for training, of everything but P, which is a few products.
    """

    def __init__(self, subspace: SubspaceModule, compile: bool = False) -> None:
        super().__init__()
        self.subspace = subspace
        self.loss = NextTokenLoss(subspace.net)
        self.call = torch.compile(functional_call) if compile else functional_call

    def forward(
        self,
        input_ids: Int[Tensor, "*shape"],
        targets: Int[Tensor, "*targets"],
        weights: Float[Tensor, "*targets"] | None = None,
        rows: Rows | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss at theta0 + P alpha."""
        values = {f"net.{name}": value for name, value in self.subspace.parameters_by_name().items()}
        # Evaluations are rare: they do not earn back a compilation of their own.
        call = self.call if self.training else functional_call
        return call(self.loss, places(self.loss, values), (input_ids, targets, weights, rows), tie_weights=False)

    def of(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss of a batch in nats: per token, or per byte, see `sublora.corpus.batches.Batches`."""
        return call_on_batch(self, self.subspace.net, batch)


def call_on_batch(function: Callable[..., Tensor], net: nn.Module, batch: Batch) -> Tensor:
    """Return a function of inputs, targets, weights and rows, as NextTokenLoss is one, at a batch.

    Args:
        function: what is called; it may compute with the model alone.
        net: the model of transformers, with or without PEFT's adapter.
        batch: crops or documents.
    """
    device = next(net.parameters()).device
    inputs, targets, weights = (torch.from_numpy(a).to(device) for a in (batch.inputs, batch.targets, batch.weights))
    if not len(batch.prefix):
        shape = len(batch.lengths), -1
        return function(inputs.view(shape), targets.view(shape), None, None)
    prefix, lengths = len(batch.prefix), batch.lengths.tolist()
    layout = Layout(prefix, lengths, device)
    inputs = torch.cat([torch.from_numpy(batch.prefix).to(device), inputs])
    counted = None if batch.counted is None else torch.from_numpy(batch.counted).to(device)
    with packed_attention(transformer(net)) as in_float32:
        layout.in_float32 = in_float32
        return function(inputs, targets, weights, Rows(prefix, lengths, layout, counted))


def transformer(net: Any) -> Any:
    """Return the model of transformers inside PEFT's adapter, if there is one."""
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def _rows_of_tokens(model: Any) -> slice:
    """The rows of the output head that stand for tokens. Others are padding of a pretrained base, and scoring leaves
    them out too.
    """
    return slice(getattr(model, "n_tokens", None))


class _Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, rows: Rows | None) -> Tensor:
        model = transformer(self.net)
        return model.get_output_embeddings()(hidden_states(model, input_ids, rows))[:, _rows_of_tokens(model)]


class SubspaceLogits:
    """The logits of a batch's targets at theta0 + P alpha, differentiable in alpha and the gates."""

    def __init__(self, subspace: SubspaceModule) -> None:
        self.subspace = subspace
        self._logits = _Logits(subspace.net)

    def __call__(self, batch: Batch) -> Float[Tensor, "n V"]:
        """Return a row for each target of the batch."""
        values = {f"net.{name}": value for name, value in self.subspace.parameters_by_name().items()}
        return call_on_batch(
            lambda inputs, _targets, _weights, rows: call_with(self._logits, values, (inputs, rows)),
            self.subspace.net,
            batch,
        )
