"""Scoring in chunks: the same result however it is divided, and after any interruption."""

import dataclasses
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from sublora.scoring import chunks
from sublora.scoring.chunks import cut_chunks, score_in_chunks
from sublora.scoring.processes import Processes
from sublora.scoring.scores import Scores

TOKENS = np.array([5, 1, 40, 7, 7, 22, 3, 18])


def scored(rows, read=None):
    """Return scores that name their unit."""
    scores = Scores.zeros(len(rows), 2)
    return dataclasses.replace(
        scores, bits=rows + 0.1, lengths=rows + 1, token_bits=np.stack([rows, rows + 0.5], 1, dtype="f4")
    )


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", 25)


def test_chunks_hold_every_unit_once_from_long_to_short(small_chunks):
    cut = cut_chunks(TOKENS)
    assert len(cut) > 2
    order = np.concatenate(cut)
    assert sorted(order) == list(range(len(TOKENS)))
    assert (np.diff(TOKENS[order]) <= 0).all()


def test_an_interrupted_scoring_goes_on_where_it_was(small_chunks, tmp_path):
    done = []

    def interrupted(rows, read):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(rows)
        return scored(rows)

    kept, processes = tmp_path / "scoring" / "key", Processes("cpu")
    with pytest.raises(KeyboardInterrupt):
        score_in_chunks(interrupted, TOKENS, 2, processes, "scoring", kept)
    assert len(list(kept.iterdir())) == 2
    # A file that the disk damaged is scored again.
    (kept / "000001.safetensors").write_bytes(b"damaged")
    again = []
    scores = score_in_chunks(lambda rows, _: again.append(rows) or scored(rows), TOKENS, 2, processes, "scoring", kept)
    assert not set(map(tuple, again)) & {tuple(done[0])} and tuple(done[1]) in set(map(tuple, again))
    assert not kept.exists()
    whole = score_in_chunks(scored, TOKENS, 2, processes, "scoring", None)
    for name, array in whole.arrays().items():
        assert np.array_equal(array, scores.arrays()[name]), name
    assert np.array_equal(whole.bits, np.arange(len(TOKENS)) + 0.1)


def test_progress_is_made_inside_a_chunk_and_never_beyond_its_end(small_chunks, monkeypatch):
    told = []

    @contextmanager
    def progress(description, total):
        yield told.append
        assert sum(told) == total == TOKENS.sum()

    monkeypatch.setattr(chunks, "progress", progress)
    score_in_chunks(lambda rows, read: read(2) or read(1000) or scored(rows), TOKENS, 2, Processes("cpu"), "", None)
    assert told[:3] == [2, 38, 0] and len(told) == 3 * len(cut_chunks(TOKENS))


def test_processes_must_hold_the_same_message(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from sublora.scoring.processes import Processes\n"
        "from sublora.errors import CertificateError\n"
        "p = Processes('cpu')\n"
        "assert p.count == 2 and p.main == (p.index == 0)\n"
        "assert p.sum(np.array([p.index + 0.1, 1.0])).tolist() == [1.2000000000000002, 2.0]\n"
        "p.agree('the message', b'same')\n"
        "try:\n"
        "    p.agree('the message', b'rank %d' % p.index)\n"
        "except CertificateError as error:\n"
        "    sys.exit(0 if 'the message differs between the processes' in str(error) else 1)\n"
        "sys.exit(1)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
