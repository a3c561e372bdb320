"""Where the rows to publish come from: raw files, or a folder that a builder or a generator wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from roc.dataset_scripts.building.builder import RocDatasetBuilder
from roc.dataset_scripts.exporting.marker import read_marker, read_side_file
from roc.dataset_scripts.exporting.options import PublishOptions
from roc.dataset_scripts.exporting.provenance import Provenance, provenance_of_marker
from roc.dataset_scripts.exporting.variants import DEFAULT, VARIANTS, Configuration, derive
from roc.dataset_scripts.loading import BUILDERS, load_dataset_splits

Splits = Mapping[str, Dataset]


@dataclass(frozen=True)
class Source:
    """Rows to publish, and what is known of them.

    Args:
        splits: All rows, by split.
        provenance: Where they come from.
        flags: The same rows as the builder makes them with one of its flags, by flag.
        side_files: Content of further files by name.
    """

    splits: Splits
    provenance: Provenance
    flags: Mapping[str, Splits] = field(default_factory=dict)
    side_files: Mapping[str, str] = field(default_factory=dict)


def read_source(options: PublishOptions, cache_dir: str) -> Source:
    """Build the rows from raw files, or load those of a written folder.

    Args:
        options: What to publish.
        cache_dir: Where built rows are kept; they must not be removed while the source is in use.

    Raises:
        ValueError: If an option does not fit, a raw file is malformed, or the folder was written by another builder or
            an earlier version.
        FileNotFoundError: If the folder, a split or a picture is not there.
    """
    reading: dict[str, Any] = {
        "splits": options.splits,
        "missing_images": options.missing_images,
        "entity_typer": options.entity_typer,
        "cache_dir": cache_dir,
    }
    marker = read_marker(options.data_dir)
    if marker is None and options.dataset in BUILDERS:
        make = partial(BUILDERS[options.dataset], options.data_dir, **reading)
        return _built(make(), {flag: make(**{flag: True}) for flag in options.flags}, options.command())
    if options.flags:
        raise ValueError(
            f"The configuration {options.flags[0]!r} is built from raw files, but the rows of {options.data_dir} are "
            "built already. Name the folder of the raw files with --data_dir."
        )
    loaded = load_dataset_splits(options.dataset, options.data_dir, **reading)
    assert marker is not None  # else there was nothing to load
    return _written(loaded, marker, Path(options.data_dir), options.command())


def configurations(source: Source, names: Sequence[str] | None = None) -> dict[str, Configuration]:
    """The configurations to publish, `default` first.

    Args:
        source: The rows.
        names: Those besides `default` and the source's flags; None for all that follow from the rows.

    Raises:
        ValueError: If a name is unknown, or its configuration would be empty or the same as all rows.
    """
    made = {DEFAULT: Configuration("all rows", source.splits)}
    for name in VARIANTS if names is None else names:
        config = derive(name, source.splits)
        if config is not None:
            made[name] = config
        elif names is not None:
            raise ValueError(
                f"The configuration {name!r} would be empty or the same as all rows. Leave it out of --configs."
            )
    for flag, splits in source.flags.items():
        made[flag] = Configuration(f"all rows, built with `--{flag}`", splits)
    return made


def _built(builder: RocDatasetBuilder, with_flags: Mapping[str, RocDatasetBuilder], command: str) -> Source:
    splits = builder.build()
    flags = {flag: other.build() for flag, other in with_flags.items()}
    provenance = builder.provenance(command)
    files = dict(provenance.source_files)
    for other in with_flags.values():
        files |= other.provenance().source_files
    return Source(splits, replace(provenance, source_files=files), flags)


def _written(splits: Splits, marker: Mapping[str, Any], folder: Path, command: str) -> Source:
    provenance = provenance_of_marker(marker)
    commands = "\n".join(line for line in (provenance.command, command) if line)
    # Side files tell of all splits: they stay behind where only some are published.
    names = marker["side_files"] if set(splits) == set(marker["splits"]) else ()
    side_files = {name: read_side_file(folder, name) for name in names}
    return Source(splits, replace(provenance, command=commands), side_files=side_files)
