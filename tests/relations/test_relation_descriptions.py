"""The shipped relation files hold every label of their data set, described so that encoders can tell them apart."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from roc.relations.files import read_relation_file

RELATIONS = Path(__file__).resolve().parents[2] / "relations"
STANDARD_TYPES = {"person", "organization", "location", "miscellaneous"}
COUNTS = {"mnre": 23, "more": 21}
TYPE_WORDS = {"per": "person", "org": "organization", "loc": "location", "misc": "miscellaneous"}

# Both entities have the same type, so that only the words "head" and "tail" can tell which one plays which part.
# MORE is not listed: its head is the entity in the text, whichever part it plays, so its labels have no direction.
DIRECTED_WITHIN_ONE_TYPE = {
    "mnre": [
        "/per/per/parent",
        "/per/per/charges",
        "/org/org/subsidiary",
        "/loc/loc/contain",
        "/misc/misc/part_of",
    ],
}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((RELATIONS / f"{name}.yaml").read_text(encoding="utf-8"))


def mnre_labels(folder: Path, split: str) -> set[str]:
    lines = (folder / "mnre" / f"{split}.txt").read_text(encoding="utf-8").splitlines()
    return {ast.literal_eval(line)["relation"] for line in lines}


@pytest.fixture(params=sorted(COUNTS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def relations(name: str) -> list[dict[str, Any]]:
    return load(name)["relations"]


def test_the_mnre_file_holds_exactly_the_labels_of_the_data(roc_data: Path):
    described = {relation["name"] for relation in load("mnre")["relations"]}
    assert described == mnre_labels(roc_data, "train")
    assert described >= mnre_labels(roc_data, "val")


def test_each_label_is_listed_once_and_none_is_missing(name: str, relations: list[dict[str, Any]]):
    names = [relation["name"] for relation in relations]
    assert len(names) == len(set(names)) == COUNTS[name]


def test_the_file_says_which_relation_means_none(name: str, relations: list[dict[str, Any]]):
    file = load(name)
    assert file["version"] == 1
    assert file["language"] == "en"
    # An unquoted None or null in YAML would be no string and match no label.
    assert file["none_relation"] in {"None", "none"}
    assert [relation["name"] for relation in relations].count(file["none_relation"]) == 1


def test_each_relation_has_three_distinct_descriptions_and_shares_none(relations: list[dict[str, Any]]):
    every = [description for relation in relations for description in relation["descriptions"]]
    assert all(len(relation["descriptions"]) >= 3 for relation in relations)
    assert len(every) == len({description.casefold() for description in every})


def test_descriptions_are_sentences_of_ten_to_thirty_words(relations: list[dict[str, Any]]):
    for relation in relations:
        for description in relation["descriptions"]:
            assert 10 <= len(description.split()) <= 30, (relation["name"], description)
            assert re.fullmatch(r"[A-Z].*[a-z]\.", description), (relation["name"], description)


def test_each_relation_says_in_one_description_which_entity_is_the_head(relations: list[dict[str, Any]]):
    for relation in relations:
        first = relation["descriptions"][0]
        assert "head entity" in first or "tail entity" in first or len(set(relation.get("head_types", []))) > 1, first


@pytest.mark.parametrize(
    ("name", "label"), [(name, label) for name, labels in DIRECTED_WITHIN_ONE_TYPE.items() for label in labels]
)
def test_where_types_do_not_tell_the_direction_every_description_does(name: str, label: str):
    relation = next(relation for relation in load(name)["relations"] if relation["name"] == label)
    assert relation["head_types"] == relation["tail_types"]
    for description in relation["descriptions"]:
        assert "head entity" in description, description
        assert "tail entity" in description, description


def test_types_are_standard_words_and_those_of_the_label(name: str, relations: list[dict[str, Any]]):
    none_relation = load(name)["none_relation"]
    for relation in relations:
        head, tail = relation.get("head_types", []), relation.get("tail_types", [])
        if relation["name"] == none_relation:
            assert (head, tail) == ([], [])
            continue
        first, second, _ = (TYPE_WORDS.get(part, part) for part in relation["name"].strip("/").split("/"))
        expected = ([first], [second]) if name == "mnre" else (sorted_types(first, second),) * 2
        assert (head, tail) == expected
        assert set(head + tail) <= STANDARD_TYPES


def sorted_types(first: str, second: str) -> list[str]:
    """MORE's two types in the label's order, once each: either entity may be of either type."""
    return list(dict.fromkeys([first, second]))


def test_the_package_loads_the_file_as_it_stands(name: str, relations: list[dict[str, Any]]):
    loaded = read_relation_file(RELATIONS / f"{name}.yaml")
    assert loaded.none_relation == load(name)["none_relation"]
    assert [relation["name"] for relation in loaded.relations] == [relation["name"] for relation in relations]
    for given, read in zip(relations, loaded.relations, strict=True):
        assert list(read["descriptions"]) == given["descriptions"]
        assert list(read["head_types"] or []) == given.get("head_types", [])
        assert list(read["tail_types"] or []) == given.get("tail_types", [])
