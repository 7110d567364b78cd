"""Two machines, each with a folder of its own: processes of two launchers that meet at a port."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

from certified_run import flags

from sublora.certificate.verify import verify
from sublora.config import load_config
from sublora.run_folder import RunFolder
from sublora.training.checkpoint import LAST, load_checkpoint
from sublora.training.loop import train

EXTRA = [
    "--training.max_iters=20", "--training.eval_interval=10", "--sublora.intrinsic_dim=20",
    "--bounds.bound_samples=60", "--bounds.curvature_samples=16",
]  # fmt: skip
# What a user types on every machine, in one process: starting one takes longer than all of it.
SCRIPT = """
import shutil, sys
from pathlib import Path
from sublora.certificate.issue import certify
from sublora.config import load_config
from sublora.errors import ConfigError
from sublora.run_folder import RunFolder
from sublora.scoring.processes import Processes
from sublora.training.loop import train

first, own, *flags = sys.argv[1:]
flags = [flag.replace("OWN", own) for flag in flags]
train(load_config(flags))
peers = Processes("cpu")
peers.wait()
run = RunFolder(Path(own) / "run")
if not peers.main:
    assert not run.path.exists(), "the second machine wrote files of the run"
    run.path.mkdir()
    shutil.copy(RunFolder(Path(first) / "run").best, run.path)
peers.wait()
certify(load_config(flags))
for extra, what in ((["--training.max_iters=30"], "the checkpoint that is gone on from"),
                    ([f"--optimizer.beta1=0.{5 + peers.index}", f"--login.out_dir={own}/new"], "the configuration")):
    try:
        train(load_config([*flags, *extra]))
    except ConfigError as error:
        assert f"{what} differs between the processes" in str(error), error
    else:
        raise AssertionError(what)
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_run_on_two_machines_is_that_on_one(data_dir, tmp_path):
    """Training and bounds; the second machine writes nothing of the run, and neither goes on from another state."""
    machines, script = [tmp_path / "one", tmp_path / "two"], tmp_path / "script.py"
    script.write_text(SCRIPT)
    for folder in machines:
        shutil.copytree(data_dir, folder / "data")
    # Only the first one has read the corpus before.
    for index in (machines[1] / "data").rglob("*.index.npy"):
        index.unlink()
    words = flags("OWN/data", "OWN/run", *EXTRA)
    launch = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *launch]
    running = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={rank}", str(script), str(machines[0]), str(own), *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank, own in enumerate(machines)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    one, two = (RunFolder(folder / "run") for folder in machines)
    assert verify(one.path, data_dir).measured is not None
    assert files(two.path) == [one.best.name]
    train(load_config(flags(data_dir, tmp_path / "alone", *EXTRA)))
    together, alone = (
        load_checkpoint(path / LAST).tensors["subspace_params"] for path in (one.path, tmp_path / "alone")
    )
    assert together.abs().max() > 0.01 and (together - alone).abs().max() < 1e-5


def files(folder: Path):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
