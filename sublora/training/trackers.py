"""Who watches a run: a JSONL file always, TensorBoard always, Weights & Biases on request."""

import json
import secrets
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from sublora.config import Config
from sublora.files import write_text
from sublora.run_folder import RunFolder


def _flatten(record: dict[str, Any]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, list):
            out |= {f"{record['kind']}/{name}/{i}": v for i, v in enumerate(value)}
        elif isinstance(value, dict):
            out |= {f"{record['kind']}/{name}/{key}": v for key, v in value.items()}
        elif isinstance(value, int | float) and name != "iter":
            out[f"{record['kind']}/{name}"] = value
    return out


def _stands(line: str, resume_at: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        # The process was killed in the middle of the line.
        return False
    # The evaluation at the step of the checkpoint is made again.
    return record["iter"] < resume_at or (record["iter"] == resume_at and record["kind"] == "train")


class Trackers:
    """Write records `{"kind": "train" | "eval", "iter": int, ...}` to everything that watches.

    Args:
        out_dir: folder of the run.
        config: section login says whether Weights & Biases is used.
        resume_at: step that the run goes on from; what was written after it is dropped. None starts a new file.
    """

    def __init__(self, out_dir: Path, config: Config, resume_at: int | None) -> None:
        run = RunFolder(out_dir)
        path = run.metrics
        old = path.read_text().splitlines() if resume_at is not None and path.exists() else []
        kept = [line for line in old if _stands(line, resume_at or 0)]
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(run.tensorboard), purge_step=resume_at)
        self._wandb = None
        if config.login.wandb_log:
            import wandb

            identity = run.wandb_id
            if resume_at is None or not identity.exists():
                write_text(identity, secrets.token_hex(4))
            self._wandb = wandb.init(
                id=identity.read_text(),
                resume="allow",
                project=config.login.wandb_project,
                name=config.login.wandb_run_name,
                dir=str(out_dir),
                config=config.to_dict(),
            )

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        numbers = _flatten(record)
        for name, value in numbers.items():
            self._board.add_scalar(name, value, record["iter"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=record["iter"])

    def close(self) -> None:
        """Flush and close everything."""
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
