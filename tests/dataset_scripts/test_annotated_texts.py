"""Rows of texts whose entities are all annotated: relations, and pairs that nobody related."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from roc.dataset_scripts.building.annotated_texts import AnnotatedText, pair_rows
from roc.dataset_scripts.schema import Row, check_row

TEXT = "Ann met Bob and Cem in Rome"
ANN, BOB, CEM, ROME = (0, 3), (8, 11), (16, 19), (23, 27)


def rows_of(
    *relations: tuple[int, int, str], spans: tuple[tuple[int, int], ...] = (ANN, BOB, CEM, ROME)
) -> tuple[list[Row], Counter[str]]:
    counts: Counter[str] = Counter()
    text = AnnotatedText("train-1", TEXT, spans, relations, "train.json:1")
    rows = [raw.row for raw in pair_rows(text, counts)]
    for row in rows:
        check_row(row, "here")
    return rows, +counts


def triples(rows: list[Row]) -> list[tuple[str, str, str]]:
    return [(row["head"]["name"], row["relation"], row["tail"]["name"]) for row in rows]


def test_each_relation_is_a_row_and_each_unrelated_pair_one_of_none() -> None:
    rows, counts = rows_of((1, 0, "knows"), (0, 1, "meets"), (0, 1, "knows"), (3, 2, "hosts"))
    related = [triple for triple in triples(rows) if triple[1] != "none"]
    assert related == [
        ("Ann", "knows", "Bob"),
        ("Ann", "meets", "Bob"),
        ("Bob", "knows", "Ann"),
        ("Rome", "hosts", "Cem"),
    ]
    unrelated = {frozenset((head, tail)) for head, relation, tail in triples(rows) if relation == "none"}
    everyone = {frozenset(pair) for pair in combinations(("Ann", "Bob", "Cem", "Rome"), 2)}
    assert unrelated == everyone - {frozenset(("Ann", "Bob")), frozenset(("Cem", "Rome"))}
    assert len(rows) == 4 + 4
    assert len({row["id"] for row in rows}) == 8
    assert not counts


def test_the_order_of_rows_is_that_of_their_entities_whatever_the_source_lists_first() -> None:
    relations = [(0, 1, "a"), (2, 3, "b"), (1, 3, "c")]
    rows, _ = rows_of(*relations)
    assert rows_of(*reversed(relations))[0] == rows
    turned = [(3 - head, 3 - tail, name) for head, tail, name in relations]
    assert rows_of(*turned, spans=(ROME, CEM, BOB, ANN))[0] == rows
    pairs = [tuple(sorted((row["head"]["start"], row["tail"]["start"]))) for row in rows]
    assert pairs == sorted(pairs)


def test_which_of_an_unrelated_pair_is_the_head_is_drawn() -> None:
    text = " ".join("abcdefghijklmnopqrst")
    spans = [(2 * number, 2 * number + 1) for number in range(20)]
    rows = [raw.row for raw in pair_rows(AnnotatedText("x", text, spans, [], "here"), Counter())]
    share = sum(row["head"]["start"] < row["tail"]["start"] for row in rows) / len(rows)
    assert len(rows) == 190
    assert 0.4 < share < 0.6


def test_what_is_left_out_is_counted() -> None:
    spans = (ANN, BOB, ANN)
    rows, counts = rows_of((0, 1, "a"), (2, 1, "a"), (0, 2, "b"), spans=spans)
    assert triples(rows) == [("Ann", "a", "Bob")]
    assert counts == {"repeated_entities": 1, "repeated_relations": 1, "relations_to_itself": 1}


def test_a_pair_that_another_copy_of_its_text_relates_is_not_unrelated() -> None:
    counts: Counter[str] = Counter()
    text = AnnotatedText("train-1", TEXT, (BOB, ANN, CEM), [], "train.json:1")
    related = {(TEXT, ANN, BOB), ("Ann", ANN, CEM)}
    rows = [raw.row for raw in pair_rows(text, counts, related)]
    assert [{row["head"]["name"], row["tail"]["name"]} for row in rows] == [{"Ann", "Cem"}, {"Bob", "Cem"}]
    assert +counts == {"contradicted_pairs": 1}


def test_overlapping_entities_are_two() -> None:
    rows, _ = rows_of(spans=((0, 11), (8, 11)))
    assert {row["head"]["name"] for row in rows} | {row["tail"]["name"] for row in rows} == {"Ann met Bob", "Bob"}


def test_a_relation_without_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"train\.json:1: a relation's name must be a string, got 7"):
        rows_of((0, 1, 7))  # type: ignore[arg-type]
