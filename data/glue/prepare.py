"""A task of GLUE (Wang et al. 2019) as labelled text: `python data/glue/prepare.py TASK FOLDER [TOKENIZER]`.

Rows of the training and validation parts, whose labels are public, become one population; of a pair, the second text
stands on a line of its own. The labels are older than most bases: name one that was published before 2018, or random
weights, or a claim about it is void.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from sublora.corpus.prepare import prepare
from sublora.corpus.tokenizers import INSTALL
from sublora.errors import CorpusError, SubloraError

COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
PARTS = {"mnli": ("train", "validation_matched", "validation_mismatched")}


def rows(task: str) -> Iterator[dict[str, str]]:
    """Yield the labelled rows of a task.

    Raises:
        CorpusError: no such task, no package `datasets`, or the data set cannot be fetched.
    """
    if task not in COLUMNS:
        raise CorpusError(f"GLUE has no classification task {task!r}: {', '.join(COLUMNS)}")
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"GLUE needs datasets: {INSTALL}") from error
    for part in PARTS.get(task, ("train", "validation")):
        try:
            data = datasets.load_dataset("nyu-mll/glue", task, split=part)
        except (OSError, ValueError, RuntimeError) as error:
            raise CorpusError(f"cannot fetch {task} of GLUE: {' '.join(str(error).split())}") from error
        names = data.features["label"].names
        for row in data:
            text = "\n".join(row[column].strip() for column in COLUMNS[task])
            if text.strip():
                yield {"text": text, "label": names[row["label"]]}


def main(task: str, folder: Path, tokenizer: str = "bytes") -> None:
    """Write the rows of a task and the corpus of them into a folder."""
    lines = [json.dumps(row) + "\n" for row in rows(task)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    prepare("labelled", folder, paths=[path], tokenizer=tokenizer)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4])
    except SubloraError as failure:
        sys.exit(f"prepare.py: error: {failure}")
