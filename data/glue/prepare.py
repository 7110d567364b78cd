"""A task of GLUE (Wang et al. 2019) as labelled text: `python data/glue/prepare.py TASK FOLDER [TOKENIZER [COPY]]`.

COPY is a folder with the files of the data set nyu-mll/glue, where the hub cannot be reached.

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

NAME = "nyu-mll/glue"
GIVE = (
    f"a folder with the files of {NAME} does without the network: run_glue.py --copy FOLDER, or prepare.py TASK FOLDER "
    "bytes COPY"
)
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


def require_task(task: str) -> None:
    """Raise CorpusError unless GLUE has a task of this name that gives texts one of a few labels."""
    if task == "stsb":
        raise CorpusError("the task stsb of GLUE has grades and no classes: nothing here certifies them")
    if task == "ax":
        raise CorpusError("the labels of the task ax of GLUE are not public: there is nothing to certify")
    if task not in COLUMNS:
        raise CorpusError(f"GLUE has no classification task {task!r}: {', '.join(COLUMNS)}")


def rows(task: str, copy: str = "") -> Iterator[dict[str, str]]:
    """Yield the labelled rows of a task.

    Args:
        task: its name.
        copy: folder with the data set's files; "" for the hub.

    Raises:
        CorpusError: no such task, no package `datasets`, the data set cannot be fetched, or has other columns.
    """
    require_task(task)
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(f"GLUE needs datasets: {INSTALL}") from error
    if copy and not Path(copy).is_dir():
        raise CorpusError(f"{copy} is no folder: give one with the files of the data set {NAME}")
    for part in PARTS.get(task, ("train", "validation")):
        try:
            data = datasets.load_dataset(copy or NAME, task, split=part)
        except (OSError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            if copy:
                raise CorpusError(f"{copy} is no copy of {NAME} with the task {task}: {why}") from error
            raise CorpusError(f"cannot fetch {task} of GLUE: {why}; {GIVE}") from error
        if missing := {"label", *COLUMNS[task]} - set(data.features):
            raise CorpusError(f"{part} of {task} has no column {min(missing)!r}, but {', '.join(data.features)}")
        names = data.features["label"].names
        for number, row in enumerate(data, 1):
            # What is not public is -1, and would be the last of the names.
            if row["label"] not in range(len(names)):
                raise CorpusError(f"row {number} of {part} of {task} has no label")
            text = "\n".join(row[column].strip() for column in COLUMNS[task])
            if text.strip():
                yield {"text": text, "label": names[row["label"]]}


def main(task: str, folder: Path, tokenizer: str = "bytes", copy: str = "", max_characters: int | None = None) -> Path:
    """Write the rows of a task and the corpus of them into a folder, and return that."""
    lines = [json.dumps(row) + "\n" for row in rows(task, copy)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return prepare("labelled", folder, paths=[path], tokenizer=tokenizer, max_characters=max_characters)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) not in (3, 4, 5):
        sys.exit("usage: prepare.py TASK FOLDER [TOKENIZER [COPY]]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except SubloraError as failure:
        sys.exit(f"prepare.py: error: {failure}")
