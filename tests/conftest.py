"""What all tests share: no network, few threads, and the real data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors, and pytest-xdist already has a process per core
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def roc_data() -> Path:
    """The folder with real development data; the test is skipped where there is none."""
    folder = Path(os.environ.get("ROC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set ROC_DATA to a folder with mnre/ (looked at {folder})")
    return folder
