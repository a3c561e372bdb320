"""Where a dataset comes from: what its card and its marker say besides the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# What the Hub calls a licence that nobody has stated.
NO_LICENSE = "unknown"

# What `folder.count_rows` counts; other counts in a marker are the builder's own.
ROW_COUNTS = ("rows", "rows_with_image", "text_entities", "untyped_text_entities", "objects", "relations")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a dataset comes from; goes into its card and its marker.

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
        source_files: sha256 of each raw file, by its name relative to the raw folder.
        split_counts: Per split, further counts that only the builder knows, such as `missing_images`.
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

    def to_marker(self) -> dict[str, Any]:
        """All but the counts, JSON-able."""
        return {name: getattr(self, name) for name in _KEPT}


_KEPT = [each.name for each in fields(Provenance) if each.name != "split_counts"]


def provenance_of_marker(marker: Mapping[str, Any]) -> Provenance:
    """The provenance of a written folder.

    Args:
        marker: The content of its marker file.

    Raises:
        ValueError: If the folder was written before markers kept what a card says.
    """
    if missing := [name for name in _KEPT if name not in marker]:
        raise ValueError(
            f"The folder's marker lacks {missing}: it was written by an earlier version. Write the folder again with "
            f"`python -m roc.dataset_scripts.{marker['builder']}`."
        )
    own_counts = {
        split: {name: count for name, count in counts.items() if name not in ROW_COUNTS}
        for split, counts in marker["splits"].items()
    }
    return Provenance(split_counts=own_counts, **{name: marker[name] for name in _KEPT})
