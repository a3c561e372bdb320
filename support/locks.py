"""Locks that die with their process: nobody writes where another process writes, and what dead ones left is found."""

from __future__ import annotations

import errno
import functools
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what file systems say that have none

logger = logging.getLogger("roc.support.locks")

_held: set[int] = set()


class NoLocksError(OSError):
    """The system or the file system knows no such locks."""


def lock_file_of(target: Path) -> Path:
    """Return the file that is locked while a file or folder is written: hidden, beside it."""
    return target.with_name(f".{target.name}{SUFFIX}")


@contextmanager
def sole_writer(target: str | os.PathLike[str]) -> Iterator[bool]:
    """Keep other processes from writing a file or folder, as far as they ask by this function too.

    The folder around the target is made.

    Yields:
        Whether it is certain that no other process writes it. It is not where the system or the file system has no
        locks, of which a warning tells.

    Raises:
        BlockingIOError: If another process is writing it; the message says which.
        OSError: If nothing can be written beside it.
    """
    path = Path(target).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_file_of(path)
    try:
        descriptor = try_lock(lock)
    except NoLocksError:
        logger.warning("%s cannot be locked on this file system. Start nothing else that writes it.", path)
        yield False
        return
    if descriptor is None:
        raise BlockingIOError(
            f"{path} is being written by another process ({_owner(lock)}). Wait until it has ended, stop it, or choose "
            "another folder."
        )
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)  # while it is locked: who waits for this file sees that it is gone
        unlock(descriptor)


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """Give an empty folder in the temporary folder, and remove it after the block.

    Folders of this kind that killed processes left there are removed first.

    Args:
        kind: A word that names the folders of one purpose.
    """
    root = Path(tempfile.gettempdir()).resolve()
    for lock in root.glob(f".roc-{kind}-*{SUFFIX}"):
        with suppress(OSError):  # another user's, or nobody can tell whether it is in use
            if (descriptor := try_lock(lock)) is not None:
                shutil.rmtree(root / lock.name[1:].removesuffix(SUFFIX), ignore_errors=True)
                lock.unlink(missing_ok=True)
                unlock(descriptor)
    folder = root / f"roc-{kind}-{uuid4().hex}"
    with sole_writer(folder):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def try_lock(file: Path) -> int | None:
    """Lock a file, which is made where it is missing.

    Not by `filelock`, whose lock lives on in the processes that a killed one has forked, such as those that prepare
    batches.

    Returns:
        What `unlock` takes, or None if another process has locked the file.

    Raises:
        NoLocksError: If there are no such locks here.
        OSError: If the file cannot be opened.
    """
    if fcntl is None:
        raise NoLocksError("there are no such locks on this system")
    _forget_in_children()
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else its last owner has removed it in the meantime
                _held.add(descriptor)
                with suppress(OSError):  # a full disk can be locked too
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise NoLocksError(str(error)) if error.errno in WITHOUT_LOCKS else error from error
        os.close(descriptor)


def unlock(descriptor: int) -> None:
    """Give up a lock."""
    _held.discard(descriptor)
    os.close(descriptor)


def _owner(lock: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return lock.read_text(encoding="utf-8")[:200] or "it has just begun"
    return "not known which"


@functools.cache
def _forget_in_children() -> None:
    """Have processes that this one forks close its locks: a lock is gone when the last process that has it is."""

    def forget() -> None:
        for descriptor in _held:
            with suppress(OSError):
                os.close(descriptor)
        _held.clear()

    os.register_at_fork(after_in_child=forget)
