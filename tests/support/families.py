"""Tiny models of random weights, one of each family that people adapt, and a tiny tokenizer."""

import json

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    FalconConfig,
    FalconForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# Bytes and end-of-text.
VOCABULARY = 257
LAYERS = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16}
LENGTH = {"max_position_embeddings": 64}
FEW = {"num_key_value_heads": 2}
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WIDE = {"intermediate_size": 32}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {"ffn_dim": 32, "word_embed_proj_dim": 16}
BERT = {"is_decoder": True, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}

# Model, configuration and sizes.
FAMILIES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2 | NO_SPECIAL),
    "llama": (LlamaForCausalLM, LlamaConfig, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL),
    "qwen2_tied": (
        Qwen2ForCausalLM, Qwen2Config, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL | {"tie_word_embeddings": True}
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL | {"head_dim": 4}),
    "bert": (BertLMHeadModel, BertConfig, LAYERS | LENGTH | WIDE | BERT),
    "mistral": (MistralForCausalLM, MistralConfig, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL),
    "mixtral": (
        MixtralForCausalLM, MixtralConfig, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL | {"num_local_experts": 4}
    ),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, LAYERS | LENGTH | WIDE | NO_SPECIAL),
    "opt": (OPTForCausalLM, OPTConfig, LAYERS | LENGTH | OPT | NO_SPECIAL | {"pad_token_id": 1}),
    "gemma": (GemmaForCausalLM, GemmaConfig, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL | {"head_dim": 4}),
    "phi3": (Phi3ForCausalLM, Phi3Config, LAYERS | LENGTH | WIDE | FEW | NO_SPECIAL),
    "falcon": (FalconForCausalLM, FalconConfig, LAYERS | NO_SPECIAL),
}  # fmt: skip


def make_base(family, seed=0, **changes):
    """A model of a family, in evaluation mode, with other settings than the table's; the same for the same seed."""
    model, config, sizes = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(config(**sizes | changes)).eval()


def write_tokenizer(folder, *, eot="<|endoftext|>", config=None, change=None):
    """Write a folder with a byte-level tokenizer of three merges."""
    merges = [("h", "e"), ("l", "l"), ("he", "ll")]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m) for m in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(eot, special=True, normalized=False), "<|im_end|>"])
    if change is not None:
        change(backend)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({} if config is None else config)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
