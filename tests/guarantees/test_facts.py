"""Every field of a certificate has an answer to the question why an issuer cannot use it for free."""

import re
from pathlib import Path

from pydantic import BaseModel

from sublora.certificate.model import Certificate

MESSAGE_PAGE = Path(__file__).parents[2] / "docs" / "message.md"


def documented() -> set[str]:
    table = MESSAGE_PAGE.read_text().split("## What an issuer could choose")[1]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}


def facts() -> set[str]:
    """The fields of the certificate; those of its setting, message, prior and corpus one by one."""
    out = set()
    for name, field in Certificate.model_fields.items():
        part = field.annotation
        opened = name in ("setting", "message", "prior", "corpus")
        if opened:
            assert isinstance(part, type) and issubclass(part, BaseModel)
        out |= {f"{name}.{inner}" for inner in part.model_fields} if opened else {name}
    return out


def test_every_fact_has_an_answer():
    assert facts() - documented() == set(), "say in docs/message.md where it is coded, or why it needs no bits"


def test_no_answer_is_about_nothing():
    assert documented() - facts() == set()
