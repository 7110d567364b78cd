"""Packed rows behind a prefix are what plain rows with the prefix before them are."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from sublora.nn.packed import Layout, PrefixReader, packed_attention, packs, read, read_plainly

V = 53
LENGTHS = [3, 0, 9, 10, 1, 6]


def tiny(family):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": V,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    shared = {**sizes, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3}
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=V, n_positions=64, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3)
        )
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shared))
    elif family == "mistral":
        model = MistralForCausalLM(MistralConfig(**shared, sliding_window=5))
    else:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, max_position_embeddings=64))
    return model.eval()


FAMILIES = ["gpt2", "llama", "mistral", "gpt_neox"]


@pytest.mark.parametrize("prefix", [0, 1, 7])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_are_plain_rows(family, prefix):
    model = tiny(family)
    tokens = torch.randint(V, (prefix + sum(LENGTHS),), generator=torch.Generator().manual_seed(prefix))
    expected = read_plainly(model, tokens, prefix, LENGTHS)
    # The plain reading is that of one row alone.
    start = prefix + sum(LENGTHS[:3])
    alone = torch.cat([tokens[:prefix], tokens[start : start + LENGTHS[3]]])
    torch.testing.assert_close(
        expected[start : start + LENGTHS[3]], model.base_model(input_ids=alone[None])[0][0, prefix:]
    )
    before = model.config._attn_implementation
    with packed_attention(model):
        reader = PrefixReader(model, tokens[:prefix])
        torch.testing.assert_close(reader.read(tokens[prefix:], LENGTHS), expected[prefix:], atol=1e-4, rtol=1e-4)
        if prefix:
            torch.testing.assert_close(reader.last, expected[prefix - 1], atol=1e-4, rtol=1e-4)
        if packs(model):
            found = read(model, tokens, Layout(prefix, LENGTHS, tokens.device))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert model.config._attn_implementation == before
    if prefix:
        other = torch.cat([tokens[:prefix].roll(1) + 1, tokens[prefix:]]) % V
        assert not torch.allclose(read_plainly(model, other, prefix, LENGTHS)[prefix:], expected[prefix:], atol=1e-2)
