"""What kind of character a name stands for, as labelled text: `python data/unicode/prepare.py FOLDER`.

Names of Unicode 14 (Python 3.11) that Unicode 3.2 did not have, with the kind that the standard gives each: letter,
mark, number, punctuation, symbol, format. What 3.2 had is known beforehand; Python ships both. Ideographs and Hangul
syllables have names that count them, and are left out.
"""

import json
import logging
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from sublora.corpus.prepare import prepare

VERSION = "14.0.0"
KINDS = {"L": "letter", "M": "mark", "N": "number", "P": "punctuation", "S": "symbol", "C": "format"}
COUNTED = ("CJK ", "TANGUT IDEOGRAPH", "NUSHU CHARACTER", "HANGUL SYLLABLE")


def names(*, new: bool) -> Iterator[tuple[str, str]]:
    """Yield the names that 3.2 did not have, or those that it had, each with the kind of its character."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        name = unicodedata.name(character, "")
        kind = KINDS.get(unicodedata.category(character)[0])
        is_new = not unicodedata.ucd_3_2_0.name(character, "")
        if name and kind and is_new == new and not name.startswith(COUNTED):
            yield name, kind


def write(path: Path, *, new: bool) -> Path:
    """Write names and kinds as lines of JSON."""
    with path.open("w", encoding="utf-8") as file:
        for name, kind in names(new=new):
            file.write(json.dumps({"text": name, "label": kind}) + "\n")
    return path


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if unicodedata.unidata_version != VERSION:
        raise SystemExit(f"this Python has Unicode {unicodedata.unidata_version}: use 3.11, which has {VERSION}")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    prepare(
        "labelled",
        folder,
        paths=[write(folder / "new.jsonl", new=True)],
        absent_from=[write(folder / "old.jsonl", new=False)],
        tokenizer="bytes",
        max_characters=100,
    )
