"""Which documents are for training, which choose checkpoints, which are reported: a seed decides. Torch-free.

Of N documents in the order of their source, `shuffled("split", seed, N)` of `sublora.draws` names the document at
every place, where the seed is 8 bytes, big-endian. The first T = round(N / val_every) places are the test part, the
next T the validation part (at least one document each where N >= 3, none where N < 3; halves round to even), the next
round(prior_share N), at least one, the prior share, and the rest is for training. In each part documents keep the
order of the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int64

from sublora.corpus.corpus import Corpus, Split
from sublora.corpus.digest import UNKNOWN_BYTES, DocumentHash
from sublora.draws import shuffled
from sublora.errors import CorpusError

SPLITS = ("train", "val", "test", "prior")
TRAIN, VAL, TEST, PRIOR = range(len(SPLITS))
SPLIT_SEEDS = 1 << 40
"""seeds that may be given; a claim that pays for the choice of one pays 40 bits"""


@dataclass(frozen=True)
class Sizes:
    """How many documents each part has.

    Attributes:
        train, val, test: documents of the population.
        prior: documents of the prior share.
    """

    train: int
    val: int
    test: int
    prior: int

    @property
    def population(self) -> int:
        """The documents a claim is about: those that nothing was learned from beforehand."""
        return self.train + self.val + self.test


def split_sizes(n: int, val_every: int, prior_share: float | None) -> Sizes:
    """Return the sizes of the parts of n documents.

    Raises:
        CorpusError: no document is left for training.
    """
    held_out = max(1, round(n / val_every)) if n >= 3 else 0
    prior = 0 if prior_share is None else max(1, round(prior_share * n))
    train = n - 2 * held_out - prior
    if train < 1:
        raise CorpusError(
            f"{n} documents leave none to train on: {held_out} are for validation, {held_out} for the test and "
            f"{prior} for the prior share; give more documents or a smaller share"
        )
    return Sizes(train, held_out, held_out, prior)


def assign(n: int, split_seed: int, sizes: Sizes) -> Int8[np.ndarray, " n"]:
    """Return the part of every document in the order of the source: TRAIN, VAL, TEST or PRIOR."""
    order = shuffled("split", split_seed.to_bytes(8, "big"), n)
    places = np.repeat(np.array([TEST, VAL, PRIOR, TRAIN], np.int8), [sizes.test, sizes.val, sizes.prior, sizes.train])
    out = np.empty(n, np.int8)
    out[order] = places
    return out


def in_order(corpus: Corpus) -> tuple[Int8[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return where all documents that are not known beforehand are, in the order of their source.

    Where nothing is known about the split, the order is that of the files: training, validation, test.

    Returns:
        Number of the part, counted in `Corpus.parts`, and row in it, of every document.

    Raises:
        CorpusError: meta.json does not fit the files.
    """
    found = [len(part) for part in corpus.parts]
    parts = np.repeat(np.arange(len(found), dtype=np.int8), found)
    if corpus.split_seed is not None:
        n, kept = corpus.meta.get("shuffled"), sum(found)
        if type(n) is not int or not kept <= n <= kept + len(corpus.prior or ()):
            raise CorpusError(f"the meta.json of {corpus.path} is damaged: prepare the corpus again")
        train, val, test = (*found, 0, 0)[:3]
        assigned = assign(n, corpus.split_seed, Sizes(train, val, test, n - kept))
        parts = assigned[assigned != PRIOR]
    rows = np.empty(len(parts), np.int64)
    for part, count in enumerate(found):
        rows[parts == part] = np.arange(count)
    return parts, rows


def check_split(corpus: Corpus) -> None:
    """Check that the parts of a corpus are those of its seed.

    The sizes must be the function of N, val_every and the prior share that the module describes. All documents are put
    back into the order of the source, as the seed says where each came from, and their hash must be the one that
    meta.json records of the text (`shuffled_sha256`).

    What it shows: the parts are the seed's division of the sequence of documents with that hash. A document that was
    moved from one part to another, left out, added or changed is found.
    What it cannot show: that this sequence is the source's. Somebody who orders the documents of a source as he likes
    can give any division the look of a seed's. Who doubts that prepares the text himself: the same source, rule and
    seed give the same `shuffled_sha256` and the same files, bit for bit.

    Raises:
        CorpusError: nothing is known about the split, or it is not that of the seed.
    """
    meta = corpus.meta
    if corpus.split_seed is None or corpus.population is None:
        raise CorpusError(f"{corpus.path} does not say how its documents were divided: prepare it with sublora prepare")
    damaged = f"the documents of {corpus.path} are not divided as the seed {corpus.split_seed} divides them"
    try:
        n, val_every, share = meta["shuffled"], meta["val_every"], meta["prior_share"]
        before, recorded = meta["prior"]["older"] + meta["prior"]["before"], meta["shuffled_sha256"]
        sizes = split_sizes(n, val_every, share)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise CorpusError(f"the meta.json of {corpus.path} is damaged: prepare the corpus again") from error
    parts = (corpus.train, corpus.val, corpus.test, corpus.prior)
    found = [0 if part is None else len(part) for part in parts]
    expected = [sizes.train, sizes.val, sizes.test, sizes.prior + before]
    for name, have, should in zip(SPLITS, found, expected, strict=True):
        if have != should:
            raise CorpusError(f"{damaged}: {name} has {have} documents instead of {should}")
    if corpus.population != sizes.population:
        raise CorpusError(f"{damaged}: the population is {sizes.population} documents, not {corpus.population}")
    if _merged_sha256(parts, assign(n, corpus.split_seed, sizes), before, corpus.train.tokens.dtype) != recorded:
        raise CorpusError(f"{damaged}: put together again, they are not the text that meta.json describes")


def check_known(corpus: Corpus) -> None:
    """Check that no training, validation or test document is one of those that are known beforehand.

    A claim about a population is about all three. What it cannot show: that none is there under another form, with a
    word changed.

    Raises:
        CorpusError: there are no known documents, or one of them is another one.
    """
    if corpus.prior is None:
        raise CorpusError(f"{corpus.path} has no documents known beforehand: give the corpus that was certified")
    for name, part in zip(SPLITS, (corpus.train, corpus.val, corpus.test), strict=False):
        if part is not None and (both := common_documents(part, corpus.prior)):
            raise CorpusError(
                f"{both} of the {name} documents of {corpus.path} are among those that are said to be known "
                "beforehand: what is learned from them is not free"
            )


def common_documents(one: Split, other: Split) -> int:
    """Return how many different documents, by their tokens, two splits have in common."""
    a, b = (np.unique(split.digests(), axis=0) for split in (one, other))
    return len(a) + len(b) - len(np.unique(np.concatenate([a, b]), axis=0))


def _merged_sha256(
    parts: tuple[Split | None, ...], assigned: Int8[np.ndarray, " n"], before: int, token: np.dtype
) -> str:
    """The hash of all documents in the order of the source; the first `before` of the prior come from elsewhere."""
    out = DocumentHash(token)
    cursors = [_rows(part, before if number == PRIOR else 0) for number, part in enumerate(parts)]
    for part in assigned.tolist():
        out.add(*next(cursors[part]))
    return out.hexdigest()


def _rows(split: Split | None, first: int) -> Iterator[tuple[np.ndarray, int]]:
    if split is None:
        return
    tokens = np.asarray(split.tokens)
    known = split.byte_lengths
    for i in range(first, len(split)):
        start = int(split.starts[i])
        n_bytes = UNKNOWN_BYTES if known is None else int(known[i])
        yield tokens[start : start + int(split.lengths[i])], n_bytes
