"""The labelled names of characters that `data/unicode/prepare.py` writes."""

import runpy
import sys
import unicodedata
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "data" / "unicode" / "prepare.py"), run_name="script")


@pytest.mark.skipif(unicodedata.unidata_version != SCRIPT["VERSION"], reason="another version of Unicode")
def test_names_are_new_or_known_and_none_is_counted():
    new, known = (dict(SCRIPT["names"](new=value)) for value in (True, False))
    assert (new["NKO COMBINING SHORT RISING TONE"], known["LATIN SMALL LETTER A"]) == ("mark", "letter")
    assert not new.keys() & known.keys()
    assert not [name for name in new.keys() | known.keys() if name.startswith("CJK UNIFIED IDEOGRAPH-")]
    assert set(new.values()) == set(SCRIPT["KINDS"].values())
    assert len(new) > len(known) > 10_000


def test_no_two_kinds_begin_alike():
    """A label is told by its first byte."""
    kinds = list(SCRIPT["KINDS"].values())
    assert len({kind[0] for kind in kinds}) == len(kinds)


def test_another_unicode_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(unicodedata, "unidata_version", "3.2.0")
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"use 3\.11"):
        runpy.run_path(str(Path(__file__).parents[2] / "data" / "unicode" / "prepare.py"), run_name="__main__")
    assert not (tmp_path / "out").exists()
