"""Writing a built dataset as a folder that loads anywhere: Parquet with the pictures inside, a card and a marker."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import embed_table_storage

from roc.dataset_scripts.building.raw_files import sha256_of_file
from roc.dataset_scripts.exporting.card import write_card
from roc.dataset_scripts.exporting.provenance import Provenance
from roc.dataset_scripts.exporting.variants import DEFAULT, ROWS_PER_GROUP, Configuration, has_image
from roc.dataset_scripts.schema import FEATURES, SPLITS
from roc.support.files import atomic_write, replace_folder

MARKER = "roc_dataset.json"

# Changes when an older folder, or one for an older reader, would be misread; a further key of the marker does no harm.
FORMAT_VERSION = 1

# The Hub's viewer and streaming like Parquet files of at most about this size.
SHARD_BYTES = 500_000_000


def export_dataset(
    splits: Mapping[str, Dataset],
    output_dir: str | Path,
    *,
    provenance: Provenance,
    variants: Mapping[str, Configuration] | None = None,
    side_files: Mapping[str, str] | None = None,
    repo_id: str | None = None,
) -> dict[str, Any]:
    """Write a dataset as a folder: `data/*.parquet`, `README.md` and `roc_dataset.json`.

    The folder appears, or replaces an older one, when it is complete. `datasets.load_dataset(output_dir)` loads it.

    Args:
        splits: Datasets with the features of `schema.FEATURES`, by split name: the configuration `default`.
        output_dir: The folder to write. An existing one is replaced only if it is such a dataset.
        provenance: Where the data comes from.
        variants: Further configurations by name, each written to a folder of that name.
        side_files: Content of further files by name: what is known of the rows but must not be in them. The marker
            lists the sha256 of each under `side_files`; loading the dataset does not open them.
        repo_id: Where the folder will be on the Hub, for its card.

    Returns:
        The marker's content.

    Raises:
        ValueError: If there is no split, a split has an unknown name, or a dataset has other features.
        FileExistsError: If `output_dir` exists and holds something else.
    """
    configs = {DEFAULT: Configuration("all rows", splits), **(variants or {})}
    for config in configs.values():
        _check_splits(config.splits)
    check_output_dir(output_dir)
    with replace_folder(output_dir) as folder:
        num_bytes = {name: _write_config(config, folder / folder_of(name)) for name, config in configs.items()}
        for name, content in (side_files or {}).items():
            _write_text(folder / name, content)
        marker = _marker(configs, provenance, folder=folder, side_files=side_files or {})
        _write_text(folder / "README.md", write_card(marker, provenance, num_bytes=num_bytes, repo_id=repo_id))
        _write_text(folder / MARKER, json.dumps(marker, indent=2, ensure_ascii=False) + "\n")
    return marker


def folder_of(config: str) -> str:
    """Folder of the Parquet files of a configuration, in the dataset's folder."""
    return "data" if config == DEFAULT else config


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
        name: Of the file.

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


def _check_splits(splits: Mapping[str, Dataset]) -> None:
    unknown = [split for split in splits if split not in SPLITS]
    if not splits or unknown:
        raise ValueError(f"A dataset has one or more of the splits {list(SPLITS)}, got {list(splits)}.")
    for split, dataset in splits.items():
        if dataset.features != FEATURES:
            raise ValueError(f"The split {split!r} has the features {dataset.features}, not those of schema.FEATURES.")


def _ordered(splits: Iterable[str]) -> list[str]:
    return sorted(splits, key=SPLITS.index)


def _write_text(path: Path, content: str) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _write_config(config: Configuration, folder: Path) -> dict[str, int]:
    """Write one configuration; returns the number of bytes of the rows of each split."""
    folder.mkdir()
    return {split: _write_parquet(config.splits[split], folder, split=split) for split in _ordered(config.splits)}


def _write_parquet(dataset: Dataset, folder: Path, *, split: str) -> int:
    """Write one split; returns the number of bytes of its rows with their pictures."""
    shards = _shard_starts(dataset)
    ends = [*shards[1:], len(dataset)]
    num_bytes = 0
    for index, (start, end) in enumerate(zip(shards, ends, strict=True)):
        path = folder / f"{split}-{index:05d}-of-{len(shards):05d}.parquet"
        # The schema carries the features in its metadata, so that `image` comes back as a picture.
        with pq.ParquetWriter(path, dataset.features.arrow_schema) as writer:
            for table in _embedded_tables(dataset, start, end=end):
                num_bytes += table.nbytes
                writer.write_table(table)
    return num_bytes


def _embedded_tables(dataset: Dataset, start: int, *, end: int) -> Iterable[pa.Table]:
    """The rows from `start` to `end` in groups, with the pictures' bytes: `Dataset.to_parquet` keeps only paths."""
    arrow = dataset.with_format("arrow")
    for first in range(start, end, ROWS_PER_GROUP):
        yield embed_table_storage(arrow[first : min(first + ROWS_PER_GROUP, end)])


def _shard_starts(dataset: Dataset) -> list[int]:
    """First row of each Parquet file, such that a file holds at most about `SHARD_BYTES`."""
    starts, size = [0], 0
    for first in range(0, len(dataset), ROWS_PER_GROUP):
        images = dataset.with_format("arrow")[first : first + ROWS_PER_GROUP].column("image").to_pylist()
        group = sum(_image_bytes(image) for image in images)
        if size and size + group > SHARD_BYTES:
            starts.append(first)
            size = 0
        size += group
    return starts


def _image_bytes(image: Mapping[str, Any] | None) -> int:
    if image is None:
        return 0
    return len(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).stat().st_size


def _marker(
    configs: Mapping[str, Configuration], provenance: Provenance, *, folder: Path, side_files: Mapping[str, str]
) -> dict[str, Any]:
    counts = {
        name: {split: count_rows(config.splits[split]) for split in _ordered(config.splits)}
        for name, config in configs.items()
    }
    own_counts = provenance.split_counts
    return {
        "format_version": FORMAT_VERSION,
        **provenance.to_marker(),
        "splits": {split: {**counted, **own_counts.get(split, {})} for split, counted in counts[DEFAULT].items()},
        "configs": {
            name: {"about": config.about, "folder": folder_of(name), "splits": counts[name]}
            for name, config in configs.items()
        },
        "files": {
            path.relative_to(folder).as_posix(): sha256_of_file(path) for path in sorted(folder.rglob("*.parquet"))
        },
        "side_files": {name: hashlib.sha256(content.encode()).hexdigest() for name, content in side_files.items()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("datasets", "pyarrow")},
    }


def count_rows(dataset: Dataset) -> dict[str, Any]:
    """Count what a split holds.

    Args:
        dataset: Rows of the schema.

    Returns:
        `rows`, `rows_with_image`, `text_entities`, `untyped_text_entities`, `objects` and, per relation, `relations`.
    """
    columns = dataset.select_columns(["head", "tail", "relation"]).with_format("arrow")
    entities = [*columns["head"].to_pylist(), *columns["tail"].to_pylist()]
    in_text = [entity for entity in entities if entity["bbox"] is None]
    relations = Counter(columns["relation"].to_pylist())
    return {
        "rows": len(dataset),
        "rows_with_image": sum(has_image(dataset)),
        "text_entities": len(in_text),
        "untyped_text_entities": sum(entity["type"] is None for entity in in_text),
        "objects": len(entities) - len(in_text),
        "relations": dict(sorted(relations.items(), key=lambda item: (-item[1], item[0]))),
    }
