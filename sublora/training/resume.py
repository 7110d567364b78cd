"""What a run starts from: its own last checkpoint, another run's, or nothing."""

import dataclasses
import logging
from pathlib import Path

from sublora.config import Config
from sublora.errors import ConfigError
from sublora.run_folder import RunFolder
from sublora.training.checkpoint import Checkpoint, load_checkpoint

log = logging.getLogger(__name__)

# A resumed run must agree with its checkpoint in these sections, save for the keys that only say when to stop or look.
_FIXED_SECTIONS = ("data", "optimizer", "learning_rate", "model", "sublora", "prompt", "prior")
_FREE_KEYS = {"data.dataset_dir", "data.dataset", "prior.base", "prior.published", "prior.ngram_order"}


def starting_point(config: Config) -> Checkpoint | None:
    """Return the checkpoint that the model is taken from, None unless model.init_from is best_ckpt."""
    if config.model.init_from != "best_ckpt":
        return None
    if not config.model.best_checkpoint_path:
        raise ConfigError("model.init_from=best_ckpt needs model.best_checkpoint_path")
    return load_checkpoint(Path(config.model.best_checkpoint_path))


def adopt_checkpoint(config: Config, checkpoint: Checkpoint) -> Config:
    """Return the configuration with the sections model and sublora, the block size and the seed of a checkpoint.

    They describe weights that exist, so they cannot be configured; a warning names every key that says otherwise.
    """
    then = checkpoint.config
    adopted = dataclasses.replace(
        config,
        model=then.model,
        sublora=then.sublora,
        # A base may lie elsewhere on this machine; that it is the same one is checked by its hash.
        prior=config.prior if config.prior.base else then.prior,
        data=dataclasses.replace(config.data, block_size=then.data.block_size, batching=then.data.batching),
        system=dataclasses.replace(config.system, seed=then.system.seed),
    )
    for key in sorted(config.explicit - {"model.init_from", "model.best_checkpoint_path"}):
        section, _, name = key.partition(".")
        here, there = (getattr(getattr(c, section), name) for c in (config, adopted))
        if here != there:
            log.warning("%s is configured as %r, but the checkpoint's model has %r, which is used", key, here, there)
    return adopted


def previous_run(out_dir: Path, config: Config) -> Checkpoint | None:
    """Return the last checkpoint of the run in a folder, None where there is none.

    Raises:
        ConfigError: the run had other settings.
    """
    last = RunFolder(out_dir).last
    if not last.exists():
        return None
    checkpoint = load_checkpoint(last)
    then, now = checkpoint.config.to_dict(), config.to_dict()
    for section in (*_FIXED_SECTIONS, "system"):
        for key, value in now[section].items():
            name = f"{section}.{key}"
            fixed = name == "system.seed" if section == "system" else name not in _FREE_KEYS
            if fixed and value != then[section][key]:
                raise ConfigError(
                    f"{out_dir} holds a run with {name}={then[section][key]!r}, not {value!r}: "
                    "choose another login.out_dir, or remove it"
                )
    return checkpoint
