"""Checkpoints: a safetensors file with alpha, gates and optimizer moments, and the run's settings as metadata."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sublora.coding.prompt import Prompt
from sublora.config import Config, config_from_json
from sublora.errors import TrainingError
from sublora.files import write_bytes
from sublora.run_folder import RunFolder

# Names in the folder of a run.
BEST, LAST = RunFolder(Path()).best.name, RunFolder(Path()).last.name


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name (`subspace_params`, `gating_params`, `optimizer.*`), and what they belong to."""

    tensors: dict[str, Tensor]
    iteration: int
    best_val: float
    vocab_size: int
    corpus_sha256: str
    config: Config
    prompt: Prompt = field(default_factory=Prompt)
    """documents that stand before every document"""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the old one stays until the new one is complete."""
    metadata = {
        "iteration": str(checkpoint.iteration),
        "best_val": repr(checkpoint.best_val),
        "vocab_size": str(checkpoint.vocab_size),
        "corpus_sha256": checkpoint.corpus_sha256,
        "config": json.dumps(checkpoint.config.to_dict()),
        "prompt": json.dumps([*checkpoint.prompt.documents, *checkpoint.prompt.texts]),
    }
    write_bytes(path, save(dict(checkpoint.tensors), metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the best one of a run's folder.

    Raises:
        TrainingError: there is none, or it is damaged.
    """
    if path.is_dir():
        path = RunFolder(path).best
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TrainingError(
            f"no checkpoint at {path}: give model.best_checkpoint_path a run's folder or file"
        ) from error
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        return Checkpoint(
            tensors,
            int(header["iteration"]),
            float(header["best_val"]),
            int(header["vocab_size"]),
            header["corpus_sha256"],
            config_from_json(header["config"]),
            _prompt(json.loads(header["prompt"])),
        )
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise TrainingError(f"the checkpoint {path} is damaged or was not written by sublora: {error}") from error


def _prompt(examples: list[int | list[int]]) -> Prompt:
    """The prompt whose examples are positions of known documents, or tokens."""
    named = tuple(example for example in examples if isinstance(example, int))
    return Prompt(named, tuple(tuple(example) for example in examples if not isinstance(example, int)))
