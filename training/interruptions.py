"""What stops a run from outside: SIGTERM, too little memory, a full disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError

EXIT_CODE = 128 + signal.SIGTERM  # as shells report it


class Termination:
    """Takes note of SIGTERM within its block, in which the process goes on."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._received = False

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def requested(self) -> bool:
        """Return whether any process has received SIGTERM. All processes call this together."""
        received = torch.tensor(int(self._received), device=self._accelerator.device)
        return bool(self._accelerator.reduce(received, "sum"))


def ignore_termination(worker: int) -> None:
    """Ignore SIGTERM in a process that prepares batches: sent to the whole group, it is for the main process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def memory_errors_explained(where: str, advice: str) -> Iterator[None]:
    """Say what to do when memory is exhausted in the block.

    Raises:
        MemoryError: In place of PyTorch's errors.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_ours = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)
        if not is_ours:
            raise
        reason = str(error).partition("\n")[0]
        raise MemoryError(f"Out of memory {where}. Checkpoints are as they were. {advice} ({reason})") from error


@contextmanager
def disk_errors_explained(what: str) -> Iterator[None]:
    """Say what is lost, and what is not, when a file cannot be written in the block.

    Raises:
        OSError: In place of the error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{what} could not be written ({error}). What was written before is as it was. Make room, and go on from "
            "the last checkpoint with --resume auto."
        ) from error
