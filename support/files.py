"""Writing files so that a reader never sees a half-written one."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal
from uuid import uuid4

from roc.support.locks import sole_writer


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    Args:
        path: The file to (over)write. Its folder is created.
        mode: `"w"` for UTF-8 text or `"wb"` for bytes.

    Raises:
        ValueError: If `mode` is another one.
        IsADirectoryError: If `path` is a folder.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode={mode!r} is not allowed: give 'w' or 'wb'.")
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a folder. Name a file.")
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
    """Do as `swap_folder`, as the only process that does, after removing what killed ones left beside `path`.

    Raises:
        BlockingIOError: If another process is replacing the folder now.
        NotADirectoryError: If `path` is a file.
    """
    target = Path(path).resolve()
    with sole_writer(target) as is_alone:
        if is_alone:
            remove_leftovers(target.parent, target.name)
        with swap_folder(path) as folder:
            yield folder


@contextmanager
def swap_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty temporary folder; rename it to `path` when the block succeeds, remove it when it fails.

    An older folder at `path` is kept until the new one is complete, then removed. Both are on one file system.

    Raises:
        NotADirectoryError: If `path` is a file.
    """
    target = Path(path).resolve()  # of a link, the folder that it names is replaced
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{os.fspath(path)!r} is a file. Name a folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    temporary.mkdir()
    old = _temporary_name(target)
    try:
        yield temporary
        if target.exists():
            target.replace(old)
        temporary.replace(target)
    except BaseException:
        if old.exists():
            old.replace(target)
        raise
    else:
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_plain_pickle(path: Path, *, mmap: bool = False) -> Any:
    """Read what `torch.save` wrote, as plain data: a pickle from elsewhere may hold numbers and text, never code.

    Args:
        path: The file.
        mmap: Whether tensors are mapped, and read from disk when they are used.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it holds anything else, is cut short or is no such file; the message names the file.
    """
    import torch  # here: it takes seconds to import, and most sources need none of it

    broken = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (*broken, struct.error, ArithmeticError, AssertionError) as error:
        # without PyTorch's words, which advise to read it as code
        raise ValueError(
            f"{path} cannot be read as plain data: it is cut short, no file of torch.save, or holds something else "
            f"than numbers, text and tensors ({type(error).__name__})"
        ) from error


def remove_folder(path: Path) -> None:
    """Remove a folder such that no half of it is ever seen under its name."""
    temporary = _temporary_name(path)
    path.replace(temporary)
    shutil.rmtree(temporary)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what a killed process left in a folder of files and folders that were to be written or removed.

    Args:
        folder: The folder, which may be missing. Nobody may be writing there now.
        name: Name that the file or folder was to have; None for any.
    """
    temporary_name = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[0-9a-f]{{32}}\.tmp")
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if temporary_name.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def flush_to_disk(path: Path) -> None:
    """Wait until a folder with everything in it would survive a power cut."""
    for entry in [*path.rglob("*"), path]:
        if entry.is_file() or os.name == "posix":  # elsewhere folders cannot be opened
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _temporary_name(target: Path) -> Path:
    """Return a fresh name beside `target`: hidden, so that globs over the folder don't pick it up."""
    return target.with_name(f".{target.name}.{uuid4().hex}.tmp")
