"""Relations written on the spot, and a real trained model (slow; needs a run of configs/mnre_open_minilm.yaml).

`pytest -m slow` looks for it in the folder that ROC_MODEL names, or in outputs/mnre_open_minilm.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from roc.inference.posts import load_model, parse_entities, predict
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

RELATIONS = [
    {
        "name": "owns",
        "descriptions": ["owns: the head owns or has bought the tail, such as a house, a car or a company."],
    },
    {
        "name": "opponent",
        "descriptions": ["opponent: the head and the tail compete against each other in a match or an election."],
    },
    {
        "name": "born in",
        "descriptions": ["born in: the head was born in the tail, a town or a country."],
    },
]
SENTENCES = [
    ("Maria just bought a red Tesla and drives it every day", "Maria", "Tesla", "owns"),
    ("Google acquired YouTube in 2006", "Google", "YouTube", "owns"),
    ("My neighbour Tom finally has his own boat , the Sea Breeze", "Tom", "Sea Breeze", "owns"),
    ("Federer lost to Nadal in five sets", "Federer", "Nadal", "opponent"),
    ("Tonight : Arsenal vs Chelsea , who will win ?", "Arsenal", "Chelsea", "opponent"),
    ("Kennedy ran against Nixon in 1960", "Kennedy", "Nixon", "opponent"),
    ("Napoleon was defeated by Wellington at Waterloo", "Napoleon", "Wellington", "opponent"),
    ("Freddie Mercury was born in Zanzibar", "Freddie Mercury", "Zanzibar", "born in"),
    ("Einstein , a native of Ulm , moved to Munich", "Einstein", "Ulm", "born in"),
    ("Happy birthday to Adele , who came into the world in Tottenham", "Adele", "Tottenham", "born in"),
]
UNRELATED = [
    ("Had lunch with Ann near the Eiffel Tower", "Ann", "Eiffel Tower"),
    ("Apple and Paris are both trending today", "Apple", "Paris"),
    ("Bob likes the new song by Adele", "Bob", "Adele"),
    ("Rain in London , sunshine in Rome", "London", "Rome"),
    ("Maria read about NASA on the train", "Maria", "NASA"),
    ("Messi and Beyonce are on the cover", "Messi", "Beyonce"),
]


@pytest.fixture(scope="module")
def released() -> tuple[RocModel, RocProcessor]:
    folder = Path(os.environ.get("ROC_MODEL", "outputs/mnre_open_minilm"))
    if not folder.is_dir():
        pytest.skip(f"no trained model in {folder}: train configs/mnre_open_minilm.yaml, or set ROC_MODEL")
    model, processor = load_model(str(folder))
    model.set_relations(RELATIONS, processor)
    return model, processor


def prediction(released: tuple[RocModel, RocProcessor], text: str, head: str, tail: str) -> dict[str, Any]:
    entities = parse_entities([head, tail], text)
    [only] = predict(*released, text, entities, pairs=[(0, 1)])["predictions"]
    return only


@pytest.mark.slow
def test_relations_written_on_the_spot_rank_sensibly(released: tuple[RocModel, RocProcessor]) -> None:
    ranks = []
    for text, head, tail, relation in SENTENCES:
        ranked = [entry["relation"] for entry in prediction(released, text, head, tail)["relations"]]
        ranks.append(ranked.index(relation) + 1)
    assert sum(rank == 1 for rank in ranks) >= 7, ranks  # by chance 3
    assert ranks.count(3) <= 1, ranks


@pytest.mark.slow
def test_names_that_merely_occur_together_get_no_relation(released: tuple[RocModel, RocProcessor]) -> None:
    """At the threshold that training calibrated on MNRE, for relations that it has not seen."""
    related = [prediction(released, text, head, tail)["relation"] for text, head, tail, _ in SENTENCES]
    unrelated = [prediction(released, *post)["relation"] for post in UNRELATED]
    assert sum(relation is not None for relation in related) >= 6, related
    assert sum(relation is not None for relation in unrelated) <= 1, unrelated
