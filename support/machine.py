"""What the machine has: cores, how many of them this process computes on, and the precision that it is fast in."""

from __future__ import annotations

import os


def set_num_threads(num_threads: int | None = None) -> None:
    """Let PyTorch compute on so many threads; None for this process's share of the cores."""
    import torch  # here: who counts cores needs no PyTorch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    elif not torch.accelerator.is_available():
        torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def choose_precision(mixed_precision: str) -> str:
    """Return `bf16` for `auto` where the hardware multiplies it natively, else `no`; and other values as they are."""
    import torch
    from accelerate.utils import is_bf16_available

    if mixed_precision != "auto":
        return mixed_precision
    if not torch.accelerator.is_available():
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    elif torch.cuda.is_available():  # only CUDA is asked whether it merely emulates bf16
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_native = is_bf16_available()
    return "bf16" if is_native else "no"


def available_cores() -> int:
    """Count the machine's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
