"""The processes that train or score together: how they start, and what they say when memory or disk run out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError


def start_accelerator(mixed_precision: str | None = None) -> Accelerator:
    """Join the processes that `accelerate launch` started together, or work alone.

    Args:
        mixed_precision: `no` or `bf16`; None where nothing is trained.

    Raises:
        ValueError: If FSDP is asked for in its first version.
    """
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        # without this, processes that `accelerate launch` starts on a machine without a GPU do not find each other
        cpu=not torch.accelerator.is_available(),
        # a batch without a picture or an object leaves parameters without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP works in version 2 only. Give fsdp_version: 2, as configs/accelerate/fsdp.yaml does.")
    return accelerator


@contextmanager
def memory_errors_explained(where: str, advice: str) -> Iterator[None]:
    """Raise a MemoryError that says what to do when memory is exhausted in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)):
            raise
        reason = str(error).partition("\n")[0]
        raise MemoryError(f"Out of memory {where}. Checkpoints are as they were. {advice} ({reason})") from error


@contextmanager
def disk_errors_explained(what: str) -> Iterator[None]:
    """Raise an OSError that says what is lost, and what is not, when a file cannot be written in the block."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{what} could not be written ({error}). What was written before is as it was. Make room, and go on from "
            "the last checkpoint with --resume auto."
        ) from error
