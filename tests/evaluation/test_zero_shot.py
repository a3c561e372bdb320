"""The zero-shot protocol: which relations are held out, from training and for scoring."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import datasets
import pytest

from roc.evaluation.zero_shot import read_splits, restrict_inventory, restrict_rows, unseen_relations
from roc.relations.files import RelationInventory
from roc.samples.splitting import split_rows

NAMES = ["None", "b", "a", "d", "c"]
INVENTORY = RelationInventory([{"name": name, "descriptions": [f"about {name}"]} for name in NAMES], "None")


def rows(relations: list[str], texts: list[str] | None = None) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"relation": relations, "text": texts or relations})


@pytest.mark.parametrize("seed", range(5))
def test_unseen_relations_are_drawn_from_the_sorted_names_without_none(seed: int) -> None:
    drawn = unseen_relations(INVENTORY, num_unseen=2, seed=seed)
    assert drawn == random.Random(seed).sample(["a", "b", "c", "d"], 2)
    turned = RelationInventory(INVENTORY.relations[::-1], "None")
    assert unseen_relations(turned, num_unseen=2, seed=seed) == drawn


def test_no_relation_is_held_out_unless_asked_for() -> None:
    assert unseen_relations(INVENTORY) == []


def test_named_relations_are_held_out() -> None:
    assert unseen_relations(INVENTORY, held_out_relations=["d", "a"]) == ["d", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out_relations": ["a"], "num_unseen": 1}, "exclude each other"),
        ({"num_unseen": 5}, "out of range: the inventory has 4 relations"),
        ({"num_unseen": -1}, "out of range"),
        ({"num_unseen": 4}, "fewer than two relations are left"),
        ({"held_out_relations": ["None"]}, "'None' is not among"),
        ({"held_out_relations": ["e"]}, "'e' is not among"),
        ({"held_out_relations": ["a", "a"]}, "twice"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unseen_relations(INVENTORY, **options)


def test_an_inventory_keeps_the_order_of_what_is_left() -> None:
    left = restrict_inventory(INVENTORY, {"c", "b", "None"})
    assert (left.names, left.none_relation) == (["None", "b", "c"], "None")
    assert restrict_inventory(INVENTORY, {"a", "c"}).none_relation is None


def test_rows_of_other_relations_are_left_out() -> None:
    assert restrict_rows(rows(["a", "b", "a"]), ["a"], where="here")["relation"][:] == ["a", "a"]
    with pytest.raises(ValueError, match=r"here: no row has one of the relations \['c'\]"):
        restrict_rows(rows(["a"]), ["c"], where="here")


def test_rows_of_one_text_stay_together_whatever_else_there_is() -> None:
    texts = [f"text {number % 400}" for number in range(800)]
    made = rows([str(number) for number in range(800)], texts)
    larger, smaller = split_rows(made, 0.2)
    assert not set(larger["text"][:]) & set(smaller["text"][:])
    assert sorted([*larger["relation"][:], *smaller["relation"][:]]) == sorted(made["relation"][:])
    assert len(smaller) == pytest.approx(160, abs=40)
    fewer = made.select(range(300))
    assert set(split_rows(fewer, 0.2)[1]["relation"][:]) == set(smaller["relation"][:]) & set(fewer["relation"][:])


def test_too_few_rows_to_part_are_refused() -> None:
    with pytest.raises(ValueError, match="1 rows are too few"):
        split_rows(rows(["a"]), 0.5)


PARTS = {"train": ["a", "b"], "eval": ["c", "d"], "test": ["e", "f"]}


def test_splits_are_read_with_the_fewest_unseen_relations_first(tmp_path: Path) -> None:
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"3_x": PARTS | {"test": ["e", "f", "g"]}, "2_x": PARTS}), encoding="utf-8")
    assert [(own.name, own.train, own.eval, own.test) for own in read_splits(str(file))] == [
        ("2_x", ["a", "b"], ["c", "d"], ["e", "f"]),
        ("3_x", ["a", "b"], ["c", "d"], ["e", "f", "g"]),
    ]
    assert [own.name for own in read_splits(str(file), [3])] == ["3_x"]
    with pytest.raises(ValueError, match=r"--unseen \[4\]: no split has so many .* has splits with \[2, 3\]"):
        read_splits(str(file), [2, 4])
    with pytest.raises(FileNotFoundError):
        read_splits(str(tmp_path / "nothing.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "splits are a mapping of names"),
        ({}, "splits are a mapping of names"),
        ({"x": ["a"]}, "split 'x' is a mapping with the keys"),
        ({"x": {"train": ["a", "b"], "test": ["c", "d"]}}, "split 'x' is a mapping with the keys"),
        ({"x": PARTS | {"test": "e"}}, "'test' is a list of at least two relations; given 'e'"),
        ({"x": PARTS | {"eval": ["c"]}}, "'eval' is a list of at least two relations"),
        ({"x": PARTS | {"train": ["a", 1]}}, "'train' is a list of at least two relations"),
        ({"x": PARTS | {"eval": ["c", "e"]}}, r"\['e'\] are listed twice. A relation belongs to one part"),
        ({"../x": PARTS}, "its name becomes a folder's"),
    ],
)
def test_malformed_splits_are_refused_and_named(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=f"splits.json: .*{message}"):
        read_splits(str(file))
