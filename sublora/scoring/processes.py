"""The processes that share a scoring: one, or those that torchrun or accelerate started."""

import hashlib

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce

from sublora.errors import CertificateError
from sublora.peers import part_at_exit


class Processes:
    """This process among its peers.

    Attributes:
        index, count: of this process, and of all.
        device: where this process computes.
    """

    def __init__(self, device: str = "auto") -> None:
        """Join the peers; `device` is auto (a process's own accelerator, if it has one) or a name of torch's."""
        self._state = PartialState(cpu=device == "cpu")
        part_at_exit()
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.device = self._state.device if device == "auto" else torch.device(device)

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self._state.is_main_process

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Return the sum over all processes. Where all but one hold zeros, it is exact."""
        if self.count == 1:
            return array
        total = reduce(torch.from_numpy(array).to(self._state.device), "sum")
        return np.asarray(total.cpu().numpy())

    def wait(self) -> None:
        """Wait until every process is here."""
        self._state.wait_for_everyone()

    def differ(self, data: bytes) -> bool:
        """Return whether some process holds other bytes; every process finds the same."""
        own = np.frombuffer(hashlib.sha256(data).digest(), np.uint8).astype(np.int64)
        squares = self.sum(own * own)
        # The mean of squares is the square of the mean only where all numbers are alike.
        return not np.array_equal(squares * self.count, self.sum(own) ** 2)

    def agree(self, what: str, data: bytes) -> None:
        """Check that every process holds the same bytes.

        Raises:
            CertificateError: on every process, if one differs.
        """
        if self.differ(data):
            raise CertificateError(f"{what} differs between the processes: use machines of one kind, or one process")
