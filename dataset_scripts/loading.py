"""Loading a dataset by name, from raw files or from a folder that a builder wrote."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.dataset_scripts.building.builder import (
    MissingImages,
    RocDatasetBuilder,
    check_missing_images,
    check_parts,
)
from roc.dataset_scripts.crossre import CrossreBuilder
from roc.dataset_scripts.exporting.marker import MARKER, read_marker
from roc.dataset_scripts.fewrel import FewrelBuilder
from roc.dataset_scripts.joint import JointBuilder
from roc.dataset_scripts.jsonl import JsonlBuilder
from roc.dataset_scripts.marked import MarkedBuilder
from roc.dataset_scripts.mnre import MnreBuilder
from roc.dataset_scripts.more import MoreBuilder
from roc.dataset_scripts.semeval import SemevalBuilder
from roc.dataset_scripts.webnlg import WebnlgBuilder
from roc.messages_roc import did_you_mean, quote
from roc.processing_typing_roc import EntityTyper

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger("roc.dataset_scripts")

BUILDERS: dict[str, type[RocDatasetBuilder]] = {
    builder.NAME: builder
    for builder in (
        MnreBuilder,
        MoreBuilder,
        FewrelBuilder,
        CrossreBuilder,
        SemevalBuilder,
        JointBuilder,
        WebnlgBuilder,
        MarkedBuilder,
        JsonlBuilder,
    )
}

# Generated data has no raw files: it is only ever loaded from a written folder.
GENERATED = ("synthetic", "scenes")
GENERATED_LICENSE = "apache-2.0"
DATASETS = (*BUILDERS, *GENERATED)


def load_dataset_splits(
    name: str,
    data_dir: str | Path,
    *,
    splits: Sequence[str] | None = None,
    missing_images: MissingImages = "error",
    entity_typer: str | EntityTyper | None = None,
    cache_dir: str | Path | None = None,
    parts: Sequence[str] | None = None,
) -> datasets.DatasetDict:
    """Load splits of a dataset, in the schema of `features.FEATURES`.

    If a builder wrote `data_dir`, its Parquet files are loaded as they are. Else the splits are built from the raw
    files and cached; a change of a raw file, a picture, an option or the builder's code builds them anew.

    Args:
        name: One of `DATASETS`, such as `"mnre"` or `"jsonl"`.
        data_dir: Folder of the raw files, or one that `python -m roc.dataset_scripts.NAME` wrote.
        splits: Some of `"train"`, `"val"`, `"test"`; None for those that exist. Other splits are not opened.
        missing_images: `"error"`, `"skip"` (drop the row) or `"no_image"` (keep it without a picture). Built into a
            written folder already.
        entity_typer: A typer, or its name such as `"spacy"`, for text entities without a type.
        cache_dir: Where built datasets are kept; None for the default of `datasets`.
        parts: Some of the parts of a data set that has parts, such as CrossRE's domains; None for those that exist. A
            written folder has the parts that it was written with.

    Returns:
        The splits.

    Raises:
        ValueError: If the name or an option is unknown, the folder was written by another builder, with another typer
            or other parts, or the raw files are malformed.
        FileNotFoundError: If the folder, a split, a part or a picture is not there.
    """
    check_name(name)
    check_missing_images(missing_images)
    check_parts(name, parts, BUILDERS[name].PARTS if name in BUILDERS else ())
    marker = read_marker(data_dir)
    if marker is not None:
        _check_marker(marker, name, folder=Path(data_dir), entity_typer=entity_typer, parts=parts)
        return _load_parquet(Path(data_dir), marker, splits=splits, cache_dir=cache_dir)
    if name in GENERATED:
        raise FileNotFoundError(
            f"{str(data_dir)!r} has no {MARKER}: {name!r} is loaded from a folder that its generator wrote. Type "
            f"`python -m roc.dataset_scripts.{name} --output_dir {data_dir}`."
        )
    builder = BUILDERS[name](
        data_dir,
        splits=splits,
        missing_images=missing_images,
        entity_typer=entity_typer,
        cache_dir=cache_dir,
        parts=parts,
    )
    return builder.build()


def check_name(name: str) -> None:
    """Raise a `ValueError` if there is no data set of that name."""
    if name not in DATASETS:
        raise ValueError(
            f"There is no dataset {quote(name)}; there are {list(DATASETS)}.{did_you_mean(name, DATASETS)}"
        )


def _check_marker(
    marker: dict[str, Any],
    name: str,
    *,
    folder: Path,
    entity_typer: str | EntityTyper | None,
    parts: Sequence[str] | None,
) -> None:
    if marker["builder"] != name:
        raise ValueError(
            f"{folder} was written by the builder {quote(marker['builder'])}, not {name!r}. Ask for that name."
        )
    own_parts = marker["options"].get("parts")
    if parts is not None and set(parts) != set(own_parts or ()):
        raise ValueError(
            f"{folder} was written with parts={quote(own_parts)}, but parts={quote(list(parts))} are asked for. Load "
            "the raw files, or write another folder with --parts."
        )
    typer = entity_typer if entity_typer is None or isinstance(entity_typer, str) else entity_typer.name
    written = {marker["entity_typer"], marker["options"].get("entity_typer")}
    untyped = sum(counts["untyped_text_entities"] for counts in marker["splits"].values())
    if typer is not None and typer not in written and untyped:
        raise ValueError(
            f"{folder} was written with entity_typer={quote(marker['entity_typer'])} and has {untyped} untyped text "
            f"entities, but entity_typer={typer!r} is asked for. Write it again with --entity_typer {typer}, or load "
            "the raw files."
        )


def _load_parquet(
    folder: Path, marker: dict[str, Any], *, splits: Sequence[str] | None, cache_dir: str | Path | None
) -> datasets.DatasetDict:
    import datasets  # here, as the features: it takes seconds

    from roc.dataset_scripts.features import FEATURES

    missing = [split for split in splits or () if split not in marker["splits"]]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no split {missing[0]!r}; it has {list(marker['splits'])}. Ask for those with splits=."
        )
    wanted = [split for split in marker["splits"] if splits is None or split in splits]
    data_files = {split: str(folder / "data" / f"{split}-*.parquet") for split in wanted}
    loaded = datasets.load_dataset(
        "parquet", data_files=data_files, features=FEATURES, cache_dir=None if cache_dir is None else str(cache_dir)
    )
    for split in wanted:
        counts, where = marker["splits"][split], f"{folder}, split {split!r}"
        rows = len(loaded[split])
        if rows != counts["rows"]:
            raise ValueError(f"{where} has {rows} rows, but its marker says {counts['rows']}. Write it again.")
        if counts.get("missing_images"):
            logger.warning(
                "%s was written from raw files with %d missing pictures (%d rows dropped).",
                *(where, counts["missing_images"], counts.get("dropped_rows", 0)),
            )
    return loaded
