"""A tiny corpus, and the settings of a run that is trained and certified on it in seconds."""

import numpy as np

from sublora.corpus.prepare import prepare


def write_corpus(folder, seed=0, n=400):
    rng = np.random.default_rng(seed)
    words = ["union", "state", "of", "the", "congress", "treaty", "peace", "revenue"]
    folder.mkdir(parents=True)
    (folder / "speech.txt").write_text("\n\n".join(" ".join(rng.choice(words, 10)) for _ in range(n)))
    prepare("text", folder / "data", paths=[folder / "speech.txt"])
    return folder / "data"


def flags(data_dir, out_dir, *extra):
    return [
        f"--data.dataset_dir={data_dir}", f"--login.out_dir={out_dir}", "--data.batch_size=8", "--data.block_size=32",
        "--model.n_layer=2", "--model.n_head=2", "--model.n_embd=16", "--sublora.intrinsic_dim=40",
        "--training.max_iters=60", "--training.eval_interval=30", "--training.eval_iters=2",
        "--optimizer.learning_rate=0.2", "--optimizer.weight_decay=0", "--system.device=cpu",
        f"--model.best_checkpoint_path={out_dir}", "--bounds.bound_samples=150", *extra,
    ]  # fmt: skip
