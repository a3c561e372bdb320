"""Where files lie that come with ROC."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[1]

# The model that answers where none is named. Its own relations are those of `relations/everyday.yaml`.
DEFAULT_MODEL = PACKAGE_ROOT / "released" / "roc_open_small"


def find_file(path: str | os.PathLike[str]) -> Path:
    """Find a file in the working folder, or else among those that ROC brings; neither is a `FileNotFoundError`."""
    for candidate in (Path(path), PACKAGE_ROOT / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no file {os.fspath(path)!r}, neither in {Path.cwd()} nor among ROC's own files.")


def find_default_model() -> str:
    """Return the folder of the model that answers where none is named; its absence is a `FileNotFoundError`."""
    if not (DEFAULT_MODEL / "config.json").is_file():
        raise FileNotFoundError(
            f"No model is named, and the one that would answer then is not in {DEFAULT_MODEL}. Name a folder that "
            "train.py wrote, or a model on the Hub: USER/NAME."
        )
    return str(DEFAULT_MODEL)


def find_folder(path: str, inside: str) -> Path:
    """Find a folder inside another one or, where it is not there, among those that ROC brings (`examples/everyday`)."""
    packaged = PACKAGE_ROOT / path
    return packaged if packaged.is_dir() and not (Path(inside) / path).is_dir() else Path(inside) / path
