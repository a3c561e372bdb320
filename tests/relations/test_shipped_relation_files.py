"""Every relation file that ROC ships is read, repeats nothing, and names relations as its data set does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from roc.relations.files import read_relation_file

RELATIONS = Path(__file__).resolve().parents[2] / "relations"
MAX_CHARACTERS = 250
MAX_WORDS = 8  # of what head and tail are


@pytest.mark.parametrize("path", sorted(RELATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_relation_has_two_descriptions_and_shares_none(path: Path) -> None:
    relations = read_relation_file(path).relations
    every = [description for relation in relations for description in relation["descriptions"]]
    assert all(len(relation["descriptions"]) >= 2 for relation in relations)
    assert len(every) == len({description.casefold() for description in every})
    assert max(map(len, every)) <= MAX_CHARACTERS


@pytest.mark.parametrize("path", sorted(RELATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_relation_says_in_a_few_words_what_head_and_tail_are_as_no_other_says_it(path: Path) -> None:
    relations = read_relation_file(path).relations
    both = [(relation["head"], relation["tail"]) for relation in relations]
    assert len(set(both)) == len(both)
    assert all(head != tail for head, tail in both)
    for phrase in (phrase for phrases in both for phrase in phrases):
        assert 2 <= len(phrase.split()) <= MAX_WORDS
        assert phrase[0].islower()
        assert phrase[-1] not in ".,;"


def test_semevals_two_directions_exchange_what_head_and_tail_are() -> None:
    relations = {own["name"]: own for own in read_relation_file(RELATIONS / "semeval.yaml").relations}
    forward = [name for name in relations if name.endswith("(e1,e2)")]
    assert len(forward) == 9
    for name in forward:
        back = relations[name.replace("(e1,e2)", "(e2,e1)")]
        assert (back["tail"], back["head"]) == (relations[name]["head"], relations[name]["tail"])


def test_fewrels_file_starts_with_wikidatas_description_and_holds_exactly_the_labels(roc_data: Path) -> None:
    properties = json.loads((roc_data / "fewrel" / "pid2name.json").read_text(encoding="utf-8"))
    with gzip.open(roc_data / "fewrel80" / "fewrel80.jsonl.gz", "rt", encoding="utf-8") as lines:
        labels = {json.loads(line)["relation"] for line in lines}
    inventory = read_relation_file(RELATIONS / "fewrel.yaml")
    assert set(inventory.names) == labels
    assert inventory.none_relation is None
    for relation in inventory.relations:
        first, *own = relation["descriptions"]
        whole = ": ".join(properties[relation["name"]])
        assert first == whole or (len(whole) > MAX_CHARACTERS and whole.startswith(first))
        assert len(own) == 2


def crossre_labels(folder: Path) -> set[str]:
    lines = [line for path in folder.glob("*-train.json") for line in path.read_text(encoding="utf-8").splitlines()]
    return {relation[4] for line in lines for relation in json.loads(line)["relations"]}


def semeval_labels(folder: Path) -> set[str]:
    return set(json.loads((folder / "rel2id.json").read_text(encoding="utf-8")))


def joint_labels(folder: Path) -> set[str]:
    texts = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    return {relation["type"] for text in texts for relation in text["relations"]}


def webnlg_labels(folder: Path) -> set[str]:
    texts = [text for path in folder.glob("*.json") for text in json.loads(path.read_text(encoding="utf-8"))]
    return {label for text in texts for _, label, _ in text["triple_list"]}


@pytest.mark.parametrize(
    ("name", "folder", "labels_of", "none_relation"),
    [
        ("crossre", "crossre", crossre_labels, "none"),
        ("semeval", "semeval2010_8", semeval_labels, "Other"),
        ("scierc", "scierc", joint_labels, "none"),
        ("conll04", "conll04", joint_labels, "none"),
        ("webnlg", "webnlg", webnlg_labels, "none"),
    ],
)
def test_a_file_holds_exactly_the_labels_of_its_data_set_and_none(
    roc_data: Path, name: str, folder: str, labels_of: Callable[[Path], set[str]], none_relation: str
) -> None:
    inventory = read_relation_file(RELATIONS / f"{name}.yaml")
    assert inventory.none_relation == none_relation
    assert set(inventory.names) == labels_of(roc_data / "text_relations" / folder) | {none_relation}
