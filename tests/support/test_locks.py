"""Locks die with their process, and what dead processes left is removed; what living ones use stays."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import roc.support.locks
from roc.support.files import replace_folder
from roc.support.locks import NoLocksError, lock_file_of, scratch_folder, sole_writer, try_lock, unlock

# It holds a folder that it writes and one in the temporary folder, with half of a file in each.
PROGRAM = """
import sys, time
from pathlib import Path
from roc.support.files import replace_folder
from roc.support.locks import scratch_folder

with scratch_folder("build") as scratch, replace_folder(sys.argv[1]) as folder:
    for each in (scratch, folder):
        (each / "half").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of its own, for this process and those that it starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def builder(temporary: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a build."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_running_build_uses_stays_and_what_a_killed_one_left_is_removed(
    builder: subprocess.Popen[str], temporary: Path, tmp_path: Path
) -> None:
    in_use = names(temporary), names(tmp_path)
    assert [len(each) for each in in_use] == [2, 3]  # folder and lock; these and the temporary folder
    with scratch_folder("build"):
        pass
    with pytest.raises(BlockingIOError, match=f"process {builder.pid} on"), replace_folder(tmp_path / "data"):
        pytest.fail("two write one folder")
    with replace_folder(tmp_path / "neighbour"):
        pass
    (tmp_path / "neighbour").rmdir()
    assert (names(temporary), names(tmp_path)) == in_use
    builder.kill()
    builder.wait()
    assert (names(temporary), names(tmp_path)) == in_use, "a killed process cleaned up"
    with scratch_folder("other"):
        assert len(names(temporary)) == 4, "another kind's was removed"
    with scratch_folder("build") as scratch, replace_folder(tmp_path / "data") as folder:
        assert names(scratch) == names(folder) == []
        assert names(temporary) == sorted([scratch.name, lock_file_of(scratch).name])
    assert names(temporary) == []
    assert names(tmp_path) == ["data", "temporary"]


def test_a_process_that_a_killed_one_has_forked_does_not_keep_its_lock(tmp_path: Path) -> None:
    """Such as those that prepare batches, which see seconds later that they are alone."""
    fork = multiprocessing.get_context("fork")

    def hold(ready: Any, worker: Any) -> None:
        with sole_writer(tmp_path / "model"):
            child = fork.Process(target=time.sleep, args=(60,))
            child.start()
            worker.value = child.pid
            ready.set()
            time.sleep(60)

    ready, worker = fork.Event(), fork.Value("i", 0)
    owner = fork.Process(target=hold, args=(ready, worker))
    owner.start()
    assert ready.wait(30)
    with pytest.raises(BlockingIOError), sole_writer(tmp_path / "model"):
        pass
    owner.kill()
    owner.join()
    os.kill(worker.value, 0)  # it lives
    with sole_writer(tmp_path / "model") as is_alone:
        assert is_alone
    os.kill(worker.value, signal.SIGKILL)


def test_a_lock_that_was_removed_in_the_meantime_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, opened = tmp_path / "lock", os.open

    def open_late(path: Any, *given: Any) -> int:
        monkeypatch.setattr(os, "open", opened)
        descriptor = opened(path, *given)
        file.unlink()  # as its last owner does
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    first = try_lock(file)
    assert first is not None
    assert file.exists()
    assert try_lock(file) is None
    unlock(first)


def test_a_full_disk_can_be_locked_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with sole_writer(tmp_path / "model"), pytest.raises(BlockingIOError, match="it has just begun"):  # noqa: SIM117
        with sole_writer(tmp_path / "model"):
            pass
    assert names(tmp_path) == []


def test_without_locks_a_warning_says_so_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    leftover = tmp_path / f".data.{'a' * 32}.tmp"
    leftover.mkdir()
    for attribute, value in (("fcntl.flock", refuse), ("fcntl", None)):
        with monkeypatch.context() as patch:
            patch.setattr(f"roc.support.locks.{attribute}", value)
            with pytest.raises(NoLocksError):
                try_lock(tmp_path / "lock")
            with replace_folder(tmp_path / "data"):
                pass
        assert "cannot be locked" in caplog.text
        caplog.clear()
    assert leftover.exists()


def test_a_link_in_the_place_of_a_lock_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (temporary / ".roc-build-x.lock").symlink_to(victim)
    (temporary / ".roc-build-y.lock").touch()
    (temporary / "roc-build-y").symlink_to(tmp_path)
    with scratch_folder("build"):
        pass
    assert victim.read_text(encoding="utf-8") == "precious"
    with pytest.raises(OSError, match="symbolic links"):
        try_lock(temporary / ".roc-build-x.lock")
    assert roc.support.locks._held == set()
