"""nanoGPT's corpora of characters: recognised by their meta.pkl, which is never opened."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from corpora import write_tokens

from sublora.corpus.corpus import open_corpus
from sublora.corpus.units import sample_units
from sublora.errors import CorpusError


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of 2 + 1 lines, whose pickle would leave a file if anybody loaded it."""
    write_tokens(tmp_path, [[3, 4, 5], [6, 7]], eot=0)
    write_tokens(tmp_path, [[8, 3]], eot=0, name="val")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(_Trap(tmp_path / "opened")))
    return tmp_path


def test_the_vocabulary_is_what_occurs_in_both_files(folder, caplog):
    corpus = open_corpus(folder)
    assert (corpus.vocab_size, corpus.eot_token) == (10, 9)
    assert corpus.train.document(0).tolist() == [3, 4, 5, 0, 6, 7, 0] and len(corpus.train) == len(corpus.val) == 1
    for word in ("is not opened", "0 to 8", "end-of-text 9", "data.vocab_size and data.eot_token"):
        assert word in caplog.text
    assert len(sample_units(corpus, corpus.train, "sequence_level", 3)) == 2
    assert not (folder / "opened").exists()
    pickle.loads((folder / "meta.pkl").read_bytes())  # noqa: S301
    assert (folder / "opened").exists()
    # What a message says of the corpus opens it as it was.
    again = open_corpus(folder, eot_token=9, vocab_size=10)
    assert again.meta == corpus.meta


def test_lines_are_documents_where_end_of_text_is_a_line_feed(folder):
    corpus = open_corpus(folder, eot_token=0)
    assert [corpus.train.document(i).tolist() for i in range(2)] == [[3, 4, 5], [6, 7]]
    assert corpus.vocab_size == 9


def test_without_the_pickle_tokens_are_those_of_gpt2(folder):
    (folder / "meta.pkl").unlink()
    assert open_corpus(folder).vocab_size == 50257


def test_no_token_is_left_for_end_of_text(folder):
    np.array([1, 65_535], "<u2").tofile(folder / "val.bin")
    with pytest.raises(CorpusError, match=r"leave none for end-of-text: set data\.vocab_size and data\.eot_token"):
        open_corpus(folder)
    (folder / "val.bin").write_bytes(b"abc")
    with pytest.raises(CorpusError, match="no whole number"):
        open_corpus(folder)
