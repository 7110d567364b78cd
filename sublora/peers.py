"""Processes that were started together by torchrun or accelerate, and how they part."""

import atexit

import torch


def part_at_exit() -> None:
    """Leave the process group when the interpreter ends, however it ends.

    A process that still has one when Python's objects are taken down can abort: gloo's threads are then joined by
    nobody. Called once per process, after the group exists or where there is none.
    """
    atexit.unregister(_part)
    atexit.register(_part)


def _part() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
