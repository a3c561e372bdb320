"""Reads a published dataset back and says whether its rows are those that were built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets

from roc.dataset_scripts.exporting import row_digests
from roc.dataset_scripts.exporting.row_digests import digest_rows
from roc.support.hub_upload import hide_token

# configuration -> split -> digest of its rows
Digests = dict[str, dict[str, str]]


def check_published(
    repo_id: str, revision: str, built: Mapping[str, Mapping[str, datasets.Dataset]], *, hub_cache: Path
) -> None:
    """Load a published dataset, map-style and streaming, and compare it with what was built.

    Args:
        repo_id: The dataset's repository.
        revision: The commit to read.
        built: The built rows, by configuration and split.
        hub_cache: Where files of the Hub are downloaded to; holds nothing but what was downloaded of this commit.

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

    Args:
        repo_id: The dataset's repository.
        revision: The commit to read.
        configs: Its configurations.
        hub_cache: Where files of the Hub are downloaded to.

    Raises:
        OSError: If it cannot be read.
    """
    program = Path(row_digests.__file__).read_text(encoding="utf-8")  # as a file, it had ours beside it
    arguments = ["--repo_id", repo_id, "--revision", revision, "--configs", *configs]
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"HF_HUB_CACHE": str(hub_cache), "HF_DATASETS_CACHE": empty, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], env=environment, cwd=empty, capture_output=True, text=True
        )
    if done.returncode:
        what = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removeprefix("error: ")
        raise OSError(f"{repo_id} was uploaded as {revision}, but cannot be read back: {hide_token(what)}")
    return json.loads(done.stdout.splitlines()[-1])
