"""Threads and precision: what a process takes of the machine that it is on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import accelerate
import pytest
import torch

from roc.support.machine import choose_precision, set_num_threads


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives the process its number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("num_threads", "processes", "expected"), [(3, 1, 3), (None, 1, 4), (None, 2, 2), (None, 8, 1), (1, 2, 1)]
)
def test_a_process_computes_on_its_share_of_the_cores_whatever_accelerate_left_it(
    num_threads: int | None, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    torch.set_num_threads(2)
    set_num_threads(num_threads)
    assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("threads")
def test_beside_any_accelerator_the_threads_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)  # MPS, XPU, ...: not CUDA
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    torch.set_num_threads(2)
    set_num_threads()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "no")])
@pytest.mark.parametrize("device", ["cpu", "cuda", "another"])
def test_a_run_takes_bf16_where_its_own_device_has_it(
    device: str, has_bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each device but the run's own says the contrary."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device != "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16 == (device == "cpu"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_bf16 == (device == "cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 == (device == "cuda"))
    monkeypatch.setattr(accelerate.utils, "is_bf16_available", lambda: has_bf16 == (device == "another"))
    assert choose_precision("auto") == precision
    assert [choose_precision(given) for given in ("no", "bf16")] == ["no", "bf16"]
