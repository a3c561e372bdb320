"""Reads a published dataset back and says whether its rows are those that were built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets

from roc.dataset_scripts.exporting import row_digests
from roc.dataset_scripts.exporting.row_digests import digest_rows
from roc.support.strangers import ask_stranger

# configuration -> split -> digest of its rows
Digests = dict[str, dict[str, str]]

READING_SECONDS = 4 * 3600.0  # all pictures come twice over the network, once of them in a stream


def check_published(
    repo_id: str, revision: str, built: Mapping[str, Mapping[str, datasets.Dataset]], *, hub_cache: Path
) -> None:
    """Load a published dataset, map-style and streaming, and compare it with what was built.

    Args:
        repo_id: The dataset's repository.
        revision: The commit to read.
        built: The built rows, by configuration and split.
        hub_cache: The folder into which this commit, and nothing else, was downloaded.

    Raises:
        ValueError: If its rows are others.
        OSError: If it cannot be read.
    """
    expected = {name: {split: digest_rows(rows) for split, rows in splits.items()} for name, splits in built.items()}
    found = read_in_new_process(repo_id, revision, list(built), hub_cache=hub_cache)
    for style, digests in found.items():
        for name, splits in expected.items():
            if digests.get(name) != splits:
                raise ValueError(
                    f"{repo_id} at {revision} has other rows in its configuration {name!r}, read {style}, than were "
                    f"built: {digests.get(name)} instead of {splits}. Do not use this revision; publish again."
                )


def read_in_new_process(repo_id: str, revision: str, configs: Sequence[str], *, hub_cache: Path) -> dict[str, Digests]:
    """Digests of the rows of a published dataset, by style, configuration and split, read where none was built.

    Raises:
        OSError: If it cannot be read.
    """
    caches = {"HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "0"}
    try:
        return ask_stranger(
            Path(row_digests.__file__),
            {"repo_id": repo_id, "revision": revision, "configs": list(configs)},
            environment=lambda empty: os.environ | caches | {"HF_DATASETS_CACHE": empty},
            timeout=READING_SECONDS,
        )
    except RuntimeError as error:
        raise OSError(f"{repo_id} was uploaded as {revision}, but cannot be read back: {error}") from error
