"""Texts with all entities marked in them, as they are quickly typed."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.marked import MarkedBuilder, parse_line

LINE = "[Mia Keller|1] opened [Kornblume|7] with her sister [Ida|3].\t1 founded 7; 3 founded 7 ;1 sibling of 3"
UNRELATED = "In [Linz|1] nobody has heard of [Café Ö|2] [sic]."


def load(raw: Path, **options: str) -> datasets.DatasetDict:
    return load_dataset_splits("marked", raw, cache_dir=raw.parent / "cache", **options)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text(f"{LINE}\n\n{UNRELATED}\n", encoding="utf-8")
    (tmp_path / "raw" / "val.txt").write_text(f"{UNRELATED}\t\n", encoding="utf-8")
    return tmp_path / "raw"


def test_marks_become_spans_and_all_that_is_not_related_is_none(raw: Path) -> None:
    loaded = load(raw)
    rows = loaded["train"].to_list()
    assert {row["text"] for row in rows} == {
        "Mia Keller opened Kornblume with her sister Ida.",
        "In Linz nobody has heard of Café Ö [sic].",
    }
    for row in rows:
        assert all(row["text"][own["start"] : own["end"]] == own["name"] for own in (row["head"], row["tail"]))
    triples = {(row["head"]["name"], row["relation"], row["tail"]["name"]) for row in rows[:3]}
    assert triples == {
        ("Mia Keller", "founded", "Kornblume"),
        ("Ida", "founded", "Kornblume"),
        ("Mia Keller", "sibling of", "Ida"),
    }
    [last] = rows[3:]
    assert last["relation"] == "none"
    assert {last["head"]["name"], last["tail"]["name"]} == {"Linz", "Café Ö"}
    assert [row["relation"] for row in loaded["val"].to_list()] == ["none"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[Ann|1] met [Bob|1].", r"\[Bob\|1\]' has the number of another entity"),
        ("[ |1] met [Bob|2].", "is empty"),
        ("[Ann|1] met [Bob|2].\t1 met 3", r"'1 met 3' is no relation.*\['1', '2'\]"),
        ("[Ann|1] met [Bob|2].\tmet", "'met' is no relation"),
        ("[Ann|1] met [Bob|2].\t1 met 2\t2 met 1", "several tabs"),
    ],
)
def test_a_line_that_says_something_else_is_refused_by_its_place(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^train.txt:3: .*{message}"):
        parse_line(line, "train-00003", where="train.txt:3")


def test_the_command_writes_a_checked_folder(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data_dir", str(raw), "--output_dir", str(tmp_path / "out")]
    assert main(MarkedBuilder, arguments) == 0
    assert "Texts with marked entities" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
