"""Scoring in chunks: bucketed by length, divided between processes, kept on disk until all are done."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sublora.errors import CertificateError
from sublora.files import write_bytes
from sublora.progress import progress
from sublora.scoring.processes import Processes
from sublora.scoring.scores import Scores, read_scores

log = logging.getLogger(__name__)

# A chunk's windows hold about so many tokens: what an interruption costs at most, in each process.
CHUNK_TOKENS = 1 << 16


def cut_chunks(tokens: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " m"]]:
    """Return chunks of indices, from the longest unit to the shortest, so that the windows of a chunk are alike.

    The chunks depend on nothing else: they are the same for every number of processes.

    Args:
        tokens: that must be read to score each unit.
    """
    order = np.argsort(-tokens, kind="stable")
    before = np.cumsum(tokens[order]) - tokens[order]
    return np.split(order, np.flatnonzero(np.diff(before // CHUNK_TOKENS)) + 1)


def score_in_chunks(
    score: Callable[[Int[np.ndarray, " m"], Callable[[int], None]], Scores],
    tokens: Int[np.ndarray, " n"],
    columns: int,
    processes: Processes,
    description: str,
    kept: Path | None,
) -> Scores:
    """Score n units; process i of p takes the chunks i, i + p, i + 2p and so on, and all return the same.

    Args:
        score: returns the scores of some units, by their indices, and says on the way how many tokens it has read.
        tokens: that must be read to score each unit.
        columns: tokens per unit in `Scores.token_bits`.
        processes: that share the work.
        description: shown beside the progress.
        kept: folder that belongs to this very scoring and no other. A finished chunk is written there, one that is
            found there is not scored again, and the folder is removed at the end. None keeps nothing.
    """
    chunks = cut_chunks(tokens)
    scores = Scores.zeros(len(tokens), columns)
    mine = range(processes.index, len(chunks), processes.count)
    with progress(f"{description}, tokens", int(sum(tokens[chunks[i]].sum() for i in mine))) as advance:
        for i in mine:
            path = None if kept is None else kept / f"{i:06d}.safetensors"
            part = None if path is None else _read(path, len(chunks[i]))
            left = _Left(int(tokens[chunks[i]].sum()), advance)
            if part is None:
                part = score(chunks[i], left.read)
                if path is not None:
                    write_bytes(path, part.to_bytes())
            scores.put(chunks[i], part)
            left.read(left.tokens)
    scores = Scores(**{name: processes.sum(array) for name, array in scores.arrays().items()})
    # After the sum every process has read what it needs; their folders may be one, or one on each machine.
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    return scores


class _Left:
    """The tokens of a chunk that are still to be read. What is said of them goes on to the progress, and no more."""

    def __init__(self, tokens: int, advance: Callable[[int], None]) -> None:
        self.tokens, self.advance = tokens, advance

    def read(self, tokens: int) -> None:
        """Say that so many more were read."""
        tokens = min(tokens, self.tokens)
        self.tokens -= tokens
        self.advance(tokens)


def _read(path: Path, n: int) -> Scores | None:
    """The scores of a finished chunk, None where there are none."""
    if not path.exists():
        return None
    try:
        scores = read_scores(path)
    except CertificateError as error:
        log.warning("%s; the chunk is scored again", error)
        return None
    return scores if len(scores.bits) == n else None
