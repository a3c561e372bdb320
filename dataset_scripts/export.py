"""Writing a built dataset as a folder that loads anywhere: Parquet with the pictures inside, a card and a marker."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCardData

from roc.dataset_scripts.schema import FEATURES, SPLITS
from roc.files import atomic_write, replace_folder

MARKER = "roc_dataset.json"

# Changes when the schema or the marker's keys do, so that a reader can tell an older folder.
FORMAT_VERSION = 1

# Rows with their pictures pass through memory in groups of this many.
ROWS_PER_GROUP = 64

# The Hub's viewer and streaming like Parquet files of at most about this size.
SHARD_BYTES = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a dataset comes from; goes into its card and its marker.

    Args:
        builder: Name of the builder, such as `mnre`.
        builder_version: Its version.
        title: Heading of the card.
        description: Markdown that says what the data is, who made it and under which licence.
        license: Licence identifier of the Hub, such as `apache-2.0` or `unknown`.
        options: What the builder was told, JSON-able.
        entity_typer: `name` of the typer that gave types to untyped text entities, or None.
        source_files: sha256 of each raw file, by its name relative to the raw folder.
        split_counts: Per split, further counts that only the builder knows, such as `missing_images`.
        command: The command that wrote the folder.
    """

    builder: str
    builder_version: str
    title: str
    description: str
    license: str
    options: Mapping[str, Any] = field(default_factory=dict)
    entity_typer: str | None = None
    source_files: Mapping[str, str] = field(default_factory=dict)
    split_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    command: str = ""


