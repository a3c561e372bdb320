"""The marker of a written dataset, `roc_dataset.json`: what is in the folder, and that it may be replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from roc.messages_roc import on_one_line, quote
from roc.support.reading import read_json

MARKER = "roc_dataset.json"

# Changes when an older folder, or one for an older reader, would be misread; a further key of the marker does no harm.
FORMAT_VERSION = 1

NO_LICENSE = "unknown"  # what the Hub calls a licence that nobody has stated

# What `folder.count_rows` counts; other counts in a marker are the builder's own.
ROW_COUNTS = ("rows", "rows_with_image", "text_entities", "untyped_text_entities", "objects", "relations")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the card and the marker of a dataset say besides the rows.

    Args:
        builder: Name of the builder, such as `mnre`.
        builder_version: Its version.
        title: Heading of the card.
        description: Markdown that says what the data is and who made it.
        license: Licence identifier of the Hub, such as `apache-2.0`, or `NO_LICENSE`.
        license_note: Markdown that says whose the texts and pictures are.
        leak_note: Markdown that says what gives the relation away although no model should see it.
        options: What the builder was told, JSON-able.
        entity_typer: `name` of the typer that gave types to untyped text entities, or None.
        source_files: The sha256 of each raw file, by its name relative to the raw folder.
        split_counts: Further counts by split that only the builder knows, such as `missing_images`.
        command: The command that wrote the folder; several, one a line, where there were several.
    """

    builder: str
    builder_version: str
    title: str
    description: str
    license: str
    license_note: str = ""
    leak_note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    entity_typer: str | None = None
    source_files: Mapping[str, str] = field(default_factory=dict)
    split_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    command: str = ""


def provenance_of_marker(marker: Mapping[str, Any]) -> Provenance:
    """Return the provenance of a written folder; `ValueError` if its marker is older than what a card says."""
    kept = [each.name for each in fields(Provenance) if each.name != "split_counts"]
    if missing := [name for name in kept if name not in marker]:
        raise ValueError(
            f"The folder's marker lacks {missing}: it was written by an earlier version. Write the folder again with "
            f"`python -m roc.dataset_scripts.{marker['builder']}`."
        )
    own_counts = {
        split: {name: count for name, count in counts.items() if name not in ROW_COUNTS}
        for split, counts in marker["splits"].items()
    }
    return Provenance(split_counts=own_counts, **{name: marker[name] for name in kept})


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
    """Read the marker of a folder; None if it has none.

    Raises:
        ValueError: If it is not readable, or was written by another version of this package.
    """
    path = Path(folder) / MARKER
    if not path.is_file():
        return None
    try:
        marker = read_json(path)
        found = marker["format_version"]
        if found == FORMAT_VERSION:
            _check_marker(marker)
    except (ValueError, KeyError, TypeError) as error:
        reason = on_one_line(error)
        raise ValueError(f"{path} is not a marker of this package ({reason}). Build the folder again.") from error
    if found != FORMAT_VERSION:
        found = quote(found)
        raise ValueError(f"{path} has format version {found}, this package reads {FORMAT_VERSION}. Build it again.")
    return marker


def _check_marker(marker: dict[str, Any]) -> None:
    """Raise a ValueError where a marker lacks what readers of the folder need; a split's name becomes a path."""
    kinds: dict[str, Any] = {"builder": str, "splits": dict, "options": dict, "entity_typer": str | None}
    wrong = [name for name, kind in kinds.items() if not isinstance(marker[name], kind)]
    for split, counts in () if wrong else marker["splits"].items():
        if not split.isidentifier() or type(counts["rows"]) is not int:
            wrong.append(split)
    if wrong:
        raise ValueError(f"{quote(wrong)} malformed")


def read_side_file(folder: str | Path, name: str) -> str:
    """Read a side file of a folder that `export_dataset` wrote.

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
