"""WebNLG: triples of names, whose places in the text are looked for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from raw_sets import WEBNLG_TEXT, WEBNLG_TRIPLES

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.loading import load_dataset_splits
from roc.dataset_scripts.webnlg import WebnlgBuilder, check_text, find_places


def write(folder: Path, *texts: Any, split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("webnlg", raw, cache_dir=raw.parent / "cache", **options)


def test_triples_whose_names_have_one_place_become_rows_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = write(tmp_path / "raw", {"text": WEBNLG_TEXT, "triple_list": WEBNLG_TRIPLES})
    rows = load(raw)["train"].to_list()
    assert [row["relation"] for row in rows] == ["isPartOf", "none", "region"]
    assert (rows[0]["head"]["name"], rows[0]["tail"]["name"]) == ("Turmania", "Upper Asparia")
    assert {rows[1]["head"]["name"], rows[1]["tail"]["name"]} == {"Turmania", "Asparia"}
    assert rows[2]["head"]["start"] == WEBNLG_TEXT.rindex("Asparia")
    assert (
        "left out 1 relations of an entity to itself, 2 triples with a name that has no place of its own in the text, "
        "1 triples with a name that has several places" in caplog.text
    )


def test_a_place_within_a_longer_name_does_not_count() -> None:
    names = ["Asparia", "Upper Asparia", "Zet", "Upper Asparia", "A"]
    places = find_places(WEBNLG_TEXT, names)
    assert list(places) == ["Asparia", "Upper Asparia", "Zet", "A"]
    assert [WEBNLG_TEXT[slice(*places[name][0])] for name in names[:2]] == names[:2]
    assert [len(own) for own in places.values()] == [1, 1, 2, 0]
    assert find_places("Upper Asparia", ["Asparia", "Upper Asparia"])["Asparia"] == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "here must be an object"),
        ({"text": "a"}, r"here: missing \['triple_list'\]"),
        ({"text": "a", "triple_list": [], "triples": []}, "here: unknown key 'triples'"),
        ({"text": 1, "triple_list": []}, "here: 'text' must be a string"),
        ({"text": "a", "triple_list": {}}, "'triple_list' a list"),
        ({"text": "a", "triple_list": [["a", "b", "c"], ["a", "b"]]}, "here: triple 1 must be"),
        ({"text": "a", "triple_list": [["a", "b", 1]]}, "here: triple 0 must be"),
        ({"text": "a", "triple_list": [["a" * 301, "b", "c"]]}, "here: triple 0 has a part of 301 characters"),
    ],
)
def test_a_malformed_text_is_named(data: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        check_text(data, "here")


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"val\.json: expected a list of texts with triples"):
        WebnlgBuilder(tmp_path)


def test_the_card_names_the_licence_and_counts_what_is_left_out(tmp_path: Path) -> None:
    raw, output = write(tmp_path / "raw", {"text": WEBNLG_TEXT, "triple_list": WEBNLG_TRIPLES}), tmp_path / "built"
    assert main(WebnlgBuilder, ["--data_dir", str(raw), "--output_dir", str(output)]) == 0
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "`cc-by-nc-sa-4.0`" in card
    assert "triples ambiguous" in card


def test_the_real_validation_file_has_its_counts(roc_data: Path) -> None:
    builder = WebnlgBuilder(roc_data / "text_relations" / "webnlg", splits=["val"])
    rows, counts = [raw.row for raw, _ in builder._rows["val"]], builder.split_counts["val"]
    related = Counter(row["relation"] for row in rows)
    assert counts["texts"] == 500
    stated = ("repeated_relations", "relations_to_itself", "triples_not_found", "triples_ambiguous")
    assert related.total() - related["none"] + sum(counts[key] for key in stated) == 1224
    assert related.total() - related["none"] == 1009
    assert not any(
        row["head"]["start"] < row["tail"]["end"] and row["tail"]["start"] < row["head"]["end"] for row in rows
    )
