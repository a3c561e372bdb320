"""The rows of a data set as the audit reads them: pictures by name and size, and texts that must stay together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from roc.dataset_scripts.building.builder import MissingImages, RocDatasetBuilder
from roc.dataset_scripts.exporting.marker import read_marker
from roc.dataset_scripts.loading import BUILDERS, check_name, load_dataset_splits
from roc.dataset_scripts.schema import Entity
from roc.messages_roc import did_you_mean, quote
from roc.processing_images_roc import identify_image

# Common names of "no relation", in the order in which they are looked for.
NONE_NAMES = ("None", "none", "no_relation", "no relation", "NA", "Other", "other")

# A group is kept out of training as a whole; where one holds more of the rows than this, another key is taken.
MAX_GROUP_SHARE = 0.2
MIN_GROUPS = 10


@dataclass(frozen=True)
class AuditedRow:
    """A row of the schema, without its pixels.

    Args:
        split: Its split.
        index: Its place among the rows of the split, from 0.
        row_id: Its id.
        text: Its text.
        head: Its head, as in the schema.
        tail: Its tail, likewise.
        relation: Its relation.
        picture: What tells its picture from others, or None where the row has none.
        picture_name: The name of the picture's file, or None where it is unknown.
        picture_size: Width and height in pixels, or None where there is no file.
    """

    split: str
    index: int
    row_id: str
    text: str
    head: Entity
    tail: Entity
    relation: str
    picture: str | None = None
    picture_name: str | None = None
    picture_size: tuple[int, int] | None = None


def load_audited_rows(
    name: str,
    data_dir: str | Path,
    *,
    splits: Sequence[str] | None = None,
    missing_images: MissingImages = "no_image",
    complete: bool = False,
) -> list[AuditedRow]:
    """Load the rows of a data set; pictures are not decoded, and raw files are read without a cache.

    Args:
        name: One of `loading.DATASETS`.
        data_dir: Folder of the raw files, or one that a builder wrote.
        splits: The splits to load; None for those that exist.
        missing_images: What to do where a picture of the raw files is missing, as for the builders.
        complete: Whether each row of the raw files must be there, so that their numbers hold.

    Raises:
        ValueError: If there is no such data set, its files are malformed, or rows that must be there were dropped.
        FileNotFoundError: If the folder, a split or a picture is not there.
    """
    check_name(name)
    marker = read_marker(data_dir)
    if name in BUILDERS and marker is None:
        builder = BUILDERS[name](data_dir, splits=splits, missing_images=missing_images)
        counts: Mapping[str, Mapping[str, int]] = builder.split_counts
        rows = list(_raw_rows(builder))
    else:
        counts = {} if marker is None else marker["splits"]
        rows = list(_written_rows(name, data_dir, splits))
    dropped = {split: own["dropped_rows"] for split, own in counts.items() if own.get("dropped_rows")}
    if complete and dropped:
        raise ValueError(
            f"Rows without their picture were dropped ({dropped}), so side inputs do not fit the others by number. "
            "Audit raw files that have all pictures, or leave --side_inputs out."
        )
    return rows


def _raw_rows(builder: RocDatasetBuilder) -> Iterator[AuditedRow]:
    size_of = cache(_size_of_file)
    for split in builder.split_files:
        for index, (raw, path) in enumerate(builder.kept_rows(split)):
            picture = None if raw.row["image"] is None else str(raw.row["image"])
            size = None if path is None else size_of(path)
            yield _audited(split, index, raw.row, picture, None if picture is None else Path(picture).name, size)


def _written_rows(name: str, data_dir: str | Path, splits: Sequence[str] | None) -> Iterator[AuditedRow]:
    import datasets  # here: it takes seconds

    for split, rows in load_dataset_splits(name, data_dir, splits=splits).items():
        # file by file: pictures of a large set do not fit into memory
        for index, row in enumerate(rows.cast_column("image", datasets.Image(decode=False))):
            image = row["image"]
            if image is None:
                yield _audited(str(split), index, row)
                continue
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            file_name = None if image["path"] is None else Path(image["path"]).name
            with identify_image(content, f"the picture of row {row['id']!r}") as opened:
                size = opened.size
            yield _audited(str(split), index, row, hashlib.sha256(content).hexdigest(), file_name, size)


def _audited(split: str, index: int, row: Mapping[str, Any], *picture: Any) -> AuditedRow:
    return AuditedRow(split, index, row["id"], row["text"], row["head"], row["tail"], row["relation"], *picture)


def _size_of_file(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    with identify_image(content, path.name) as opened:
        return opened.size


def find_none_relation(rows: Sequence[AuditedRow], given: str | None) -> str | None:
    """Return the relation that means "none": the given one, else a common name of it; None where the rows have none.

    Raises:
        ValueError: If the given one is not the relation of some, but not all, of the rows.
    """
    counts = Counter(row.relation for row in rows)
    if given is None:
        given = next((name for name in NONE_NAMES if name in counts), None)
    elif not 0 < counts[given] < len(rows):
        raise ValueError(
            f"none_relation={quote(given)} must be the relation of some, not all, of the rows; the relations are "
            f"{quote(sorted(counts))}.{did_you_mean(given, list(counts))}"
        )
    return given


def group_rows(rows: Sequence[AuditedRow]) -> tuple[str, list[int]]:
    """Group rows that must be in one fold of a cross-validation, as one of them would tell another's relation.

    Returns:
        What the rows of a group share, and the number of each row's group, from 0.

    Raises:
        ValueError: If there are fewer groups than a cross-validation needs.
    """
    texts = [f"text {row.text}" for row in rows]
    # A row without a picture, or with one of unknown name, shares none.
    pictures = [f"row {number}" if row.picture is None else f"picture {row.picture}" for number, row in enumerate(rows)]
    candidates = (
        ("text or picture", _components(texts, pictures)),
        ("text", _numbers(texts)),
        ("picture", _numbers(pictures)),
    )
    for what, groups in candidates:
        sizes = Counter(groups)
        if len(sizes) >= MIN_GROUPS and max(sizes.values()) <= MAX_GROUP_SHARE * len(rows):
            return what, groups
    raise ValueError(
        f"The {len(rows)} rows share too few texts and pictures for an audit: at least {MIN_GROUPS} groups are needed, "
        f"none with more than {MAX_GROUP_SHARE:.0%} of the rows. Give more rows."
    )


def _components(texts: Sequence[str], pictures: Sequence[str]) -> list[int]:
    """Number the rows so that those which share a text or a picture, even by way of others, have one number."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for text, picture in zip(texts, pictures):
        parents[root(picture)] = root(text)
    return _numbers(root(text) for text in texts)


def _numbers(keys: Iterable[str]) -> list[int]:
    """Number keys by their first occurrence."""
    known: dict[str, int] = {}
    return [known.setdefault(key, len(known)) for key in keys]
