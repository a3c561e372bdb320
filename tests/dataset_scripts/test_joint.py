"""The joint entity and relation JSON of SciERC, CoNLL04 and their kin."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from raw_sets import JOINT_LISTED, JOINT_TAGGED, JOINT_TAGS, JOINT_TOKENS

from roc.dataset_scripts.building.command_line import main
from roc.dataset_scripts.joint import JointBuilder, parse_text
from roc.dataset_scripts.loading import load_dataset_splits


def write(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def load(raw: Path, **options: Any) -> datasets.DatasetDict:
    return load_dataset_splits("joint", raw, cache_dir=raw.parent / "cache", **options)


def test_listed_and_tagged_entities_become_the_same_rows(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", "train.json", [JOINT_LISTED, JOINT_TAGGED])
    rows = load(raw)["train"].to_list()
    triples = [(row["head"]["name"], row["relation"], row["tail"]["name"]) for row in rows]
    assert triples[:2] == [("Ann Lee", "Work_For", "Acme")] * 2
    assert [{head, tail} for head, _, tail in triples[2:]] == [{"Ann Lee", "Bob"}, {"Acme", "Bob"}]
    assert [row["relation"] for row in rows[2:]] == ["none", "none"]
    assert rows[0]["text"] == "Ann Lee of Acme met Bob"
    assert [row["id"] for row in rows] == ["train-00000-0000", *(f"train-00001-000{n}" for n in range(3))]


@pytest.mark.parametrize("names", [("train", "dev", "test"), ("conll04_train", "conll04_val", "conll04_test")])
def test_files_are_found_with_the_name_of_the_data_set_in_front(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in (*names, "conll04_train_dev", "conll04_types"):
        write(tmp_path / "raw", f"{name}.json", [JOINT_LISTED])
    builder = JointBuilder(tmp_path / "raw")
    assert {split: paths[0].stem for split, paths in builder.split_files.items()} == dict(
        zip(("train", "val", "test"), names)
    )


def test_files_of_several_data_sets_are_refused(tmp_path: Path) -> None:
    for name in ("conll04_train.json", "scierc_train.json"):
        write(tmp_path / "raw", name, [JOINT_LISTED])
    with pytest.raises(ValueError, match=r"several files for one split: conll04_train\.json, scierc_train\.json"):
        JointBuilder(tmp_path / "raw")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([], "here: a text must be an object with 'tokens'"),
        ({"tokens": JOINT_TOKENS, "relations": []}, "either 'entities' or 'tags'"),
        (JOINT_LISTED | JOINT_TAGGED, "either 'entities' or 'tags'"),
        (JOINT_LISTED | {"tokens": ["a", ""]}, r"here \(orig_id 7\): 'tokens' must be a list"),
        (JOINT_LISTED | {"relations": {}}, "'relations' must be a list"),
        (JOINT_LISTED | {"entities": {}}, "'entities' must be a list"),
        (JOINT_LISTED | {"entities": [{"start": 1}]}, "entity 0 must be an object with 'start' and 'end'"),
        (JOINT_LISTED | {"entities": [{"start": 3, "end": 7}]}, r"entity 0: the span \(3, 7\) lies outside the text"),
        (JOINT_LISTED | {"entities": [{"start": 1.5, "end": 2}]}, "entity 0: start and end must be integers"),
        (JOINT_LISTED | {"relations": [{"head": 0, "tail": 1}]}, "relation 0 must be an object with 'type', 'head'"),
        (
            JOINT_LISTED | {"relations": [{"type": "a", "head": 0, "tail": 2}]},
            "'tail' must be the position of one of",
        ),
        (JOINT_LISTED | {"relations": [{"type": "a", "head": True, "tail": 1}]}, "'head' must be the position"),
        (JOINT_TAGGED | {"tags": JOINT_TAGS[1:]}, "'tags' must be a list of 6 tags"),
        (
            JOINT_TAGGED | {"tags": ["B-Peop", "L-Org", *JOINT_TAGS[2:]]},
            "the tag 'L-Org' of token 1 cannot",
        ),
        (JOINT_TAGGED | {"tags": ["B-Peop", "U-Peop", *JOINT_TAGS[2:]]}, "the tag 'U-Peop' of token 1 cannot"),
        (JOINT_TAGGED | {"tags": ["B-Peop", "O", *JOINT_TAGS[2:]]}, "the tag 'O' of token 1 cannot"),
        (JOINT_TAGGED | {"tags": ["I-Peop", *JOINT_TAGS[1:]]}, "the tag 'I-Peop' of token 0 cannot"),
        (JOINT_TAGGED | {"tags": ["E-Peop", *JOINT_TAGS[1:]]}, "the tag 'E-Peop' of token 0 cannot"),
        (JOINT_TAGGED | {"tags": [None, *JOINT_TAGS[1:]]}, "the tag None of token 0 cannot"),
        (JOINT_TAGGED | {"tags": [*JOINT_TAGS[:-1], "B-Peop"]}, r"begins with token 5 has no last token \(L-Peop\)"),
    ],
)
def test_a_malformed_text_is_named(text: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        parse_text(text, "x", where="here")


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.json: expected a list of texts"):
        JointBuilder(write(tmp_path / "raw", "train.json", {"tokens": []}))


def test_the_card_says_that_the_licence_is_unknown(tmp_path: Path) -> None:
    raw, output = write(tmp_path / "raw", "train.json", [JOINT_TAGGED]), tmp_path / "built"
    assert main(JointBuilder, ["--data_dir", str(raw), "--output_dir", str(output)]) == 0
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "No licence is known" in card
    assert "The licence is that of the raw data set" in card


@pytest.mark.parametrize(
    ("name", "related", "unrelated"),
    [
        ("scierc", {"train": 3215, "val": 455}, {"train": 5221, "val": 789}),
        ("conll04", {"train": 1283, "val": 343}, {"train": 4715, "val": 1285}),
    ],
)
def test_the_real_files_have_their_counts(
    name: str, related: dict[str, int], unrelated: dict[str, int], roc_data: Path
) -> None:
    builder = JointBuilder(roc_data / "text_relations" / name, splits=["train", "val"])
    counts = {split: Counter(raw.row["relation"] for raw, _ in own) for split, own in builder._rows.items()}
    assert {split: own["none"] for split, own in counts.items()} == unrelated
    assert {split: own.total() - own["none"] for split, own in counts.items()} == related
