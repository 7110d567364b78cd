"""Writing a certified model for other tools: an adapter of PEFT, or a whole model of transformers."""

import json
import shutil
from pathlib import Path

from sublora.certificate.model import Certificate
from sublora.certificate.reading import read_certificate
from sublora.coding.message import MAX_BYTES, MAX_SYMBOLS, Message, decode_message
from sublora.corpus.corpus import open_corpus
from sublora.errors import CertificateError, ConfigError
from sublora.export.adapter import write_adapter
from sublora.export.card import card
from sublora.files import read_bytes, sha256, write_text
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
        run: folder of certificate and message.
        to: folder to write; it must not exist, or be empty.
        base: the user's own copy of a pretrained base.
        data_dir: the corpus, where the prompt names known documents.
        merged: a whole model instead of an adapter.

    Raises:
        CertificateError, MessageError: there is no certificate, or it is not of this message.
        ConfigError: the folder is not empty, the base cannot be loaded, or there is no adapter to write.
        CorpusError: the corpus cannot be read.
    """
    folder = RunFolder.of(run)
    certificate = read_certificate(run)
    data = read_bytes(folder.message, "the message", CertificateError, MAX_BYTES)
    if sha256(data) != certificate.message.sha256:
        raise CertificateError(f"{folder.message} is not the message that the certificate is about")
    message = decode_message(data, max_symbols=min(max(certificate.prior.D, 1), MAX_SYMBOLS))
    if (message.header.architecture.kind == "pretrained") != bool(base):
        raise ConfigError(
            "the message names a pretrained base: give your own copy with --base"
            if not base
            else "the message's base is random, made from its seed: leave out --base"
        )
    if to.exists() and any(to.iterdir()):
        raise ConfigError(f"{to} is not empty: export to a new folder")
    scratch = to.with_name(f".{to.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _write(scratch, folder, certificate, message, base, data_dir, merged)
        if to.exists():
            to.rmdir()
        scratch.rename(to)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return to


def _write(
    to: Path,
    run: RunFolder,
    certificate: Certificate,
    message: Message,
    base: str,
    data_dir: Path | None,
    merged: bool,
) -> None:
    header = message.header
    if header.prompt.documents and data_dir is None:
        raise ConfigError("the prompt names documents of the corpus: give it with --data")
    known = None if data_dir is None else open_corpus(data_dir).prior
    tokens = prompt_tokens(header.prompt, known, header.setting.eot_token)
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
    kept = to / "certificate"
    kept.mkdir()
    for path in (run.certificate, run.message):
        shutil.copyfile(path, kept / path.name)
