"""Where files lie that come with ROC."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[1]


def find_file(path: str | os.PathLike[str]) -> Path:
    """Find a file in the working folder, or else among those that ROC brings; neither is a `FileNotFoundError`."""
    for candidate in (Path(path), PACKAGE_ROOT / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no file {os.fspath(path)!r}, neither in {Path.cwd()} nor among ROC's own files.")
