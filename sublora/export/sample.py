"""Text from a decoded model: what the numbers of a certificate sound like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel

from sublora import seeds
from sublora.certificate.certified import Certified
from sublora.certificate.model import Certificate
from sublora.corpus.corpus import BYTES_TOKENIZER
from sublora.corpus.tokenizers import Tokenizer, make_tokenizer
from sublora.errors import ConfigError
from sublora.export.load import open_rebuilt
from sublora.nn.create_model import build_base
from sublora.nn.packed import check_context
from sublora.nn.quiet import quiet_transformers


@dataclass(frozen=True)
class Sampling:
    """How a text goes on.

    tokens: how many are written.
    temperature: logits are divided by it; 0 takes the likeliest token.
    top_k: tokens are drawn from so many, the likeliest; 0: from all.
    seed: of the draws.

    Raises:
        ConfigError: a number that makes no sense.
    """

    tokens: int = 100
    temperature: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.top_k < 0 or self.seed < 0 or not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"{self.tokens} tokens at temperature {self.temperature:g} of the {self.top_k} likeliest with seed "
                f"{self.seed}: a sample has at least one token, and no other number is negative"
            )


def sample(
    path: Path,
    text: str,
    sampling: Sampling,
    *,
    base: str = "",
    data_dir: Path | None = None,
    tokenizer: str = "",
    beside_base: bool = False,
) -> tuple[str, ...]:
    """Return a text that the decoded model has continued and, if it is asked for, one that its base alone has.

    Both are drawn with the same random numbers. The model reads as it does when it is measured: behind the message's
    prompt, in windows of the certified length; its base reads without the prompt. End-of-text is never drawn, and what
    the model falls back on has no part in it. On one machine the same arguments give the same text; another one
    computes other last digits, and a draw that lies between two tokens may then fall otherwise.

    Args:
        path: of a run's folder or a pack.
        text: the beginning; may be empty.
        sampling: how it goes on.
        base: the user's own copy of a pretrained base.
        data_dir: the certified corpus, where the prompt names documents of it.
        tokenizer: see `sublora.corpus.tokenizers.make_tokenizer`; unless given, bytes or the base's own.
        beside_base: also return the base's text.

    Raises:
        ConfigError: no such tokenizer is the certificate's; see `sublora.export.load.load` for the rest.
    """
    certified, rebuilt = open_rebuilt(path, base, data_dir)
    encoding = _tokenizer(certified, tokenizer or base)
    begun = encoding.encode([text])[0].tolist()
    header = certified.message.header

    def go_on(model: PreTrainedModel, before: Sequence[int]) -> str:
        uniforms = iter(seeds.stream(sampling.seed, "sample").random(sampling.tokens))

        def draw(logits: Float[np.ndarray, " V"]) -> int:
            logits[header.setting.eot_token] = -np.inf
            return draw_token(logits, sampling.temperature, sampling.top_k, float(next(uniforms)))

        sizes = header.architecture.block_size, header.stride, header.setting.vocab_size
        written = continue_tokens(model, before, [header.setting.eot_token, *begun], sampling.tokens, *sizes, draw)
        return encoding.decode([*begun, *written])

    texts = [go_on(rebuilt.model, rebuilt.prompt.tolist())]
    if beside_base:
        with quiet_transformers():
            alone = build_base(header.architecture, header.spec.seed, base)
        texts.append(go_on(alone.eval(), ()))
    return tuple(texts)


@torch.inference_mode()
def continue_tokens(
    model: PreTrainedModel,
    before: Sequence[int],
    begun: Sequence[int],
    count: int,
    block_size: int,
    stride: int,
    vocab_size: int,
    draw: Callable[[Float[np.ndarray, " V"]], int],
) -> list[int]:
    """Return the tokens that go on a text.

    Where the text is longer than the context, the model reads on as scoring does: behind the prompt stand the last
    tokens, all but `stride` of a context.

    Args:
        model: in evaluation mode.
        before: tokens that stand before every context.
        begun: the text so far, end-of-text at its head.
        count: tokens to write.
        block_size: tokens of a context, `before` not counted.
        stride: see above.
        vocab_size: tokens that can occur; a model may have more.
        draw: returns a token, from the logits of all.

    Raises:
        ConfigError: prompt and context are together longer than the model's own.
    """
    check_context(model, len(before), block_size)
    kept = max(1, block_size - stride)
    window, cache, unread = list(begun), None, 0
    written: list[int] = []
    for _ in range(count):
        if len(window) > block_size:
            window, cache = window[-kept:], None
        if cache is None:
            unread = len(window)
        tokens = [*(before if cache is None else ()), *window[-unread:]]
        out = model(input_ids=torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True)
        cache, unread = out.past_key_values, 1
        written.append(draw(out.logits[0, -1, :vocab_size].double().cpu().numpy()))
        window.append(written[-1])
    return written


def draw_token(logits: Float[np.ndarray, " V"], temperature: float, top_k: int, uniform: float) -> int:
    """Return the token that a number from [0, 1) draws; of equal logits the first token is the likelier.

    Args:
        logits: -inf for a token that cannot occur.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only so many of the likeliest tokens are drawn from; 0: all.
        uniform: the number.
    """
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    if not temperature:
        return int(order[0])
    weights = np.exp((logits[order] - logits[order[0]]) / temperature)
    total = weights.cumsum()
    return int(order[np.searchsorted(total, uniform * total[-1], side="right")])


def _tokenizer(certified: Certified[Certificate], name: str) -> Tokenizer:
    wanted = certified.certificate.prior.tokenizer
    if wanted == BYTES_TOKENIZER:
        name = "bytes"
    if not name:
        raise ConfigError(f"the tokenizer of the certificate is {wanted!r}: give it with --tokenizer")
    found = make_tokenizer(name)
    if found.description != wanted:
        raise ConfigError(
            f"the tokenizer {name} is {found.description!r}, and the certificate's is {wanted!r}: give that with "
            "--tokenizer"
        )
    return found
