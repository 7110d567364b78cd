"""An export goes to the Hugging Face hub: the files of the export, and no other."""

import json
import logging
from pathlib import Path

from sublora.errors import ConfigError
from sublora.files import read_bytes
from sublora.run_folder import RunFolder

log = logging.getLogger(__name__)

ADAPTER_CONFIG, MODEL_CONFIG, CARD = "adapter_config.json", "config.json", "README.md"
FILES = (
    CARD, ADAPTER_CONFIG, "adapter_model.safetensors", MODEL_CONFIG, "generation_config.json",
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "prompt.json", "certificate/*",
)  # fmt: skip
MOST_CONFIG_BYTES = 1 << 20


def push_to_hub(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload an export to a repository of models, which is made where there is none, and return its address.

    The token is that of `hf auth login`, or in HF_TOKEN.

    Args:
        folder: that `sublora.export.export.export` wrote.
        repository: OWNER/NAME.
        public: whether a repository that is made here can be read by everybody.

    Raises:
        ConfigError: the folder is no export, or names its base by a path of this machine; the hub refuses, or cannot
            be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError

    _require_export(folder)
    try:
        api = HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), commit_message="A certified adapter"
        )
    except (HTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        said = str(error).strip().splitlines()
        raise ConfigError(f"the hub did not take {repository}: {said[0] if said else type(error).__name__}") from error
    log.info("uploaded %s", commit.commit_url)
    return str(commit.repo_url)


def _require_export(folder: Path) -> None:
    """Check that a folder is an export that makes sense elsewhere."""
    if not RunFolder(folder / "certificate").certificate.is_file() or not (folder / CARD).is_file():
        raise ConfigError(f"{folder} is no export: write one with sublora export RUN --to DIR")
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return
    settings = json.loads(read_bytes(path, "the adapter's configuration", ConfigError, MOST_CONFIG_BYTES))
    base = settings.get("base_model_name_or_path")
    if base and Path(base).expanduser().exists():
        raise ConfigError(
            f"the export names its base by the path {base}, which means nothing elsewhere: export it with the base's "
            "hub id as --base, or write that into adapter_config.json and README.md"
        )
