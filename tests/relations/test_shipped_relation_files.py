"""Every relation file that ROC ships is read, repeats nothing, and names relations as its data set does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from roc.relations.files import read_relation_file

RELATIONS = Path(__file__).resolve().parents[2] / "relations"
MAX_CHARACTERS = 250


@pytest.mark.parametrize("path", sorted(RELATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_relation_has_two_descriptions_and_shares_none(path: Path) -> None:
    relations = read_relation_file(path).relations
    every = [description for relation in relations for description in relation["descriptions"]]
    assert all(len(relation["descriptions"]) >= 2 for relation in relations)
    assert len(every) == len({description.casefold() for description in every})
    assert max(map(len, every)) <= MAX_CHARACTERS


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
