"""Writing a built dataset as a folder that loads anywhere: Parquet with the pictures inside, a card and a marker."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.table import embed_table_storage

from roc.dataset_scripts.building.raw_files import sha256_of_file
from roc.dataset_scripts.exporting.card import dataset_card
from roc.dataset_scripts.exporting.marker import FORMAT_VERSION, MARKER, Provenance, check_output_dir
from roc.dataset_scripts.exporting.variants import DEFAULT, ROWS_PER_GROUP, about, has_image
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.schema import SPLITS
from roc.support.files import replace_folder

# The Hub's viewer and streaming like Parquet files of at most about this size.
SHARD_BYTES = 500_000_000

Splits = Mapping[str, Dataset]


def export_dataset(
    splits: Splits,
    output_dir: str | Path,
    *,
    provenance: Provenance,
    variants: Mapping[str, Splits] | None = None,
    side_files: Mapping[str, str] | None = None,
    repo_id: str | None = None,
) -> dict[str, Any]:
    """Write a dataset as a folder: `data/*.parquet`, `README.md` and `roc_dataset.json`.

    The folder appears, or replaces an older one, when it is complete. `datasets.load_dataset(output_dir)` loads it.

    Args:
        splits: Datasets with the features of `features.FEATURES`, by split name: the configuration `default`.
        output_dir: The folder to write. An existing one is replaced only if it is such a dataset.
        provenance: Where the data comes from.
        variants: The splits of further configurations by name, each written to a folder of that name.
        side_files: Content of further files by name: what is known of the rows but must not be in them. The marker
            lists the sha256 of each under `side_files`; loading the dataset does not open them.
        repo_id: Where the folder will be on the Hub, for its card.

    Returns:
        The marker's content.

    Raises:
        ValueError: If there is no split, a split has an unknown name, or a dataset has other features.
        FileExistsError: If `output_dir` exists and holds something else.
    """
    side_files = side_files or {}
    configs = {name: _checked(config) for name, config in {DEFAULT: splits, **(variants or {})}.items()}
    check_output_dir(output_dir)
    with replace_folder(output_dir) as folder:
        num_bytes = {
            name: {
                split: _write_parquet(rows, folder / _folder_of(name), split=split) for split, rows in config.items()
            }
            for name, config in configs.items()
        }
        marker = _marker(configs, provenance, folder=folder, side_files=side_files)
        card = dataset_card(marker, num_bytes=num_bytes, repo_id=repo_id)
        about_it = {"README.md": card, MARKER: json.dumps(marker, indent=2, ensure_ascii=False) + "\n"}
        for name, content in {**side_files, **about_it}.items():
            (folder / name).write_bytes(content.encode())
    return marker


def _folder_of(config: str) -> str:
    """Return the folder of the Parquet files of a configuration, in the dataset's folder."""
    return "data" if config == DEFAULT else config


def _checked(splits: Splits) -> dict[str, Dataset]:
    """Return the splits in their usual order."""
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"A dataset has one or more of the splits {list(SPLITS)}, got {list(splits)}.")
    for split, dataset in splits.items():
        if dataset.features != FEATURES:
            raise ValueError(f"The split {split!r} has the features {dataset.features}, not those of FEATURES.")
    return {split: splits[split] for split in SPLITS if split in splits}


def _write_parquet(dataset: Dataset, folder: Path, *, split: str) -> int:
    """Write one split; returns the number of bytes of its rows with their pictures."""
    folder.mkdir(exist_ok=True)
    num_shards = min(max(1, len(dataset)), 1 + _picture_bytes(dataset) // SHARD_BYTES)
    num_bytes = 0
    for index in range(num_shards):
        shard = dataset.shard(num_shards, index, contiguous=True).with_format("arrow")
        # `to_parquet` alone keeps only the paths of pictures; what it writes is of the size that is counted here
        shard = shard.map(embed_table_storage, batched=True, batch_size=ROWS_PER_GROUP, keep_in_memory=True)
        num_bytes += shard.with_format(None).to_parquet(folder / f"{split}-{index:05d}-of-{num_shards:05d}.parquet")
    return num_bytes


def _picture_bytes(dataset: Dataset) -> int:
    groups = dataset.select_columns(["image"]).with_format("arrow").iter(ROWS_PER_GROUP)
    images = (image for group in groups for image in group["image"].to_pylist() if image is not None)
    return sum(
        Path(image["path"]).stat().st_size if image["bytes"] is None else len(image["bytes"]) for image in images
    )


def _marker(
    configs: Mapping[str, Splits], provenance: Provenance, *, folder: Path, side_files: Mapping[str, str]
) -> dict[str, Any]:
    counts = {
        name: {split: count_rows(dataset) for split, dataset in splits.items()} for name, splits in configs.items()
    }
    known = dict(vars(provenance))
    own_counts = known.pop("split_counts")
    return {
        "format_version": FORMAT_VERSION,
        **known,
        "splits": {split: {**counted, **own_counts.get(split, {})} for split, counted in counts[DEFAULT].items()},
        "configs": {
            name: {"about": about(name), "folder": _folder_of(name), "splits": counts[name]} for name in configs
        },
        "files": {
            path.relative_to(folder).as_posix(): sha256_of_file(path) for path in sorted(folder.rglob("*.parquet"))
        },
        "side_files": {name: hashlib.sha256(content.encode()).hexdigest() for name, content in side_files.items()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("datasets", "pyarrow")},
    }


def count_rows(dataset: Dataset) -> dict[str, Any]:
    """Count what a split holds, under the names in `marker.ROW_COUNTS`; `relations` has a count for each relation."""
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
