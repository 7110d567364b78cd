"""GLUE by the names of its tasks: the loading code is the real one, and a local folder stands in for the hub."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from sublora.corpus.corpus import open_corpus
from sublora.corpus.labelled import LabelTokenizer, labels_of
from sublora.corpus.tokenizers import ByteTokenizer
from sublora.errors import CorpusError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "data" / "glue" / "prepare.py"
# Columns and labels of every task as the data set nyu-mll/glue has them on the hub.
TASKS = {
    "cola": ("sentence", "", ["unacceptable", "acceptable"]),
    "sst2": ("sentence", "", ["negative", "positive"]),
    "mrpc": ("sentence1", "sentence2", ["not_equivalent", "equivalent"]),
    "qqp": ("question1", "question2", ["not_duplicate", "duplicate"]),
    "mnli": ("premise", "hypothesis", ["entailment", "neutral", "contradiction"]),
    "qnli": ("question", "sentence", ["entailment", "not_entailment"]),
    "rte": ("sentence1", "sentence2", ["entailment", "not_entailment"]),
    "wnli": ("sentence1", "sentence2", ["not_entailment", "entailment"]),
}


def write_hub(folder, task, *, drop="", label=None, count=40):
    """A folder that `datasets` reads as it reads the hub's: a file for every part, the test's without labels."""
    first, second, names = TASKS[task]
    parts = {"train": count, "validation": count // 4, "test": count // 4}
    if task == "mnli":
        parts = {f"{part}{of}": n for part, n in parts.items() for of in ("", "_matched", "_mismatched")}
        parts = {part: n for part, n in parts.items() if (part == "train") == (not part.endswith("matched"))}
    files = []
    for part, n in parts.items():
        rows = {first: [f" {part} {i} {'union' if i % len(names) else 'army'} " for i in range(n)]}
        if second:
            rows[second] = [f"pair {i % len(names)}" for i in range(n)]
        rows["label"] = [-1 if part.startswith("test") else i % len(names) for i in range(n)]
        if label is not None:
            rows["label"][3] = label
        rows["idx"] = list(range(n))
        kinds = {name: datasets.Value("string") for name in (first, second) if name}
        kinds |= {"label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
        rows.pop(drop, None)
        kinds.pop(drop, None)
        (folder / task).mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, datasets.Features(kinds)).to_parquet(folder / task / f"{part}.parquet")
        files.append({"split": part, "path": f"{task}/{part}.parquet"})
    configs = json.dumps({"configs": [{"config_name": task, "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{configs}\n---\n")
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_columns_labels_and_parts(task, tmp_path, offline):
    found = list(script()["rows"](task, str(write_hub(tmp_path / "hub", task))))
    _, second, names = TASKS[task]
    # All that is public: of MNLI, whose validation has two parts, both of them.
    validation = ("validation_matched", "validation_mismatched") if task == "mnli" else ("validation",)
    expected = [("train", i) for i in range(40)] + [(part, i) for part in validation for i in range(10)]
    pair = "\npair {}" if second else ""
    assert found == [
        {
            "text": f"{part} {i} {'union' if i % len(names) else 'army'}{pair.format(i % len(names))}",
            "label": names[i % len(names)],
        }
        for part, i in expected
    ]
    # A message tells its labels by one token each.
    assert len(set(LabelTokenizer(ByteTokenizer(), names, 100).labels.tokens)) == len(names)


def test_no_task_is_forgotten():
    assert set(script()["COLUMNS"]) == set(TASKS)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("stsb", "has grades and no classes"),
        ("ax", "are not public"),
        ("snli", "GLUE has no classification task 'snli': cola, sst2, mrpc, qqp, mnli, qnli, rte, wnli"),
    ],
)
def test_other_tasks_are_one_line(task, message, tmp_path, capsys):
    with pytest.raises(CorpusError, match=message):
        script()["main"](task, tmp_path / "out")
    run = runpy.run_path(str(ROOT / "experiments" / "run_glue.py"))["run"]
    assert run([task, str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"drop": "sentence2"}, "train of rte has no column 'sentence2', but sentence1, label, idx"),
     ({"label": -1}, "row 4 of train of rte has no label")],
)  # fmt: skip
def test_other_rows_are_one_line(change, message, tmp_path, offline):
    with pytest.raises(CorpusError, match=message):
        script()["main"]("rte", tmp_path / "out", copy=str(write_hub(tmp_path / "hub", "rte", **change)))
    assert not (tmp_path / "out").exists()


def test_without_the_network_one_line_says_what_to_do(tmp_path, monkeypatch, capsys, offline):
    """The real loader, told that there is no network, as HF_HUB_OFFLINE tells it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    run = runpy.run_path(str(ROOT / "experiments" / "run_glue.py"))["run"]
    assert run(["rte", str(tmp_path / "rte")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("run_glue.py: error: cannot fetch rte of GLUE: ") and error.count("\n") == 1
    assert "; a folder with the files of nyu-mll/glue does without the network: run_glue.py --copy FOLDER" in error
    assert not (tmp_path / "rte").exists()
    # What it says to do is read; other folders are one line too.
    hub = write_hub(tmp_path / "hub", "rte")
    assert len(list(script()["rows"]("rte", str(hub)))) == 50
    capsys.readouterr()
    for copy, words in ((hub, "no copy of nyu-mll/glue with the task cola"), (tmp_path / "none", "is no folder")):
        assert run(["cola", str(tmp_path / "cola"), "--copy", str(copy)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_what_cannot_be_fetched_is_one_line(tmp_path, monkeypatch):
    def load_dataset(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(CorpusError, match="cannot fetch rte of GLUE: no network at all"):
        script()["main"]("rte", tmp_path / "rte")
    assert not (tmp_path / "rte").exists()


def test_a_script_without_arguments_says_its_usage():
    done = subprocess.run([sys.executable, str(SCRIPT), "rte"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "usage: prepare.py TASK FOLDER [TOKENIZER [COPY]]\n"


def test_a_task_is_prepared_trained_certified_and_verified(tmp_path, capsys, offline):
    hub = write_hub(tmp_path / "hub", "rte", count=200)
    run = runpy.run_path(str(ROOT / "experiments" / "run_glue.py"))["run"]
    sizes = ["--model.n_layer=1", "--model.n_head=2", "--model.n_embd=32", "--data.block_size=64"]
    flags = [*sizes, "--sublora.adapter=weights", "--training.max_iters=4", "--bounds.quantizer=trellis"]
    words = [
        "rte",
        str(tmp_path / "rte"),
        "--copy",
        str(hub),
        "--max-characters=40",
        "--bounds.bound_samples=50",
        *flags,
    ]
    assert run([*words, "--bounds.bound_samples=50", "--system.device=cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verified (full replay): With probability at least 95 %")
    corpus = open_corpus(tmp_path / "rte" / "data")
    assert labels_of(corpus).names == ("entailment", "not_entailment") and corpus.population == 250
