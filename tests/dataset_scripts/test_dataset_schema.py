"""The schema's checks, and folders that builders write."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest

import roc.dataset_scripts.exporting.folder
from roc.dataset_scripts.building.raw_files import read_lines, token_offsets
from roc.dataset_scripts.exporting.folder import export_dataset
from roc.dataset_scripts.exporting.marker import MARKER, Provenance, read_marker
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.schema import check_row, object_entity, text_entity

TEXT = "Ann met Bob"


def make_row(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "train-1",
        "text": TEXT,
        "image": "1.jpg",
        "head": text_entity(TEXT, 0, 3, entity_type="person"),
        "tail": object_entity("a sign", (0.0, 0.25, 0.5, 1.0)),
        "relation": "sees",
    }
    return row | changes


def make_entity(**changes: Any) -> dict[str, Any]:
    return text_entity(TEXT, 0, 3) | changes


def test_a_good_row_passes() -> None:
    check_row(make_row(), "train.jsonl:1")
    check_row(make_row(tail=text_entity(TEXT, 8, 11), image=None), "train.jsonl:1")


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (make_entity(start=8, end=12, name="Bob"), ValueError, r"\(8, 12\) lies outside the text.* <= 11, the number"),
        (make_entity(start=3, end=3), ValueError, r"\(3, 3\) is empty"),
        (make_entity(start=-3, end=2), ValueError, r"\(-3, 2\) lies outside"),
        (make_entity(end=None), TypeError, "start and end must be integers"),
        (make_entity(start=True), TypeError, "start and end must be integers"),
        (make_entity(start=0.0), TypeError, "start and end must be integers"),
        (make_entity(end=4), ValueError, "'Ann' is not the text of its span"),
        (make_entity(name=""), ValueError, "'name' must not be empty"),
        (make_entity(name=None), TypeError, "'name' must be a string"),
        (make_entity(type="Person"), ValueError, "Write 'person'"),
        (make_entity(type="GPE"), ValueError, "Write 'location'"),
        (make_entity(type="misc"), ValueError, "Write 'miscellaneous'"),
        (make_entity(type="A group"), ValueError, "Write 'a group'"),
        (make_entity(type=""), ValueError, "'type' must not be empty"),
        (make_entity(type=3), TypeError, "'type' must be a string"),
        (make_entity(bbox=[0, 0, 1, 1]), ValueError, "either a span"),
        (make_entity(start=None, end=None), ValueError, "either a span"),
        (make_entity(kind="person"), ValueError, "unknown key 'kind'"),
        ({"name": "Ann"}, ValueError, r"missing \['start', 'end', 'type', 'bbox'\]"),
        ("Ann", TypeError, "must be an object with the keys"),
    ],
)
def test_a_bad_entity_is_refused_with_its_place(head: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        check_row(make_row(head=head), "train.jsonl:7")
    assert str(caught.value).startswith("train.jsonl:7 (row 'train-1'): 'head'")


@pytest.mark.parametrize("bbox", [[0.5, 0, 0.5, 1], [0, 0.9, 1, 0.1], [0, 0, 1.01, 1], [0, 0, math.nan, 1]])
def test_a_box_outside_the_picture_is_refused_with_its_place(bbox: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^train.jsonl:7 \(row 'train-1'\): 'tail': bbox .* not a box .* divide pixels"
    ):
        check_row(make_row(tail={**object_entity("a sign", (0, 0, 1, 1)), "bbox": bbox}), "train.jsonl:7")


@pytest.mark.parametrize("bbox", [[0, 0, 1], "0 0 1 1", [0, 0, "1", 1], [0, 0, True, 1]])
def test_a_box_that_is_not_four_numbers_is_refused(bbox: Any) -> None:
    with pytest.raises(ValueError, match="'tail': bbox must be four numbers"):
        check_row(make_row(tail={**object_entity("a sign", (0, 0, 1, 1)), "bbox": bbox}), "train.jsonl:7")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"relation": " "}, ValueError, "'relation' must not be empty"),
        ({"relation": None}, TypeError, "'relation' must be a string"),
        ({"text": ""}, ValueError, "'text' must not be empty"),
        ({"id": ""}, ValueError, "'id' must not be empty"),
        ({"image": None}, ValueError, "has no image"),
        ({"label": "sees"}, ValueError, "unknown key 'label'"),
    ],
)
def test_a_bad_row_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_row(make_row(**changes), "train.jsonl:7")


HALVES = ["\ud800", "\udfff", "\ud83d", "\udc80 of a file name", "\ude00\ud83d"]


@pytest.mark.parametrize("half", HALVES)
def test_what_no_file_can_hold_is_refused_with_its_place(half: str) -> None:
    for changes in (
        {"id": half},
        {"text": TEXT + half},
        {"relation": f"a {half}"},
        {"image": f"{half}.png"},
        {"head": text_entity(TEXT + half, 0, 3, entity_type=f"person {half}")},
        {"tail": object_entity(f"a sign {half}", (0, 0, 1, 1))},
    ):
        with pytest.raises(
            ValueError, match=r"^train\.jsonl:7 \(row .* is not valid Unicode: character \d+, '\\ud"
        ) as caught:
            check_row(make_row(**changes), "train.jsonl:7")
        str(caught.value).encode()  # can be shown


def test_token_offsets_point_into_the_joined_text() -> None:
    tokens = ["Zoë", "🙂", "met", "Bob"]
    text = " ".join(tokens)
    assert [text[start:end] for start, end in token_offsets(tokens)] == tokens


def test_lines_keep_their_numbers_and_broken_bytes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n two\u2028still two \n".encode())
    assert list(read_lines(path)) == [(1, "a.txt:1", "one"), (3, "a.txt:3", "two\u2028still two")]
    path.write_bytes(b"one\n\xff\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: the line is not UTF-8"):
        list(read_lines(path))


def make_dataset(tmp_path: Path, *, rows: int = 3) -> datasets.Dataset:
    """Rows whose pictures are files of different sizes."""
    made = []
    for index in range(rows):
        PIL.Image.effect_noise((40 + index, 40), 90).convert("RGB").save(tmp_path / f"{index}.png")
        made.append(make_row(id=f"train-{index}", image=str(tmp_path / f"{index}.png")))
    return datasets.Dataset.from_list(made, features=FEATURES)


def make_provenance(**changes: Any) -> Provenance:
    fields = {
        "builder": "synthetic",
        "builder_version": "1.0.0",
        "title": "A test set",
        "description": "Made for a test. Licence: none needed.",
        "license": "apache-2.0",
        "options": {"seed": 7},
        "source_files": {"raw.txt": "0" * 64},
        "split_counts": {"train": {"missing_images": 2}},
    }
    return Provenance(**(fields | changes))


def image_of(dataset: datasets.Dataset, index: int) -> dict[str, Any]:
    return dataset.cast_column("image", datasets.Image(decode=False))[index]["image"]


def test_a_written_folder_loads_with_the_same_rows_once_the_pictures_are_gone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    pictures = [(tmp_path / f"{index}.png").read_bytes() for index in range(3)]
    export_dataset({"train": dataset, "val": dataset.select([1])}, tmp_path / "out", provenance=make_provenance())
    for index in range(3):
        (tmp_path / f"{index}.png").unlink()
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features == FEATURES
    assert list(loaded) == ["train", "val"]
    columns = ["id", "text", "head", "tail", "relation"]
    assert loaded["train"].select_columns(columns).to_list() == dataset.select_columns(columns).to_list()
    # The bytes are the file's own, and no folder of this machine is in the path.
    assert [image_of(loaded["train"], index) for index in range(3)] == [
        {"bytes": data, "path": f"{index}.png"} for index, data in enumerate(pictures)
    ]
    assert loaded["val"][0]["id"] == "train-1"
    assert loaded["val"][0]["image"].size == (41, 40)


def test_a_large_split_is_written_as_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roc.dataset_scripts.exporting.folder, "ROWS_PER_GROUP", 2)
    dataset = make_dataset(tmp_path, rows=5)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.png"))
    monkeypatch.setattr(roc.dataset_scripts.exporting.folder, "SHARD_BYTES", size * 2 // 5)
    export_dataset({"train": dataset}, tmp_path / "out", provenance=make_provenance())
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    loaded = load_dataset_splits("synthetic", tmp_path / "out", cache_dir=tmp_path / "cache")
    assert loaded["train"]["id"][:] == dataset["id"][:]


def test_pictures_held_as_bytes_are_written_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (5, 6)).save(buffer, format="PNG")
    row = make_row(image={"bytes": buffer.getvalue(), "path": None})
    dataset = datasets.Dataset.from_list([row], features=FEATURES)
    export_dataset({"test": dataset}, tmp_path / "out", provenance=make_provenance())
    loaded = load_dataset_splits("synthetic", tmp_path / "out", cache_dir=tmp_path / "cache")
    assert list(loaded) == ["test"]
    assert loaded["test"][0]["image"].size == (5, 6)


def test_the_marker_and_the_card_state_counts_provenance_and_licence(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    marker = export_dataset({"train": dataset}, tmp_path / "out", provenance=make_provenance())
    assert marker == json.loads((tmp_path / "out" / MARKER).read_text()) == read_marker(tmp_path / "out")
    assert marker["splits"]["train"] == {
        "rows": 3,
        "rows_with_image": 3,
        "text_entities": 3,
        "untyped_text_entities": 0,
        "objects": 3,
        "relations": {"sees": 3},
        "missing_images": 2,
    }
    card = (tmp_path / "out" / "README.md").read_text()
    for expected in ("license: apache-2.0", "path: data/train-*.parquet", "| `sees` | 3 |", "`raw.txt`", "`seed=7`"):
        assert expected in card
    assert "Made for a test." in card


def test_a_folder_that_is_no_dataset_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    dataset = make_dataset(tmp_path)
    with pytest.raises(FileExistsError, match="not a dataset folder"):
        export_dataset({"train": dataset}, tmp_path / "out", provenance=make_provenance())
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_dataset_folder_is_replaced_and_the_new_rows_are_loaded(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    for rows in (3, 2):
        export_dataset({"train": dataset.select(range(rows))}, tmp_path / "out", provenance=make_provenance())
        loaded = load_dataset_splits("synthetic", tmp_path / "out", cache_dir=tmp_path / "cache")
        assert len(loaded["train"]) == rows
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("splits", [{}, {"dev": None}])
def test_unknown_or_no_splits_are_refused(tmp_path: Path, splits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"splits \['train', 'val', 'test'\]"):
        export_dataset(splits, tmp_path / "out", provenance=make_provenance())


def test_other_features_are_refused(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list([{"text": "a"}])
    with pytest.raises(ValueError, match=r"not those of FEATURES"):
        export_dataset({"train": dataset}, tmp_path / "out", provenance=make_provenance())


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not a marker"), ("[]", "not a marker"), ('{"format_version": 99}', "version 99")]
)
def test_a_strange_marker_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_marker(tmp_path)


def test_loading_checks_the_name_the_splits_and_the_row_count(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_dataset({"train": make_dataset(tmp_path)}, folder, provenance=make_provenance())
    with pytest.raises(ValueError, match="written by the builder 'synthetic', not 'mnre'"):
        load_dataset_splits("mnre", folder)
    with pytest.raises(FileNotFoundError, match=r"no split 'test'; it has \['train'\]"):
        load_dataset_splits("synthetic", folder, splits=["train", "test"])
    with pytest.raises(ValueError, match="Did you mean 'synthetic'"):
        load_dataset_splits("synthetics", folder)
    with pytest.raises(ValueError, match="missing_images must be one of"):
        load_dataset_splits("synthetic", folder, missing_images="ignore")
    marker = json.loads((folder / MARKER).read_text())
    marker["splits"]["train"]["rows"] = 4
    (folder / MARKER).write_text(json.dumps(marker))
    with pytest.raises(ValueError, match="has 3 rows, but its marker says 4"):
        load_dataset_splits("synthetic", folder, cache_dir=tmp_path / "cache")


def test_a_typer_that_a_written_folder_lacks_is_refused_only_where_it_has_work(tmp_path: Path) -> None:
    typed = make_dataset(tmp_path)
    untyped = datasets.Dataset.from_list([make_row(head=text_entity(TEXT, 0, 3), image=None,
                                                   tail=text_entity(TEXT, 8, 11))], features=FEATURES)  # fmt: skip
    export_dataset({"train": typed}, tmp_path / "typed", provenance=make_provenance())
    export_dataset({"train": untyped}, tmp_path / "untyped", provenance=make_provenance())
    export_dataset({"train": untyped}, tmp_path / "spacy", provenance=make_provenance(entity_typer="spacy:x"))
    for folder, typer in (("typed", "spacy"), ("untyped", None), ("spacy", "spacy:x")):
        load_dataset_splits("synthetic", tmp_path / folder, entity_typer=typer, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="has 2 untyped text entities, but entity_typer='spacy' is asked for"):
        load_dataset_splits("synthetic", tmp_path / "untyped", entity_typer="spacy")


def test_generated_data_without_a_marker_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m roc\.dataset_scripts\.synthetic --output_dir"):
        load_dataset_splits("synthetic", tmp_path)
