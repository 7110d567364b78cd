"""A GGUF file as a folder in transformers' form: dequantized once, then kept in the user's cache.

transformers reads a GGUF file five times, its vocabulary of strings in Python, and makes the table of tensor names once
for every module. Here both happen once, and the float32 weights are kept as safetensors: what takes 20 s for 135
million parameters takes 7 s the first time and 1 s later.
"""

import functools
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, modeling_gguf_pytorch_utils

from sublora.errors import ConfigError
from sublora.files import read_json, sha256_file, write_text
from sublora.nn.quiet import quiet_transformers
from sublora.nn.sources import first_line
from sublora.nn.weights import hash_weights

log = logging.getLogger(__name__)

FACTS = "facts.json"


def cache_folder() -> Path:
    """Return the folder of dequantized bases: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sublora" / "bases"


def dequantized(path: Path, fits: Any) -> Path:
    """Return the folder that holds a GGUF file's model in float32 and `facts.json`: name, licence, hash of the weights.

    Args:
        path: the file. Its content and the versions that read it name the folder; what the folder holds is checked by
            whoever loads it, against the hash in `facts.json`.
        fits: is called with the number of parameters before they are made; raises where they are too many.

    Raises:
        ConfigError: not a GGUF file, an architecture or quantization that is not known, or no place to write.
    """
    versions = "-".join(importlib.metadata.version(name) for name in ("transformers", "gguf"))
    folder = cache_folder() / f"{sha256_file(path)}-{versions}"
    if not (folder / FACTS).is_file():
        _fill(folder, path, fits)
    return folder


def _fill(folder: Path, path: Path, fits: Any) -> None:
    log.info("reading %s: the weights are dequantized once and kept in %s", path.name, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise ConfigError(
            f"cannot write the cache {folder.parent}: {error.strerror}: set XDG_CACHE_HOME to a folder with space"
        ) from error
    try:
        with quiet_transformers():
            facts, model = _read(path, fits)
            model.save_pretrained(made)
        write_text(made / FACTS, json.dumps(facts | {"weights_sha256": hash_weights(model)}))
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError as error:
        # Another process may have been faster: then the folder is there.
        if not (folder / FACTS).is_file():
            raise ConfigError(f"cannot write the cache {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def facts_of(folder: Path) -> dict[str, Any]:
    """Return what `facts.json` of a cached base says.

    Raises:
        ConfigError: it is damaged.
    """
    return dict(read_json(folder / FACTS, "the cached base", ConfigError))


def _read(path: Path, fits: Any) -> tuple[dict[str, Any], PreTrainedModel]:
    with _parsed_once() as reader_of:
        try:
            reader = reader_of(str(path))
            said = {key: field.contents() for key, field in reader.fields.items() if key.startswith("general.")}
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise ConfigError(f"{path.name} cannot be read as GGUF: {first_line(error)}") from error
        fits(sum(int(tensor.n_elements) for tensor in reader.tensors))
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, NotImplementedError, KeyError) as error:
            kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
            raise ConfigError(
                f"{path.name} (architecture {said.get('general.architecture')}, quantization {', '.join(kinds)}) "
                f"cannot be loaded: {first_line(error)}"
            ) from error
    model, report = loaded
    if report["missing_keys"]:
        raise ConfigError(f"{path.name} lacks weights, such as {min(report['missing_keys'])}")
    # The weights are plain now: without this they could not be saved as they are.
    del model.config.quantization_config
    model.hf_quantizer = None
    name = said.get("general.name") or said.get("general.basename")
    return {"name": name, "licence": said.get("general.license")}, model


@contextmanager
def _parsed_once() -> Iterator[Any]:
    """Let everybody who reads GGUF in here share one parsed file and one table of names; without progress bars."""
    import gguf

    with ExitStack() as stack:
        for name in ("GGUFReader", "get_tensor_name_map"):
            stack.enter_context(patch.object(gguf, name, functools.cache(getattr(gguf, name))))
        silent = functools.partial(modeling_gguf_pytorch_utils.tqdm, disable=True)
        stack.enter_context(patch.object(modeling_gguf_pytorch_utils, "tqdm", silent))
        yield gguf.GGUFReader
