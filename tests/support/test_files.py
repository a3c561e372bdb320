"""Files and folders are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from roc.support.files import atomic_write, flush_to_disk, remove_folder, remove_leftovers, replace_folder


def test_a_file_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_write(path) as file:
        file.write("é")
        assert not path.exists()
    assert path.read_bytes() == "é".encode()
    with atomic_write(str(path), "wb") as file:
        file.write(b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_file_stays_as_it_was_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write("half of the")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["a", "r", "x", "w+"])
def test_only_whole_files_are_written(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="give 'w' or 'wb'"), atomic_write(tmp_path / "file.txt", mode):
        pass


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_write(tmp_path):
        pass


def test_a_folder_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with replace_folder(path) as folder:
        (folder / "file.txt").write_text("new", encoding="utf-8")
        assert not path.exists()
    assert [entry.name for entry in path.iterdir()] == ["file.txt"]
    assert list(path.parent.iterdir()) == [path]


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old.txt").write_text("old", encoding="utf-8")
    with replace_folder(path) as folder:
        (folder / "new.txt").write_text("new", encoding="utf-8")
        assert (path / "old.txt").exists()
    assert [entry.name for entry in path.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_folder_stays_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old.txt").write_text("old", encoding="utf-8")

    def write_half() -> None:
        with replace_folder(path) as folder:
            (folder / "new.txt").write_text("new", encoding="utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [entry.name for entry in path.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old.txt").write_text("old", encoding="utf-8")
    replace = Path.replace

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if (self / "new.txt").exists():
            raise PermissionError("no")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises(PermissionError), replace_folder(path) as folder:
        (folder / "new.txt").write_text("new", encoding="utf-8")
    assert [entry.name for entry in path.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match="is a file"), replace_folder(path):
        pass
    assert path.read_text(encoding="utf-8") == "old"


def test_of_a_link_the_folder_that_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder")
    with replace_folder(link) as folder:
        (folder / "new.txt").write_text("new", encoding="utf-8")
    assert link.is_symlink()
    assert (tmp_path / "folder" / "new.txt").exists()


def test_a_folder_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file.txt").write_text("old", encoding="utf-8")
    remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_what_is_half_removed_is_not_seen_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("roc.support.files.shutil.rmtree", lambda path: None)  # as if killed
    remove_folder(tmp_path / "folder")
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".")
    monkeypatch.undo()
    remove_leftovers(tmp_path, "other")
    assert left.exists()
    remove_leftovers(tmp_path, "folder")
    assert not left.exists()


def test_leftovers_of_files_are_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [tmp_path / f".{name}.{'0' * 32}.tmp" for name in ("a.txt", "b.txt")]
    kept = [tmp_path / name for name in ("a.txt", ".a.txt", ".a.txt.tmp", f"a.txt.{'0' * 32}.tmp")]
    for path in left + kept:
        path.write_text("x", encoding="utf-8")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "missing")


def test_every_file_and_folder_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file.txt").write_text("x", encoding="utf-8")
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    flush_to_disk(tmp_path)
    assert sorted(flushed) == sorted(path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*")))
