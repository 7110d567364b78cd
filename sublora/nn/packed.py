"""Rows of tokens of different lengths, read behind one prefix that all of them see, without padding.

The tokens stand one behind the other in one row of a batch: products, norms and rotations compute nothing for padding,
and the prefix (a prompt, and the token that every document begins behind) is read once. Attention alone knows where
rows begin. Its keys are gathered row by row, and heads that share keys stand one below the other, so that no key is
copied for them.

Suffixes: n tokens, P tokens of the prefix, R rows, T tokens of the longest row, H heads, G heads of keys, D width of a
head, e width of the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from sublora.errors import ConfigError
from sublora.nn.precision import FLOAT32_ATTENTION

PACKED_ATTENTION = "sublora_packed"
# Models whose attention takes an implementation from outside, with no other idea of positions than `position_ids`.
PACKED_MODELS = ("gpt2", "llama", "mistral")
# A row is at least so long, as a share of the longest row beside which its attention is computed.
_LEAST_FILLED = 0.7

KeysValues = dict[int, tuple[Tensor, Tensor]]


@dataclass
class _Group:
    """Rows of about one length: where their tokens are, padded; which of those are real (None: all); masks made."""

    index_RT: Int[Tensor, "R T"]
    real: Int[Tensor, " n"] | None
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, prefix: int, sharing: int, window: int | None) -> Tensor:
        """Which keys each query sees: those of the prefix and of its row that are not behind it, nor too far ahead."""
        key = prefix, sharing, window
        if key not in self.masks:
            query = torch.arange(self.index_RT.shape[1], device=self.index_RT.device)[:, None] + prefix
            self.masks[key] = _visible(query, prefix + self.index_RT.shape[1], window).repeat(sharing, 1)
        return self.masks[key]


def _visible(query: Tensor, n_keys: int, window: int | None) -> Tensor:
    key = torch.arange(n_keys, device=query.device)
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


class Layout:
    """Where the prefix and the rows stand in a row of packed tokens.

    Args:
        prefix: P, tokens of the prefix. They stand first, unless their keys and values are given.
        lengths: tokens of each row; rows may be empty.
        device: of the tokens.
        cache: keys and values of the prefix, per layer: the prefix is not among the tokens.

    Attributes:
        positions: of every token, as the model counts them: rows stand behind the prefix, each as if it were alone.
        kept: the keys and values of the tokens, if `keep` asked for them.
    """

    def __init__(
        self, prefix: int, lengths: Sequence[int], device: torch.device, cache: KeysValues | None = None
    ) -> None:
        self.prefix = prefix
        self.cache = cache
        self.kept: KeysValues | None = None
        self.in_float32 = False
        length = torch.tensor(lengths, dtype=torch.int64)
        start = length.cumsum(0) - length
        first = 0 if cache is not None else prefix
        offsets = torch.arange(int(length.sum())) - start.repeat_interleave(length)
        self.positions = torch.cat([torch.arange(first), prefix + offsets])[None].to(device)
        self.groups: list[_Group] = []
        order, taken = length.argsort(descending=True, stable=True).tolist(), []
        while order and length[order[0]]:
            longest = int(length[order[0]])
            alike = [row for row in order if length[row] >= _LEAST_FILLED * longest]
            order = order[len(alike) :]
            column = torch.arange(longest)
            real = column < length[alike, None]
            index = start[alike, None] + torch.where(real, column, 0)
            taken.append(index[real])
            kept = None if bool(real.all()) else real.flatten().nonzero()[:, 0].to(device)
            self.groups.append(_Group(index.to(device), kept))
        place = torch.cat(taken) if taken else torch.zeros(0, dtype=torch.int64)
        in_order = torch.equal(place, torch.arange(len(place)))
        self.back: Tensor | None = None if in_order else place.argsort().to(device)

    def keep(self) -> "Layout":
        """Remember keys and values of the tokens that are read."""
        self.kept = {}
        return self

    def attend(
        self,
        query: Float[Tensor, "1 H n D"],
        key: Float[Tensor, "1 G n D"],
        value: Float[Tensor, "1 G n D"],
        layer: int,
        window: int | None,
        **options: Any,
    ) -> Float[Tensor, "1 n H D"]:
        """Return attention's output for every token."""
        if self.kept is not None:
            self.kept[layer] = key, value
        out = []
        if self.cache is None:
            P = self.prefix
            before, query = query[:, :, :P], query[:, :, P:]
            (keys, key), (values, value) = ((t[:, :, :P], t[:, :, P:]) for t in (key, value))
            if P:
                out.append(_attend_causally(before, keys, values, window, options).transpose(1, 2)[0])
        else:
            keys, values = self.cache[layer]
        rows = [self._attend_rows(group, query, (keys, key), (values, value), window, options) for group in self.groups]
        if rows:
            joined = torch.cat(rows) if len(rows) > 1 else rows[0]
            out.append(joined if self.back is None else joined[self.back])
        return torch.cat(out)[None] if len(out) > 1 else out[0][None]

    def _attend_rows(
        self,
        group: _Group,
        query: Float[Tensor, "1 H n D"],
        keys: tuple[Tensor, Tensor],
        values: tuple[Tensor, Tensor],
        window: int | None,
        options: dict[str, Any],
    ) -> Float[Tensor, "m H D"]:
        R, T = group.index_RT.shape
        H, D = query.shape[1], query.shape[3]
        G = keys[1].shape[1]
        flat = group.index_RT.flatten()

        def rows_of(t: Tensor) -> Tensor:
            """Tokens to rows: (1, h, n, D) to (R, h, T, D)."""
            return t[0].transpose(0, 1)[flat].view(R, T, -1, D).transpose(1, 2)

        q = rows_of(query).reshape(R, G, H // G * T, D)
        k, v = (torch.cat([before.expand(R, -1, -1, -1), rows_of(own)], 2) for before, own in (keys, values))
        if self.prefix == 0 and window is None and G == H:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        else:
            mask = group.mask(self.prefix, H // G, window)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
        tokens = mixed.view(R, H, T, D).transpose(1, 2).reshape(R * T, H, D)
        return tokens if group.real is None else tokens[group.real]


def _attend_causally(query: Tensor, key: Tensor, value: Tensor, window: int | None, options: dict[str, Any]) -> Tensor:
    n, gqa = query.shape[2], query.shape[1] != key.shape[1]
    if window is None or window >= n:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=gqa, **options)
    mask = _visible(torch.arange(n, device=query.device)[:, None], n, window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=gqa, **options)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention with the interface of transformers."""
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout}
    if not layout.in_float32:
        return layout.attend(query, key, value, module.layer_idx, sliding_window, **options), None
    with torch.autocast(query.device.type, enabled=False):
        tensors = query.float(), key.float(), value.float()
        return layout.attend(*tensors, module.layer_idx, sliding_window, **options).to(query.dtype), None


# No mask is registered beside it: transformers makes none.
AttentionInterface.register(PACKED_ATTENTION, _attention)


def packs(model: PreTrainedModel) -> bool:
    """Whether a model can read packed rows; others read every row with the prefix before it, and padding behind."""
    return model.config.model_type in PACKED_MODELS


def check_context(model: Any, prompt: int, block_size: int) -> None:
    """Check that a prompt and a block of so many tokens fit into a model's context.

    Raises:
        ConfigError: they do not.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and prompt + block_size > positions:
        raise ConfigError(
            f"a prompt of {prompt} tokens and a block of {block_size} are longer than the model's context of "
            f"{positions} tokens: shorten the prompt or data.block_size"
        )


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[bool]:
    """Switch a model to packed attention where it can, for `read`; no thread may use it otherwise meanwhile.

    Yields:
        whether attention is to be computed in float32, as `sublora.nn.precision` says.
    """
    before = model.config._attn_implementation
    if packs(model):
        model.config._attn_implementation = PACKED_ATTENTION
    try:
        yield before == FLOAT32_ATTENTION
    finally:
        model.config._attn_implementation = before


def read(model: PreTrainedModel, tokens: Int[Tensor, " n"], layout: Layout) -> Float[Tensor, "n e"]:
    """Return the final hidden states of packed tokens, inside `packed_attention`."""
    out = model.base_model(input_ids=tokens[None], position_ids=layout.positions, use_cache=False, layout=layout)
    return out[0][0]


def read_plainly(
    model: PreTrainedModel, tokens: Int[Tensor, " n"], prefix: int, lengths: Sequence[int]
) -> Float[Tensor, "n e"]:
    """Return what `read` returns for prefix and rows, from any causal model: every row with the prefix before it."""
    before, rows = tokens[:prefix], tokens[prefix:].split(list(lengths))
    whole = [torch.cat([before, row]) for row in rows] or [before]
    padded = nn.utils.rnn.pad_sequence(whole, batch_first=True)
    hidden = model.base_model(input_ids=padded, use_cache=False)[0]
    return torch.cat([hidden[0, :prefix], *(hidden[i, prefix : len(row)] for i, row in enumerate(whole))])


class PrefixReader:
    """Reads rows behind a prefix whose keys and values are computed once, without gradients.

    Args:
        model: inside `packed_attention`, in evaluation mode.
        prefix: tokens that every row sees first; may be none.

    Attributes:
        last: the final hidden state of the prefix's last token, which predicts the first token of every row.
    """

    def __init__(self, model: PreTrainedModel, prefix: Int[Tensor, " P"]) -> None:
        self.model = model
        self.prefix = prefix
        self._cache: KeysValues = {}
        self.last: Float[Tensor, " e"] | None = None
        if not len(prefix):
            return
        if packs(model):
            layout = Layout(len(prefix), [], prefix.device).keep()
            self.last = read(model, prefix, layout)[-1]
            self._cache = layout.kept or {}
        else:
            self.last = read_plainly(model, prefix, len(prefix), [])[-1]

    def read(self, tokens: Int[Tensor, " n"], lengths: Sequence[int]) -> Float[Tensor, "n e"]:
        """Return the final hidden states of the tokens of rows of given lengths."""
        if self.last is not None and not len(tokens):
            return self.last[None][:0]
        if packs(self.model):
            cache = self._cache if len(self.prefix) else None
            return read(self.model, tokens, Layout(len(self.prefix), lengths, tokens.device, cache))
        n = len(self.prefix)
        return read_plainly(self.model, torch.cat([self.prefix, tokens]), n, lengths)[n:]
