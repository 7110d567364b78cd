"""A classifier of a task of GLUE from its rows to a verified certificate.

    python experiments/run_glue.py TASK FOLDER [--tokenizer T] [--base B] [--max-characters N] [--copy C]
        [--section.key=value ...]

Settings are those of config/classification.yaml but for what is given. A run that was killed goes on.
"""

import argparse
import runpy
import sys
from pathlib import Path

from sublora.cli import main
from sublora.errors import SubloraError

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "config" / "classification.yaml"
META = "meta.json"


def run(words: list[str]) -> int:
    """Prepare, train, certify and verify; return the exit status of the first step that fails, 0 where none does."""
    parser = argparse.ArgumentParser(prog="run_glue.py", description="Certify a classifier of a task of GLUE.")
    parser.add_argument("task")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", default="bytes", help="as for `sublora prepare`")
    parser.add_argument("--base", default="", help="a pretrained base, older than the task")
    parser.add_argument("--max-characters", type=int, default=100, help="of a text that are read")
    parser.add_argument("--copy", default="", help="folder with the files of nyu-mll/glue, in the place of the hub")
    given, flags = parser.parse_known_args(words)
    data, out = given.folder / "data", given.folder / "run"
    glue = runpy.run_path(str(ROOT / "data" / "glue" / "prepare.py"))
    try:
        glue["require_task"](given.task)
        if not (data / META).exists():
            glue["main"](given.task, data, given.tokenizer, given.copy, given.max_characters)
    except SubloraError as error:
        sys.stderr.write(f"run_glue.py: error: {error}\n")
        return 2
    settings = [f"--config-file={CONFIG}", f"--data.dataset_dir={data}", f"--login.out_dir={out}", *flags]
    settings += [f"--prior.base={given.base}"] if given.base else []
    base = ["--base", given.base] if given.base else []
    for step in (
        ["train", *settings],
        ["bounds", *settings, f"--model.best_checkpoint_path={out}"],
        ["verify", str(out), "--data", str(data), *base],
    ):
        if status := main(step):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
