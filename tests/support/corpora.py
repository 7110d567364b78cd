"""Small corpora that tests write."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from sublora.corpus.corpus import Split
from sublora.corpus.index import index_path

TEXTS = [f"Paragraph {i} " + "é x" * (i % 7) for i in range(60)]


def write_text(path, texts):
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_tokens(folder, documents, eot=9, name="train", closed=True):
    tokens = [t for document in documents for t in [*document, eot]]
    np.array(tokens if closed else tokens[:-1], "<u2").tofile(folder / f"{name}.bin")
    return folder


def rewrite(folder, name, documents):
    """Write a split anew, with an honest hash and index."""
    index_path(folder / f"{name}.bin").unlink()
    write_tokens(folder, documents, eot=256, name=name)
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"][name]["sha256"] = hashlib.sha256((folder / f"{name}.bin").read_bytes()).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta))


def texts_of(split):
    """The texts of a split of bytes."""
    return [bytes(split.document(i).astype(np.uint8)).decode() for i in range(len(split))]


def everything(corpus):
    """The texts of the population, in any order."""
    return [text for part in (corpus.train, corpus.val, corpus.test) if part is not None for text in texts_of(part)]


def make_split(lengths, eot=9):
    """A split in memory whose tokens are all different, so that a wrong position shows."""
    starts = np.cumsum([0, *(n + 1 for n in lengths[:-1])]).astype(np.int64)
    tokens = (1000 + np.arange(sum(lengths) + len(lengths))).astype("<u2")
    tokens[starts + lengths] = eot
    tokens = tokens[:-1]  # the last document is not closed: nothing stands behind it
    return Split(Path("train.bin"), tokens, starts, np.array(lengths, np.int64), None, eot, 1, "")


def make_old(folder):
    """Move the modification times back, so that a time stamp counts as evidence."""
    for path in folder.glob("*.bin"):
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**11))
