"""lm-evaluation-harness runs on exports, and finds the numbers that the decoded model has."""

import json

import pytest
import torch
from certified_run import flags
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sublora.certificate.issue import certify
from sublora.coding.message import decode_message
from sublora.config import load_config
from sublora.export.export import export
from sublora.run_folder import RunFolder
from sublora.scoring.measure import rebuild
from sublora.training.loop import train

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install sublora[harness]")

TASK = """task: tiny
dataset_path: json
dataset_kwargs:
  cache_dir: {cache}
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{start}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: label
target_delimiter: " "
metric_list:
  - metric: acc
"""
ROWS = [
    {"start": "union state of", "endings": ["congress", "peace", "zebra"], "label": 0},
    {"start": "the treaty", "endings": ["xylophone", "revenue"], "label": 1},
    {"start": "peace", "endings": ["the union", "of"], "label": 0},
]


def byte_tokenizer(folder):
    """Bytes as tokens, in the files of transformers: its letters for the bytes in their order, and end-of-text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: _byte(c))
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"<|end|>": 256}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)


def _byte(letter):
    """The byte that a letter of byte-level BPE stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return ord(letter) if ord(letter) < 256 else others[ord(letter) - 256]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "llama"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def run(base, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sizes = ["--model.n_layer=12", "--model.n_head=12", "--model.n_embd=768", f"--prior.base={base}"]
    options = flags(data_dir, folder, "--training.max_iters=30", "--bounds.bound_samples=20", *sizes)
    train(load_config(options))
    certify(load_config(options))
    return folder


def evaluate(folder, **where):
    """Run the tiny task; return accuracy and the log-likelihood of every ending."""
    (folder / "tasks").mkdir()
    (folder / "rows.json").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    (folder / "tasks" / "tiny.yaml").write_text(TASK.format(data=folder / "rows.json", cache=folder / "cache"))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"dtype": "float32"} | {name: str(path) for name, path in where.items()},
        tasks=["tiny"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=2,
        bootstrap_iters=0,
    )
    rows = sorted(found["samples"]["tiny"], key=lambda row: row["doc_id"])
    return found["results"]["tiny"]["acc,none"], [[r[0][0] for r in row["resps"]] for row in rows]


def log_likelihoods(model):
    """The same from the logits of a model."""
    found = []
    for row in ROWS:
        start = list(row["start"].encode())
        ends = [list(f" {ending}".encode()) for ending in row["endings"]]
        with torch.no_grad():
            logs = [model(torch.tensor([start + end])).logits[0].log_softmax(-1) for end in ends]
        found.append(
            [
                sum(float(log[len(start) + i - 1, token]) for i, token in enumerate(end))
                for log, end in zip(logs, ends, strict=True)
            ]
        )
    return found


@pytest.mark.parametrize("merged", [False, True])
def test_the_harness_measures_the_decoded_model(merged, base, run, tmp_path):
    out = export(run, tmp_path / "export", base=str(base), merged=merged)
    if merged:
        byte_tokenizer(out)
    accuracy, found = evaluate(tmp_path, **({"pretrained": out} if merged else {"pretrained": base, "peft": out}))
    message = decode_message(RunFolder(run).message.read_bytes(), max_symbols=1 << 20)
    expected = log_likelihoods(rebuild(message, str(base), None).model.eval())
    alone = log_likelihoods(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    right = [max(range(len(e)), key=e.__getitem__) == row["label"] for e, row in zip(expected, ROWS, strict=True)]
    assert accuracy == pytest.approx(sum(right) / len(ROWS))
    for row, theirs, without in zip(found, expected, alone, strict=True):
        assert row == pytest.approx(theirs, abs=1e-3)
        # A harness that left the adapter out would be noticed.
        assert max(abs(a - b) for a, b in zip(row, without, strict=True)) > 0.1
