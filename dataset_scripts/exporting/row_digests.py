"""Digests of the rows of a dataset, to compare what is on the Hub with what was built.

As a program it prints those of a published one. It needs `datasets` and nothing of ours, as whoever loads the dataset.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

# How a dataset is read: whether it is streamed.
STYLES = {"map-style": False, "streaming": True}


def digest_rows(rows: datasets.Dataset | datasets.IterableDataset) -> str:
    """A digest of rows in their order: of every value, and of the bytes of every picture.

    Args:
        rows: Rows of the schema; a picture may be a file that is named, or lie in the row.

    Returns:
        Number of rows and sha256, as `rows:hexadecimal digits`.
    """
    digest, count = hashlib.sha256(), 0
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        values = {**row, "image": _digest_image(row["image"])}
        digest.update(json.dumps(values, sort_keys=True).encode())
        count += 1
    return f"{count}:{digest.hexdigest()}"


def read(repo_id: str, revision: str, config: str, *, streaming: bool) -> dict[str, str]:
    """Digests of the rows of one configuration by split, loaded here and now."""
    loaded = datasets.load_dataset(repo_id, config, revision=revision, streaming=streaming)
    return {split: digest_rows(rows) for split, rows in loaded.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the digests of a published dataset as one JSON line.

    Args:
        argv: The arguments; None for those of the process.

    Returns:
        Exit code: 0 for success, 1 for a failure (2, for wrong usage, is raised by argparse).
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo_id", required=True, help="USER/NAME of the dataset on the Hub")
    parser.add_argument("--revision", required=True, help="commit, tag or branch")
    parser.add_argument("--configs", nargs="+", required=True, help="its configurations")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    try:
        found = {
            style: {name: read(args.repo_id, args.revision, name, streaming=streaming) for name in args.configs}
            for style, streaming in STYLES.items()
        }
    except Exception as error:  # whatever it is, the process that asked has to hear it
        print(f"error: {' '.join(str(error).split()) or repr(error)}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


def _digest_image(image: Mapping[str, Any] | None) -> str | None:
    if image is None:
        return None
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
