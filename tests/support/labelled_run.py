"""A tiny labelled corpus, and the settings of a classifier that is trained and certified on it in seconds."""

import json

import numpy as np

from sublora.certificate.reading import write_certificate
from sublora.classification.issue import certify_classifier
from sublora.classification.wording import limits, statement
from sublora.config import load_config
from sublora.corpus.prepare import prepare
from sublora.training.loop import train

WORDS = {"peace": ["treaty", "union", "accord"], "war": ["army", "fleet", "fort"]}
THREE = {**WORDS, "trade": ["tariff", "port", "bank"]}
COMMON = ["the", "of", "state", "congress", "a"]


def write_labelled(path, n=600, seed=0, swap=(), words_of=WORDS):
    """Texts of common words with one or two that give the label away; labels at `swap` are those of other texts."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = str(rng.choice(list(words_of)))
        words = [*rng.choice(COMMON, 4), *rng.choice(words_of[label], 2), str(i)]
        text = " ".join(rng.permutation(words))
        shown = next(other for other in words_of if other != label) if i in swap else label
        rows.append({"text": text, "label": shown})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare_labelled(folder, swap=(), words_of=WORDS):
    file = write_labelled(folder / "texts.jsonl", swap=swap, words_of=words_of)
    return prepare("labelled", folder / "data", paths=[file], max_characters=48, prior_share=0.2)


def classifier_flags(data_dir, out_dir, *extra):
    return [
        f"--data.dataset_dir={data_dir}", f"--login.out_dir={out_dir}", "--data.batching=labels",
        "--data.batch_size=16", "--data.block_size=64", "--model.n_layer=1", "--model.n_head=2", "--model.n_embd=32",
        "--sublora.adapter=weights", "--sublora.intrinsic_dim=200", "--training.max_iters=150",
        "--training.eval_interval=75", "--training.eval_iters=2", "--optimizer.learning_rate=0.1",
        "--optimizer.weight_decay=0", "--system.device=cpu", "--bounds.bound_samples=200", "--bounds.quantizer=trellis",
        f"--model.best_checkpoint_path={out_dir}", *extra,
    ]  # fmt: skip


def certify_labelled(data_dir, out_dir, *extra):
    """Train and certify a tiny classifier; return the folder of its run."""
    train(load_config(classifier_flags(data_dir, out_dir, *extra)))
    certify_classifier(load_config(classifier_flags(data_dir, out_dir, *extra)))
    return out_dir


def reseal(run, certificate, **claims):
    """Write a certificate, with other claims where they are given, and the sentences and digest that belong to it."""
    c = certificate.model_copy(update={"claims": certificate.claims.model_copy(update=claims)})
    said = statement(c.claims, c.baselines, c.setting, c.corpus, c.message.bits)
    sentences = {"statement": said, "limits": limits(c.setting, c.corpus, c.prior)}
    write_certificate(run, c.model_copy(update=sentences))
