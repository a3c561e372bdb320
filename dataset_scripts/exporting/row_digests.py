"""Digests of the rows of a dataset, to compare what is on the Hub with what was built.

As a program it reads a request from stdin, `{"repo_id": USER/NAME, "revision": COMMIT, "configs": [NAME, ...]}`, and
prints the digests of those rows as one JSON line. It needs `datasets` and nothing of ours, as whoever loads the data.
"""

from __future__ import annotations

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


def _read(repo_id: str, revision: str, configs: Sequence[str], *, streaming: bool) -> dict[str, dict[str, str]]:
    """Digests of the rows by configuration and split, loaded here and now."""
    found = {}
    for name in configs:
        loaded = datasets.load_dataset(repo_id, name, revision=revision, streaming=streaming)
        found[name] = {split: digest_rows(rows) for split, rows in loaded.items()}
    return found


def main() -> None:
    """Answer the request on stdin; whatever goes wrong is one line, which the process that asked can tell on."""
    request = json.load(sys.stdin)
    datasets.disable_progress_bars()
    try:
        found = {style: _read(streaming=streaming, **request) for style, streaming in STYLES.items()}
    except Exception as error:
        sys.exit(" ".join(str(error).split()) or repr(error))
    print(json.dumps(found))


def _digest_image(image: Mapping[str, Any] | None) -> str | None:
    if image is None:
        return None
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
