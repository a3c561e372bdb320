"""A user's own JSON lines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.jsonl import JsonlBuilder, parse_line
from roc.dataset_scripts.loading import load_dataset_splits
from roc.support.locks import try_lock, unlock

TEXT = "Zoë 🙂 leads Acme"
ROW = {
    "text": TEXT,
    "head": {"start": 0, "end": 3, "type": "person"},
    "tail": {"start": 12, "end": 16, "name": "Acme"},
    "relation": "leads",
}
GROUP = {
    "id": "post-9",
    "text": TEXT,
    "image": "pictures/1.png",
    "entities": [{"start": 0, "end": 3}, {"start": 12, "end": 16}, {"bbox": [0, 0.25, 0.5, 1], "name": "a sign"}],
    "relations": [
        {"head": 0, "tail": 1, "relation": "leads"},
        {"head": 2, "tail": 1, "relation": "names"},
    ],
}


def write(path: Path, lines: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "pictures").mkdir(parents=True)
    PIL.Image.new("RGB", (8, 4)).save(folder / "pictures" / "1.png")
    write(folder / "train.jsonl", [ROW, GROUP])
    return folder


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("jsonl", raw, cache_dir=raw.parent / "cache", **options)


def parse(**changes: Any) -> list[dict[str, Any]]:
    return parse_line(json.dumps(ROW | changes), "train-000001", where="train.jsonl:1")


def test_both_forms_become_rows_of_the_schema(raw: Path) -> None:
    rows = load(raw)["train"]
    assert rows.features == FEATURES
    assert rows["id"][:] == ["train-000001", "post-9-0", "post-9-1"]
    assert rows["relation"][:] == ["leads", "leads", "names"]
    assert rows[0]["image"] is None
    assert rows[0]["head"] == {"name": "Zoë", "start": 0, "end": 3, "type": "person", "bbox": None}
    assert rows[0]["tail"] == {"name": "Acme", "start": 12, "end": 16, "type": None, "bbox": None}
    assert rows[2]["head"] == {
        "name": "a sign",
        "start": None,
        "end": None,
        "type": "object",
        "bbox": [0, 0.25, 0.5, 1],
    }
    assert rows[2]["image"].size == (8, 4)


def test_token_offsets_become_character_offsets() -> None:
    line = {"tokens": TEXT.split(), "relation": "leads", "head": {"start": 0, "end": 1}, "tail": {"start": 2, "end": 4}}
    [row] = parse_line(json.dumps(line), "id", where="here")
    assert (row["text"], row["head"]["name"], row["tail"]["name"]) == (TEXT, "Zoë", "leads Acme")


def test_a_row_of_the_schema_itself_is_accepted(raw: Path) -> None:
    rows = load(raw)["train"].remove_columns("image").to_list()
    write(raw / "train.jsonl", [row | {"image": "pictures/1.png"} for row in rows])
    again = load(raw)["train"].remove_columns("image").to_list()
    assert again == rows


def test_an_object_without_a_name_is_called_object() -> None:
    [row] = parse(head={"bbox": [0, 0, 1, 1], "type": None}, image="1.png")
    assert (row["head"]["name"], row["head"]["type"]) == ("object", "object")


@pytest.mark.parametrize(("name", "split"), [("validation", "val"), ("valid", "val"), ("dev", "val"), ("test", "test")])
def test_file_names_of_other_habits_are_found(raw: Path, name: str, split: str) -> None:
    (raw / "train.jsonl").rename(raw / f"{name}.jsonl")
    assert list(load(raw)) == [split]


def test_two_files_for_one_split_are_refused(raw: Path) -> None:
    for name in ("val", "dev"):
        write(raw / f"{name}.jsonl", [ROW])
    with pytest.raises(ValueError, match="Several files could be the split 'val'"):
        load(raw)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"relations_": []}, ValueError, "unknown key 'relations_'"),
        ({"txt": "a"}, ValueError, "unknown key 'txt'. Did you mean 'text'"),
        ({"head": {"start": 0, "ende": 3}}, ValueError, "'head': unknown key 'ende'. Did you mean 'end'"),
        ({"head": {"start": 0}}, TypeError, "start and end must be integers"),
        ({"head": {"start": 0, "end": 99}}, ValueError, "outside the text.* <= 16, the number of characters"),
        ({"head": {"start": 0, "end": 3, "bbox": [0, 0, 1, 1]}}, ValueError, "give either 'start' and 'end'"),
        ({"head": {"type": "person"}}, ValueError, "give either 'start' and 'end'"),
        ({"head": {"bbox": [0, 0, 40, 20]}}, ValueError, "divide pixels"),
        ({"head": {"bbox": "0 0 1 1"}}, ValueError, "bbox must be four numbers"),
        ({"head": "Zoë"}, TypeError, "'head' must be an object with the keys"),
        ({"tokens": ["a"]}, ValueError, "either 'text'"),
        ({"text": 3}, TypeError, "'text' must be a string"),
        ({"image": "/etc/passwd"}, ValueError, "leaves the folder"),
        ({"image": "../1.png"}, ValueError, "leaves the folder"),
        ({"image": "a/../../1.png"}, ValueError, "leaves the folder"),
        ({"image": "..\\1.png"}, ValueError, "leaves the folder"),
        ({"image": "C:\\1.png"}, ValueError, "leaves the folder"),
        ({"image": 3}, TypeError, "'image' must be a path"),
        ({"image": ""}, TypeError, "'image' must be a path"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse(**changes)
    assert str(caught.value).startswith("train.jsonl:1")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"relations": [{"head": 0, "tail": 3, "relation": "leads"}]}, ValueError, "'tail' is 3, .* positions 0 to 2"),
        ({"relations": [{"head": -1, "tail": 1, "relation": "leads"}]}, ValueError, "'head' is -1"),
        ({"relations": [{"head": "0", "tail": 1, "relation": "leads"}]}, TypeError, "position of an entity"),
        ({"relations": [{"head": 0, "tail": 1}]}, ValueError, r"relation 0: missing \['relation'\]"),
        ({"relations": [{"head": 0, "tail": 1, "relatoin": "x"}]}, ValueError, "Did you mean 'relation'"),
        ({"relations": {"head": 0}}, TypeError, "'relations' must be a list"),
        ({"entities": None}, TypeError, "'entities' must be a list"),
        ({"entities": [{"start": 4, "end": 3}]}, ValueError, "entity 0: the span"),
        ({"head": {"start": 0, "end": 3}}, ValueError, "unknown key 'head'"),
    ],
)
def test_a_bad_group_is_refused_with_its_place(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_line(json.dumps(GROUP | changes), "id", where="train.jsonl:1")
    assert str(caught.value).startswith("train.jsonl:1")


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{", ValueError, "not JSON"),
        ("[" * 100_000, ValueError, "nested more than 50 levels"),
        ("[]", TypeError, "must be a JSON object"),
        ('{"text": "a"}', ValueError, r"missing \['head', 'tail', 'relation'\]"),
        ('{"text": "a", "entities": []}', ValueError, r"missing \['relations'\]"),
        ('{"head": {}, "tail": {}, "relation": "x"}', ValueError, "either 'text'"),
        ('{"tokens": [""], "entities": [], "relations": []}', TypeError, "'tokens' must be a list"),
        ('{"tokens": ["a"], "head": {"start": 0, "end": 2}, "tail": {"start": 0, "end": 1}, "relation": "x"}',
         ValueError, "the number of tokens"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_refused_with_its_place(line: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_line(line, "id", where="train.jsonl:1")
    assert str(caught.value).startswith("train.jsonl:1")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"relation": ""}, ValueError, "'relation' must not be empty"),
        ({"id": 7}, TypeError, "'id' must be a string"),
        ({"head": {"start": 0, "end": 3, "name": "Zoe"}}, ValueError, "'Zoe' is not the text of its span"),
        ({"head": {"start": 0, "end": 3, "type": "persn"}}, ValueError, "is not known. Did you mean 'person'"),
        ({"head": {"bbox": [0, 0, 1, 1]}}, ValueError, "has no image"),
        ({"id": "post-9-0"}, ValueError, "is also the id of train.jsonl:2"),
        ({"text": "Zoë leads Acme \ud800"}, ValueError, r"\(row 'train-000003'\): 'text' is not valid Unicode"),
        ({"relation": "leads \udfff"}, ValueError, "'relation' is not valid Unicode: character 6"),
        ({"image": "\ud83d.png"}, ValueError, "'image' is not valid Unicode"),
    ],
)
def test_what_the_schema_forbids_is_refused_with_its_place(
    raw: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    write(raw / "train.jsonl", [ROW, GROUP, ROW | changes])
    with pytest.raises(error, match=message) as caught:
        load(raw)
    assert str(caught.value).startswith("train.jsonl:3")


def test_an_id_twice_in_a_group_line_is_refused_too(raw: Path) -> None:
    write(raw / "train.jsonl", [ROW | {"id": "post-9-1"}, GROUP])
    with pytest.raises(ValueError, match=r"train\.jsonl:2: the id 'post-9-1' is also the id of train\.jsonl:1"):
        load(raw)


def test_a_missing_picture_stops_or_drops_the_rows_that_need_it(raw: Path) -> None:
    (raw / "pictures" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl:2: the picture 'pictures/1\.png'"):
        load(raw)
    assert load(raw, missing_images="skip")["train"]["id"][:] == ["train-000001"]
    # The row about an object in the picture can't be kept without it.
    assert load(raw, missing_images="no_image")["train"]["id"][:] == ["train-000001", "post-9-0"]
    builder = JsonlBuilder(raw, missing_images="no_image", cache_dir=raw.parent / "cache")
    assert builder.split_counts["train"] == {"missing_images": 2, "dropped_rows": 1}


def test_a_stated_type_is_kept_and_only_text_is_typed(raw: Path) -> None:
    class Typer:
        name = "typer"

        def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[Any]]) -> list[list[str | None]]:
            return [["organization"] * len(row) for row in spans]

    rows = load(raw, entity_typer=Typer())["train"]
    assert [row["type"] for row in rows["head"]] == ["person", "organization", "object"]
    assert [row["type"] for row in rows["tail"]] == ["organization"] * 3


def test_a_tag_is_the_type_that_it_means(raw: Path) -> None:
    write(raw / "train.jsonl", [ROW | {"head": {"start": 0, "end": 3, "type": "PERSON"}}])
    assert load(raw)["train"]["head"][0]["type"] == "person"


def test_a_typer_that_answers_nonsense_is_refused(raw: Path) -> None:
    class Typer:
        name = "typer"

        def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[Any]]) -> list[list[str | None]]:
            return [["PER"] * len(row) for row in spans]

    with pytest.raises(ValueError, match=r"'type' must be lower-case words .* Write 'person'"):
        load(raw, entity_typer=Typer())


def test_a_changed_line_is_not_served_from_the_cache(raw: Path) -> None:
    assert len(load(raw)["train"]) == 3
    write(raw / "train.jsonl", [ROW | {"relation": "founded"}])
    assert load(raw)["train"]["relation"][:] == ["founded"]


def test_what_killed_builds_left_is_removed_and_what_is_being_built_stays(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(raw)
    [info] = (raw.parent / "cache").rglob("dataset_info.json")
    cache, temporary, out = info.parents[1], raw.parent / "temporary", raw.parent / "out"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for place, folder, lock in (
        (cache, "{}.incomplete", "{}_builder.lock"),
        (temporary, "roc-build-{}", ".roc-build-{}.lock"),
        (out.parent, ".out.{}.tmp", ".out.lock"),
    ):
        for name in ("0" * 32, "1" * 32):
            (place / folder.format(name)).mkdir(parents=True)
            (place / folder.format(name) / "half").touch()
            (place / lock.format(name)).touch()
    in_use = [cache / f"{'1' * 32}_builder.lock", temporary / f".roc-build-{'1' * 32}.lock"]
    locks = [try_lock(lock) for lock in in_use]
    write(raw / "train.jsonl", [ROW])
    load(raw)
    assert main(JsonlBuilder, ["--data_dir", str(raw), "--output_dir", str(out)]) == 0
    assert [path.name for path in cache.glob("*.incomplete")] == [f"{'1' * 32}.incomplete"]
    assert sorted(path.name for path in temporary.iterdir()) == [in_use[1].name, f"roc-build-{'1' * 32}"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["cache", "out", "raw", "temporary"]
    for lock in locks:
        assert lock is not None
        unlock(lock)


def test_the_command_line_writes_a_folder_that_loads(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert main(JsonlBuilder, ["--data_dir", str(raw), "--output_dir", str(out)]) == 0
    counts = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert (counts["rows"], counts["rows_with_image"], counts["objects"]) == (3, 2, 1)
    loaded = datasets.load_dataset(str(out), cache_dir=str(raw.parent / "cache2"))["train"]
    assert loaded.remove_columns("image").to_list() == load(raw)["train"].remove_columns("image").to_list()
    assert loaded[1]["image"].size == (8, 4)
    # A written folder has no raw files: building from it says so.
    assert main(JsonlBuilder, ["--data_dir", str(out), "--output_dir", str(raw.parent / "again")]) == 1
    assert "No split found" in capsys.readouterr().err
