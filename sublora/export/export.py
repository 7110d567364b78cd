"""Writing a certified model for other tools: an adapter of PEFT, or a whole model of transformers."""

import json
from pathlib import Path

from sublora.certificate.certified import Certified, open_certified
from sublora.certificate.matching import require_base
from sublora.certificate.model import Certificate
from sublora.errors import ConfigError
from sublora.export.adapter import write_adapter
from sublora.export.card import card
from sublora.files import whole_folder, write_bytes, write_text
from sublora.nn.quiet import quiet_transformers
from sublora.nn.sources import find_source
from sublora.run_folder import RunFolder
from sublora.scoring.measure import decoded_model, rebuild
from sublora.scoring.prompt import prompt_tokens


def export(run: Path, to: Path, *, base: str = "", data_dir: Path | None = None, merged: bool = False) -> Path:
    """Write a certified model into a new folder, and return that.

    The folder holds adapter_config.json and adapter_model.safetensors or, merged, config.json and model.safetensors;
    README.md, the model card; certificate/ with certificate and message; and prompt.json where there is a prompt.

    Args:
        run: folder of certificate and message, or a pack.
        to: folder to write; it must not exist, or be empty.
        base: the user's own copy of a pretrained base.
        data_dir: the corpus, where the prompt names known documents.
        merged: a whole model instead of an adapter.

    Raises:
        CertificateError, MessageError: there is no certificate, or it is not of this message.
        ConfigError: the folder is not empty, the base cannot be loaded, or there is no adapter to write.
        CorpusError: the corpus cannot be read.
    """
    certified = open_certified(run)
    require_base(certified.message.header, base)
    if to.exists() and any(to.iterdir()):
        raise ConfigError(f"{to} is not empty: export to a new folder")
    with whole_folder(to) as scratch:
        _write(scratch, certified, base, data_dir, merged)
    return to


def _write(to: Path, certified: Certified[Certificate], base: str, data_dir: Path | None, merged: bool) -> None:
    certificate, message = certified.certificate, certified.message
    corpus = certified.prompting(data_dir)
    known = None if corpus is None else corpus.prior
    tokens = prompt_tokens(message.header.prompt, known, message.header.setting.eot_token)
    found = find_source(base) if base else None
    name = base if found is not None and found.kind in ("folder", "hub") else ""
    with quiet_transformers():
        if merged:
            rebuild(message, base, known).model.save_pretrained(to)
        elif message.spec.adapter == "none":
            raise ConfigError("the message has no adapter, only a prompt: export it with --merged")
        else:
            write_adapter(decoded_model(message, base), to, name)
    if len(tokens):
        write_text(to / "prompt.json", json.dumps({"tokens": tokens.tolist()}) + "\n")
    write_text(to / "README.md", card(certificate, name, merged, bool(len(tokens))))
    kept = RunFolder(to / "certificate")
    write_text(kept.certificate, certificate.to_text())
    write_bytes(kept.message, certified.data)
