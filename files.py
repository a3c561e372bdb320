"""Writing files so that a reader never sees a half-written one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    Args:
        path: The file to (over)write. Its folder is created.
        mode: `"w"` for UTF-8 text or `"wb"` for bytes.

    Yields:
        The open temporary file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty temporary folder; rename it to `path` when the block succeeds, remove it when it fails.

    An older folder at `path` is kept until the new one is complete, then removed.

    Args:
        path: The folder to (over)write.

    Yields:
        The temporary folder, on the same file system as `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary_name(target), _temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.replace(old)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _temporary_name(target: Path) -> Path:
    """A fresh name beside `target`: hidden, so that globs over the folder don't pick it up."""
    return target.with_name(f".{target.name}.{uuid4().hex}.tmp")
