"""The configurations of a published dataset: all rows, and what some users would else have to cut out themselves.

Every configuration has the columns of the one schema. One that would be empty, or the same as `default`, is not made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT = "default"

# What the rows of each are, for the card.
VARIANTS = {
    "text": "pairs of entities of the text, without pictures: a small download",
    "pictures": "rows whose picture is there",
    "objects": "pairs with an object in the picture",
}

# Rows with their pictures pass through memory in groups of this many.
ROWS_PER_GROUP = 64


def about(config: str) -> str:
    """Say what the rows of a configuration are; one that is neither all rows nor a variant is a flag of the builder."""
    return {DEFAULT: "all rows", **VARIANTS}.get(config, f"all rows, built with `--{config}`")


def derive(name: str, splits: Mapping[str, Dataset]) -> dict[str, Dataset] | None:
    """Make a configuration from all rows.

    Args:
        name: One of `VARIANTS`.
        splits: All rows, by split.

    Returns:
        Its splits, without those that have no row in it; None if it is empty or the same as all rows.
    """
    kept = {split: dataset.select(rows) for split, dataset in splits.items() if (rows := _rows_of(name, dataset))}
    is_all = sum(map(len, kept.values())) == sum(map(len, splits.values()))
    drops_pictures = name == "text" and any(any(has_image(rows)) for rows in splits.values())
    if not kept or (is_all and not drops_pictures):
        return None
    return {split: without_pictures(rows) for split, rows in kept.items()} if name == "text" else kept


def without_pictures(dataset: Dataset) -> Dataset:
    """Return the same rows and columns, with null for every picture."""
    from datasets import Image  # here, as the features: it takes seconds, and the names of variants are asked for alone

    from roc.dataset_scripts.features import FEATURES

    rest = dataset.remove_columns("image").flatten_indices()
    nulls = rest.add_column("image", [None] * len(rest), feature=Image())
    return nulls.select_columns(list(FEATURES)).cast(FEATURES)


def has_image(dataset: Dataset) -> list[bool]:
    """Tell whether each row has a picture; the pictures pass through memory in groups."""
    groups = dataset.select_columns(["image"]).with_format("arrow").iter(ROWS_PER_GROUP)
    return [valid for group in groups for valid in group["image"].is_valid().to_pylist()]


def _rows_of(name: str, dataset: Dataset) -> list[int]:
    entities = dataset.select_columns(["head", "tail"]).with_format(None)
    has_object = [any(row[role]["bbox"] is not None for role in ("head", "tail")) for row in entities]
    is_in = {"text": [not found for found in has_object], "pictures": has_image(dataset), "objects": has_object}[name]
    return [index for index, found in enumerate(is_in) if found]
