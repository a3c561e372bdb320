"""What a run costs: trained parameters and memory."""

from __future__ import annotations

import sys

import torch
from torch import nn


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the `trainable_parameters`, and the `parameters` in all."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "trainable_parameters": sum(count for count, is_trained in counts if is_trained),
        "parameters": sum(count for count, _ in counts),
    }


def peak_memory_mib() -> int | None:
    """Return the most memory that this process has held so far.

    Returns:
        MiB on the accelerator where the process uses one that counts, else in RAM (resident). None on Windows without
        such an accelerator, as Windows does not tell.
    """
    accelerator = torch.get_device_module()  # the CPU's where there is no other
    if hasattr(accelerator, "max_memory_allocated") and accelerator.is_initialized():
        return round(accelerator.max_memory_allocated() / 2**20)
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