def export_dataset(
    splits: Mapping[str, Dataset],
    output_dir: str | Path,
    *,
    provenance: Provenance,
    side_files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a dataset as a folder: `data/*.parquet`, `README.md` and `roc_dataset.json`.

    The folder appears, or replaces an older one, when it is complete. `datasets.load_dataset(output_dir)` loads it.

    Args:
        splits: Datasets with the features of `schema.FEATURES`, by split name.
        output_dir: The folder to write. An existing one is replaced only if it is such a dataset.
        provenance: Where the data comes from.
        side_files: Content of further files by name: what is known of the rows but must not be in them. The marker
            lists the sha256 of each under `side_files`; loading the dataset does not open them.

    Returns:
        The marker's content.

    Raises:
        ValueError: If there is no split, a split has an unknown name, or a dataset has other features.
        FileExistsError: If `output_dir` exists and holds something else.
    """
    _check_splits(splits)
    check_output_dir(output_dir)
    with replace_folder(output_dir) as folder:
        (folder / "data").mkdir()
        num_bytes = {split: _write_parquet(splits[split], folder / "data", split=split) for split in _ordered(splits)}
        marker = _marker({split: splits[split] for split in _ordered(splits)}, provenance)
        marker["side_files"] = {}
        for name, content in (side_files or {}).items():
            marker["side_files"][name] = hashlib.sha256(content.encode()).hexdigest()
            with atomic_write(folder / name) as file:
                file.write(content)
        card = _card(marker, provenance, num_bytes=num_bytes)
        with atomic_write(folder / "README.md") as file:
            file.write(card)
        with atomic_write(folder / MARKER) as file:
            json.dump(marker, file, indent=2, ensure_ascii=False)
            file.write("\n")
    return marker


def check_output_dir(output_dir: str | Path) -> None:
    """Refuse to replace a folder that is not a dataset of ours.

    Args:
        output_dir: The folder to be written.

    Raises:
        FileExistsError: If it exists, is not empty and has no marker file.
    """
    path = Path(output_dir)
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


def _check_splits(splits: Mapping[str, Dataset]) -> None:
    unknown = [split for split in splits if split not in SPLITS]
    if not splits or unknown:
        raise ValueError(f"A dataset has one or more of the splits {list(SPLITS)}, got {list(splits)}.")
    for split, dataset in splits.items():
        if dataset.features != FEATURES:
            raise ValueError(f"The split {split!r} has the features {dataset.features}, not those of schema.FEATURES.")


def _ordered(splits: Iterable[str]) -> list[str]:
    return sorted(splits, key=SPLITS.index)


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


def _marker(splits: Mapping[str, Dataset], provenance: Provenance) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "builder": provenance.builder,
        "builder_version": provenance.builder_version,
        "command": provenance.command,
        "options": dict(provenance.options),
        "entity_typer": provenance.entity_typer,
        "splits": {
            split: {**count_rows(dataset), **provenance.split_counts.get(split, {})}
            for split, dataset in splits.items()
        },
        "source_files": dict(provenance.source_files),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("datasets", "pyarrow")},
    }


def count_rows(dataset: Dataset) -> dict[str, Any]:
    """Count what a split holds.

    Args:
        dataset: Rows of the schema.

    Returns:
        `rows`, `rows_with_image`, `text_entities`, `untyped_text_entities`, `objects` and, per relation, `relations`.
    """
    columns = dataset.with_format("arrow")
    images = columns["image"]
    entities = [*columns["head"].to_pylist(), *columns["tail"].to_pylist()]
    in_text = [entity for entity in entities if entity["bbox"] is None]
    relations = Counter(columns["relation"].to_pylist())
    return {
        "rows": len(dataset),
        "rows_with_image": len(dataset) - images.null_count,
        "text_entities": len(in_text),
        "untyped_text_entities": sum(entity["type"] is None for entity in in_text),
        "objects": len(entities) - len(in_text),
        "relations": dict(sorted(relations.items(), key=lambda item: (-item[1], item[0]))),
    }


def _card(marker: Mapping[str, Any], provenance: Provenance, *, num_bytes: Mapping[str, int]) -> str:
    splits = marker["splits"]
    data = DatasetCardData(
        pretty_name=provenance.title,
        license=provenance.license,
        tags=["relation-extraction", "multimodal", "roc"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    infos = [SplitInfo(name, num_bytes=num_bytes[name], num_examples=splits[name]["rows"]) for name in splits]
    split_dict = SplitDict()
    for info in infos:
        split_dict.add(info)
    DatasetInfosDict({"default": DatasetInfo(features=FEATURES, splits=split_dict)}).to_dataset_card_data(data)
    return f"---\n{data.to_yaml()}\n---\n\n{_card_body(marker, provenance)}"


def _card_body(marker: Mapping[str, Any], provenance: Provenance) -> str:
    options = ", ".join(f"`{key}={value}`" for key, value in marker["options"].items()) or "none"
    sources = "\n".join(f"| `{name}` | `{digest}` |" for name, digest in marker["source_files"].items())
    return f"""# {provenance.title}

{provenance.description.strip()}

## Rows

One row is one ordered pair of entities and the relation between them.

| column | type | what |
|---|---|---|
| `id` | string | unique in its split |
| `text` | string | the text |
| `image` | image or null | the picture that belongs to it |
| `head`, `tail` | struct | the two entities |
| `relation` | string | the relation of head to tail |

An entity has `name`, `start`, `end`, `type`, `bbox`. In the text, `start` and `end` are half-open character offsets
into `text` (Unicode code points) and `bbox` is null. An object in the picture has a `bbox` (x0, y0, x1, y1) in [0, 1],
origin top left, and null offsets. `type` is null or lower-case words; it was never read from the relation.

## Counts

{_count_table(marker["splits"])}

{_relation_table(marker["splits"])}

## How it was built

- builder: `{marker["builder"]}` {marker["builder_version"]}, options: {options}
- types of untyped text entities: {f"`{marker['entity_typer']}`" if marker["entity_typer"] else "left null"}
- command: `{marker["command"] or "-"}`
- versions: {", ".join(f"{name} {number}" for name, number in marker["versions"].items())}

{f"| raw file | sha256 |{chr(10)}|---|---|{chr(10)}{sources}" if sources else ""}
"""


def _count_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    names = [name for name in next(iter(splits.values())) if name != "relations"]
    lines = [f"| split | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {split} | {' | '.join(str(counts.get(name, 0)) for name in names)} |" for split, counts in splits.items()
    ]
    return "\n".join(lines)


def _relation_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    totals: Counter[str] = Counter()
    for counts in splits.values():
        totals.update(counts["relations"])
    lines = [f"| relation | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    for relation, _ in totals.most_common():
        cells = " | ".join(str(counts["relations"].get(relation, 0)) for counts in splits.values())
        lines.append(f"| `{relation}` | {cells} |")
    return "\n".join(lines)
