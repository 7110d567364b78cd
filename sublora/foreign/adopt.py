"""An adapter that was trained elsewhere becomes a run, which `sublora bounds` certifies as it does any other."""

import logging
import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sublora.coding.message import MAX_SYMBOLS
from sublora.config import Config
from sublora.config.sections import Bounds, Data, Login, Model, Prior, System
from sublora.corpus.corpus import Corpus, open_corpus
from sublora.errors import AdapterError, ConfigError
from sublora.files import whole_folder, write_text
from sublora.foreign.layers import Expressed
from sublora.foreign.plain import as_lora
from sublora.foreign.reading import ForeignAdapter, read_adapter, shown
from sublora.foreign.shared import as_unilora, as_vera
from sublora.foreign.tiny import as_cores
from sublora.nn.create_model import get_model
from sublora.nn.pretrained import load_pretrained
from sublora.nn.subspace import SubspaceModule
from sublora.run_folder import RunFolder
from sublora.training.checkpoint import Checkpoint, save_checkpoint

log = logging.getLogger(__name__)

KINDS = {"LORA": as_lora, "TINYLORA": as_cores, "UNILORA": as_unilora, "VERA": as_vera}
LONGEST_BLOCK = 1024
"""tokens of a context, unless the base has fewer or a number is given"""


def adopt(folder: Path, to: Path, *, base: str, data: Path, block_size: int | None = None) -> Path:
    """Write a run whose model computes what PEFT computes with an adapter, and return its folder.

    Every parameter of the adapter is a coordinate (d = D, and P is the identity): nothing is projected. The run holds a
    checkpoint, and a configuration with which `sublora bounds` quantizes, codes and certifies it.

    Args:
        folder: of adapter_config.json and adapter_model.safetensors.
        to: folder to write; it must not exist, or be empty.
        base: the pretrained base that the adapter was trained on.
        data: prepared folder of the documents that it is to be certified on.
        block_size: context in tokens; the smaller of 1,024 and the base's positions unless given.

    Raises:
        AdapterError: the adapter is damaged, does not fit the base, or is of a kind that no message can say.
        ConfigError: the folder is not empty, or the base cannot be loaded.
        CorpusError: the corpus cannot be read.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} is not empty: import into a new folder")
    adapter = read_adapter(folder)
    express = KINDS.get(adapter.kind)
    if express is None:
        raise AdapterError(_refusal(adapter))
    corpus = open_corpus(data)
    plain = load_pretrained(base, corpus.vocab_size, block_size or 1)[0]
    positions = getattr(plain.config, "max_position_embeddings", None) or LONGEST_BLOCK
    expressed = express(adapter, plain)
    config = Config(
        login=Login(out_dir=str(to)),
        data=Data(str(data), block_size=block_size or min(LONGEST_BLOCK, positions), batching="documents"),
        prior=Prior(base=base),
        model=Model(best_checkpoint_path=str(to)),
        sublora=expressed.section,
        bounds=Bounds(quantizer="feedback"),
        system=System() if expressed.seed is None else System(seed=expressed.seed),
    )
    with whole_folder(to) as scratch:
        _write(RunFolder(scratch), config, corpus, expressed)
    return to


def _write(run: RunFolder, config: Config, corpus: Corpus, expressed: Expressed) -> None:
    model = get_model(config, corpus.vocab_size)
    if model.D > MAX_SYMBOLS:
        raise AdapterError(f"the adapter has {model.D:,} values, and a message holds at most {MAX_SYMBOLS:,}")
    alpha = coordinates(model, expressed)
    if not torch.isfinite(alpha).all():
        raise AdapterError("the adapter's values are too large for float32")
    log.info(
        "imported: D = %d values, all of them coded, %d of them zeros for layers or ranks without an adapter",
        model.D, int((alpha == 0).sum()),
    )  # fmt: skip
    log.info(
        "held-out text is held out only if the adapter was not trained on it, which nothing here can know; the bound "
        "does not depend on that"
    )
    write_text(run.config, config.to_yaml())
    tensors = {"subspace_params": alpha}
    save_checkpoint(run.best, Checkpoint(tensors, 0, math.inf, corpus.vocab_size, corpus.train.sha256, config))


def coordinates(model: SubspaceModule, expressed: Expressed) -> Float[Tensor, " D"]:
    """Return alpha, the distance of an adapter's values from theta0.

    Args:
        model: of the adapter's section, at theta0; P is the identity.
        expressed: values of its parameters.
    """
    missing = set(expressed.values) - set(model.names)
    assert not missing, missing
    parts = []
    for name, start, shape in zip(model.names, model.theta0.split(model.sizes), model.shapes, strict=True):
        distance = torch.zeros(shape)
        if name in expressed.values:
            value = expressed.values[name]
            block = tuple(slice(size) for size in value.shape)
            distance[block] = value - start.view(shape)[block].cpu()
        parts.append(distance.reshape(-1))
    return torch.cat(parts)


def _refusal(adapter: ForeignAdapter) -> str:
    return (
        f"adapters of type {shown(adapter.kind)} are not imported, only {', '.join(KINDS)}: if PEFT can make a LoRA "
        "of it (peft.save_as_lora), import that"
    )
