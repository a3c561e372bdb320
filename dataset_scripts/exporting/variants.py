"""The configurations of a published dataset: all rows, and what some users would else have to cut out themselves.

Every configuration has the columns of the one schema. One that would be empty, or the same as `default`, is not made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roc.messages_roc import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT = "default"

# Rows with their pictures pass through memory in groups of this many.
ROWS_PER_GROUP = 64


@dataclass(frozen=True)
class Variant:
    """How a configuration follows from the rows of `default`.

    Args:
        about: What its rows are, for the card.
        keeps: Whether a row is in it, from whether it has a picture and whether an entity is an object.
        has_images: Whether its rows keep their pictures.
    """

    about: str
    keeps: Callable[[bool, bool], bool]
    has_images: bool = True


@dataclass(frozen=True)
class Configuration:
    """Rows to be published under one name.

    Args:
        about: What the rows are, for the card.
        splits: Rows of the schema, by split.
    """

    about: str
    splits: Mapping[str, Dataset]


VARIANTS: dict[str, Variant] = {
    "text": Variant("pairs of entities of the text, without pictures: a small download", lambda _, obj: not obj, False),
    "pictures": Variant("rows whose picture is there", lambda picture, _: picture),
    "objects": Variant("pairs with an object in the picture", lambda _, obj: obj),
}


def derive(name: str, splits: Mapping[str, Dataset]) -> Configuration | None:
    """Make a configuration from all rows.

    Args:
        name: One of `VARIANTS`.
        splits: All rows, by split.

    Returns:
        The configuration, without splits that have no row in it; None if it is empty or the same as all rows.

    Raises:
        ValueError: If there is no variant of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"There is no variant {name!r}; there are {list(VARIANTS)}.{did_you_mean(name, VARIANTS)}")
    variant = VARIANTS[name]
    drops_pictures = not variant.has_images and any(any(has_image(split)) for split in splits.values())
    kept = {split: _rows_of(variant, dataset) for split, dataset in splits.items()}
    is_all = all(len(rows) == len(splits[split]) for split, rows in kept.items())
    if not any(kept.values()) or (is_all and not drops_pictures):
        return None
    selected = {split: splits[split].select(rows) for split, rows in kept.items() if rows}
    if not variant.has_images:
        selected = {split: without_pictures(dataset) for split, dataset in selected.items()}
    return Configuration(variant.about, selected)


def without_pictures(dataset: Dataset) -> Dataset:
    """The same rows and columns, with null for every picture."""
    from datasets import Image  # here, as the features: it takes seconds, and the names of variants are asked for alone

    from roc.dataset_scripts.features import FEATURES

    rest = dataset.remove_columns("image").flatten_indices()
    nulls = rest.add_column("image", [None] * len(rest), feature=Image())
    return nulls.select_columns(list(FEATURES)).cast(FEATURES)


def has_image(dataset: Dataset) -> list[bool]:
    """Whether each row has a picture; the pictures pass through memory in groups."""
    groups = dataset.select_columns(["image"]).with_format("arrow").iter(ROWS_PER_GROUP)
    return [valid for group in groups for valid in group["image"].is_valid().to_pylist()]


def has_object(dataset: Dataset) -> list[bool]:
    """Whether an entity of each row is an object in the picture."""
    entities = dataset.select_columns(["head", "tail"]).with_format(None)
    return [any(row[role]["bbox"] is not None for role in ("head", "tail")) for row in entities]


def _rows_of(variant: Variant, dataset: Dataset) -> list[int]:
    known = zip(has_image(dataset), has_object(dataset), strict=True)
    return [index for index, (picture, obj) in enumerate(known) if variant.keeps(picture, obj)]
