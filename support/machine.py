"""What the machine has: cores, and how many of them this process computes on."""

from __future__ import annotations

import os


def set_num_threads(num_threads: int | None = None) -> None:
    """Let PyTorch compute on so many threads; None for this process's share of the cores."""
    import torch  # here: who counts cores needs no PyTorch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    elif not torch.cuda.is_available():
        torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def available_cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
