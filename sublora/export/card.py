"""The model card of an export: what is claimed, under which assumptions, and how to check it. Torch-free."""

import yaml

from sublora.certificate.model import Certificate


def card(certificate: Certificate, base_name: str, merged: bool, prompt: bool) -> str:
    """Return README.md of an exported model.

    Args:
        certificate: of the message that it was decoded from.
        base_name: hub id or folder of the base; "" where it has none.
        merged: whether it is a whole model.
        prompt: whether prompt.json lies beside it.
    """
    head: dict[str, object] = {"tags": ["sublora"]}
    if not merged:
        head |= {"library_name": "peft"}
    if base_name:
        head |= {"base_model": base_name}
    base = certificate.prior.base
    if base.kind == "pretrained" and base.licence:
        head |= {"license": base.licence}
    used = "a whole model of transformers" if merged else "a LoRA adapter that `peft.PeftModel.from_pretrained` loads"
    parts = [
        f"---\n{yaml.safe_dump(head)}---\n",
        "# A certified adapter",
        f"This is {used}, decoded from a message of {certificate.message.bits // 8:,} bytes.",
        "## What is certified",
        certificate.statement,
        "## What is not",
        "\n".join(f"* {limit}" for limit in certificate.limits),
        "## How to check it",
        "The claim is about the model that `message.bin` decodes to, together with what it falls back on; both files "
        "of the certificate lie in `certificate/`. With the corpus prepared as `docs/corpus.md` of sublora says:",
        "    sublora verify certificate --data CORPUS" + (" --base BASE" if base.kind == "pretrained" else ""),
    ]
    if prompt:
        parts.append(
            "## Prompt\n\nThe model was certified with a prompt before every document: the tokens in `prompt.json`, "
            "followed by one end-of-text token. Without it nothing is claimed."
        )
    return "\n\n".join(parts) + "\n"
