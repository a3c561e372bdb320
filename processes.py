"""What is different where several processes train or score together, as `accelerate launch` starts them."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs


def start_accelerator(mixed_precision: str | None = None) -> Accelerator:
    """Join the processes that were launched together.

    Args:
        mixed_precision: `no` or `bf16`; None where nothing is trained.

    Returns:
        The accelerator of this process, the only one where it was started by itself.
    """
    return Accelerator(
        mixed_precision=mixed_precision,
        # without this, processes that `accelerate launch` starts on a machine without a GPU do not find each other
        cpu=not torch.accelerator.is_available(),
        # a batch without a picture or an object leaves parameters without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
