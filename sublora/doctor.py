"""What this machine has, and about how long the shipped demos take on it."""

import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

import sublora
from sublora.run_folder import RunFolder

# Product of float32 matrices on the machine that the committed times were taken on: two cores with AVX2 (docs/log.md).
REFERENCE_GFLOPS = 90.0
RESULTS = Path(__file__).resolve().parent.parent / "results"
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "constriction")
_SIDE = 1024


def gflops(seconds: float = 1.0) -> float:
    """Measure products of float32 matrices on the CPU for so many seconds; return 10^9 operations per second."""
    import torch

    a = torch.ones(_SIDE, _SIDE)
    a @ a
    products, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not products:
        a @ a
        products += 1
    return products * 2 * _SIDE**3 / spent / 1e9


def demo_times(results: Path, speed: float) -> dict[str, float]:
    """Return about how many seconds each committed demo takes here, by the name of its run.

    Args:
        results: folder of committed runs; those without times are left out.
        speed: of this machine, in 10^9 operations per second. Time is taken to be proportional to its inverse, which
            is rough: reading, memory and other work do not scale like that.
    """
    runs = [RunFolder(path) for path in sorted(results.glob("*"))]
    return {
        run.path.name: sum(json.loads(run.times.read_bytes()).values()) * REFERENCE_GFLOPS / speed
        for run in runs
        if run.times.is_file()
    }


def examine(results: Path = RESULTS, folder: Path = Path()) -> Iterator[str]:
    """Yield one line for everything that a run depends on.

    Args:
        results: folder of committed runs, whose times the estimate is made from.
        folder: where runs will be written; its free space is reported.
    """
    import torch

    from sublora.nn.precision import bfloat16_hardware

    yield f"sublora {sublora.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield "packages: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    yield f"cores: {psutil.cpu_count(logical=False)} ({os.cpu_count()} threads, torch uses {torch.get_num_threads()})"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield f"GPU: {', '.join(gpus) or ('mps' if torch.backends.mps.is_available() else 'none')}"
    device = torch.device("cuda" if gpus else "cpu")
    yield f"bfloat16 on {device.type}: {bfloat16_hardware(device) or 'no hardware for it; use system.dtype=float32'}"
    memory = psutil.virtual_memory()
    yield f"memory: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield f"disk: {shutil.disk_usage(folder).free / 2**30:.1f} GiB free in {folder.resolve()}"
    speed = gflops()
    yield f"speed: {speed:.0f} GFLOPS in float32 on the CPU, measured for a second"
    times = demo_times(results, speed)
    for name, seconds in times.items():
        yield f"sublora demo --config config/{name}.yaml: about {max(seconds / 60, 1):.0f} minutes on the CPU"
    if times:
        yield (
            "Rough estimates, for a machine with nothing else to do: committed times, scaled from "
            f"{REFERENCE_GFLOPS:.0f} GFLOPS by one matrix product."
        )
    else:
        yield "How long the demos take is estimated in a checkout, where committed times are."
