"""The marker of a written dataset, `roc_dataset.json`: what is in the folder, and that it may be replaced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MARKER = "roc_dataset.json"

# Changes when an older folder, or one for an older reader, would be misread; a further key of the marker does no harm.
FORMAT_VERSION = 1


def check_output_dir(output_dir: str | Path, *, source: Path | None = None) -> None:
    """Refuse to replace a folder that is not a dataset of ours, or that holds what is to be read.

    Args:
        output_dir: The folder to be written.
        source: The folder that the rows are read from.

    Raises:
        FileExistsError: If it exists, is not empty and has no marker file.
        ValueError: If `source` lies in it.
    """
    path = Path(output_dir)
    if source is not None and source.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"The raw files are in {output_dir}, which would be replaced. Name another --output_dir.")
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / MARKER).is_file())):
        raise FileExistsError(
            f"{path} exists and is not a dataset folder ({MARKER} is not in it), so it is not replaced. "
            "Name a new or empty folder with --output_dir."
        )


def read_marker(folder: str | Path) -> dict[str, Any] | None:
    """Read the marker of a folder that `export_dataset` wrote.

    Args:
        folder: Any folder.

    Returns:
        The marker's content, or None if there is none.

    Raises:
        ValueError: If it is not readable, or was written by another version of this package.
    """
    path = Path(folder) / MARKER
    if not path.is_file():
        return None
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        found = marker["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a marker of this package ({error}). Build the folder again.") from error
    if found != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {found}, this package reads {FORMAT_VERSION}. Build it again.")
    return marker


def read_side_file(folder: str | Path, name: str) -> str:
    """Read a side file of a folder that `export_dataset` wrote.

    Args:
        folder: The folder.
        name: The file's name.

    Raises:
        FileNotFoundError: If the folder has no such side file.
        ValueError: If it is not the one that the marker lists.
    """
    marker, path = read_marker(folder), Path(folder) / name
    if marker is None or name not in marker.get("side_files", {}):
        raise FileNotFoundError(f"{str(folder)!r} has no side file {name!r}.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != marker["side_files"][name]:
        raise ValueError(f"{path} is not the file that its marker lists: the sha256 differs. Build the folder again.")
    return content.decode()
