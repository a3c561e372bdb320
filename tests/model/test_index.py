"""Search in large inventories: as the model itself ranks, whatever the order of the relations."""

from __future__ import annotations

import importlib.util
import random
import sys
from typing import Any

import pytest
import torch
from tiny import RELATIONS, WORDS, tiny_model
from torch import Tensor
from torch.nn import functional

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations_index_roc import RelationIndex

POOLINGS = pytest.mark.parametrize("pooling", ["mean", "max"])
HAS_USEARCH = importlib.util.find_spec("usearch") is not None
APPROXIMATE = pytest.param(False, id="approximate", marks=pytest.mark.skipif(not HAS_USEARCH, reason="needs usearch"))
KINDS = pytest.mark.parametrize("exact", [pytest.param(True, id="exact"), APPROXIMATE])


def inventory(count: int, *, most: int = 3) -> list[dict[str, Any]]:
    """So many relations with one to `most` descriptions each, in no order of their names."""
    generator = random.Random(0)
    names = [f"relation {number:05}" for number in range(count)]
    generator.shuffle(names)
    return [
        {"name": name, "descriptions": [f"{name}, wording {n}" for n in range(generator.randint(1, most))]}
        for name in names
    ]


def vectors(count: int, *, seed: int, dim: int = 16) -> Tensor:
    """`(count, dim)`, L2-normalised."""
    return functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def embeds_of(relations: list[dict[str, Any]]) -> Tensor:
    """One vector per description."""
    return vectors(sum(len(relation["descriptions"]) for relation in relations), seed=1)


def permuted(relations: list[dict[str, Any]], embeds: Tensor) -> tuple[list[dict[str, Any]], Tensor]:
    """The same inventory in another order."""
    parts = embeds.split([len(relation["descriptions"]) for relation in relations])
    rows = {relation["name"]: part for relation, part in zip(relations, parts)}
    other = sorted(relations, key=lambda relation: relation["name"][::-1])
    assert other != relations
    return other, torch.cat([rows[relation["name"]] for relation in other])


@KINDS
@POOLINGS
def test_a_search_ranks_as_the_model_does(pooling: str, exact: bool, processor: RocProcessor) -> None:
    generator = random.Random(0)
    relations = [
        {"name": str(number), "descriptions": [" ".join(generator.choices(WORDS, k=6)) for _ in range(1 + number % 3)]}
        for number in range(60)
    ]
    model = tiny_model(processor, vision=False, relations=relations, none_relation=None, description_pooling=pooling)
    entities = [[(0, 3), (11, 14)], [(0, 3), (8, 11), (15, 20)]]  # one text has more pairs than the other
    batch = processor(["ann kissed bob", "eve met ann in paris"], entities=entities)
    with torch.no_grad():
        output = model(**batch)
    is_real = batch["pair_mask"].bool()
    matches = model.index_relations(exact=exact).search(output.pair_embeds[is_real], top_k=5)
    ranked = model.rank_relations(output, batch["pair_mask"], top_k=5)
    assert matches.names == [[found["relation"] for found in row] for row in ranked]
    assert matches.descriptions == [[found["description"] for found in row] for row in ranked]
    cosines = (output.logits[is_real] * model.temperature).topk(5).values
    torch.testing.assert_close(matches.scores, cosines, rtol=1e-4, atol=1e-5)


@KINDS
@POOLINGS
def test_the_order_of_relations_changes_nothing(pooling: Any, exact: bool) -> None:
    relations = inventory(300)
    embeds, pairs = embeds_of(relations), vectors(40, seed=2)
    first = RelationIndex(relations, embeds, pooling=pooling, exact=exact).search(pairs)
    second = RelationIndex(*permuted(relations, embeds), pooling=pooling, exact=exact).search(pairs)
    assert torch.equal(first.scores, second.scores)
    assert first.names == second.names
    assert first.descriptions == second.descriptions


@KINDS
@POOLINGS
def test_equal_scores_come_in_the_order_of_the_names(pooling: Any, exact: bool) -> None:
    relations = [{"name": name, "descriptions": [f"what {name} means"]} for name in "dbeac"]
    embeds = torch.eye(4)[[0, 0, 1, 0, 2]]
    matches = RelationIndex(relations, embeds, pooling=pooling, exact=exact).search(torch.eye(4)[:2], top_k=4)
    assert matches.names[0][:3] == ["a", "b", "d"]
    assert matches.names[1][0] == "e"
    assert matches.scores.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


@POOLINGS
def test_the_approximate_index_finds_nearly_all_and_scores_exactly(pooling: Any) -> None:
    pytest.importorskip("usearch")
    relations = inventory(3_000)
    embeds, pairs = embeds_of(relations), vectors(100, seed=2)
    exact = RelationIndex(relations, embeds, pooling=pooling, exact=True).search(pairs)
    likely = RelationIndex(relations, embeds, pooling=pooling, exact=False).search(pairs)
    found = [len(set(a) & set(b)) / 10 for a, b in zip(exact.names, likely.names)]
    assert sum(found) / len(found) > 0.95
    scores = [dict(zip(names, row)) for names, row in zip(exact.names, exact.scores.tolist())]
    for own, names, row in zip(scores, likely.names, likely.scores.tolist()):
        assert {name: score for name, score in zip(names, row) if name in own} == {
            name: score for name, score in own.items() if name in names
        }
        assert row == sorted(row, reverse=True)


@KINDS
def test_a_relation_appears_once_however_many_of_its_descriptions_are_near(exact: bool) -> None:
    """A hundred wordings of one relation lie nearer to the pair than any other relation."""
    crowd = functional.normalize(torch.eye(16)[0] + 0.01 * vectors(100, seed=1), dim=-1)
    relations = [{"name": "crowd", "descriptions": [str(n) for n in range(100)]}, *inventory(200, most=1)]
    index = RelationIndex(relations, torch.cat([crowd, vectors(200, seed=2)]), pooling="max", exact=exact)
    matches = index.search(torch.eye(16)[:1], top_k=10)
    assert matches.names[0][0] == "crowd"
    assert matches.descriptions[0][0] == str(int(crowd[:, 0].argmax()))
    assert len(set(matches.names[0])) == 10


@KINDS
def test_many_pairs_are_searched_as_each_alone(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roc.relations_index_roc.PAIRS_PER_BATCH", 4)
    relations = inventory(100)
    index, pairs = RelationIndex(relations, embeds_of(relations), exact=exact), vectors(10, seed=2)
    together = index.search(pairs, top_k=3)
    alone = [index.search(pair[None], top_k=3) for pair in pairs]
    assert together.names == [matches.names[0] for matches in alone]
    torch.testing.assert_close(together.scores, torch.cat([matches.scores for matches in alone]))


@KINDS
def test_no_more_relations_are_found_than_there_are(exact: bool) -> None:
    relations = inventory(5)
    matches = RelationIndex(relations, embeds_of(relations), exact=exact).search(vectors(3, seed=2), top_k=10)
    assert matches.scores.shape == (3, 5)
    assert all(sorted(row) == sorted(relation["name"] for relation in relations) for row in matches.names)


@KINDS
def test_no_pairs_give_no_matches(exact: bool) -> None:
    relations = inventory(5)
    matches = RelationIndex(relations, embeds_of(relations), exact=exact).search(torch.empty(0, 16), top_k=2)
    assert (matches.scores.shape, matches.names, matches.descriptions) == ((0, 2), [], [])


def test_an_index_stays_as_it_was_when_the_model_is_edited(processor: RocProcessor) -> None:
    model = tiny_model(processor, vision=False)
    index, pairs = model.index_relations(), vectors(2, seed=2)
    before = index.search(pairs)
    model.set_relations([{"name": "visits", "descriptions": ["the head visits the tail"]}], processor)
    with torch.no_grad():
        model.relation_projection.weight.zero_()
    after = index.search(pairs)
    assert torch.equal(before.scores, after.scores)
    assert before.names == after.names
    assert len(index) == len(RELATIONS)


@POOLINGS
def test_few_vectors_are_compared_one_by_one_and_many_are_looked_up(
    pooling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    relations = inventory(50)
    embeds = embeds_of(relations)
    number = 50 if pooling == "mean" else len(embeds)
    monkeypatch.setattr("roc.relations_index_roc.MOST_EXACT", number)
    assert RelationIndex(relations, embeds, pooling=pooling).exact
    monkeypatch.setattr("roc.relations_index_roc.MOST_EXACT", number - 1)
    assert not RelationIndex(relations, embeds, pooling=pooling).exact


def test_without_the_library_an_approximate_index_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    relations = inventory(5)
    RelationIndex(relations, embeds_of(relations))
    with pytest.raises(ImportError, match=r"pip install 'roc\[index\]'"):
        RelationIndex(relations, embeds_of(relations), exact=False)


@pytest.mark.parametrize(
    ("shape", "top_k", "message"),
    [
        ((2, 3, 16), 5, r"has the shape \(2, 3, 16\); this index takes \(num_pairs, 16\)"),
        ((3, 15), 5, r"has the shape \(3, 15\)"),
        ((16,), 5, r"has the shape \(16,\)"),
        ((3, 16), 0, "top_k=0 is out of range"),
    ],
)
def test_a_search_that_cannot_be_is_refused(shape: tuple[int, ...], top_k: int, message: str) -> None:
    relations = inventory(5)
    with pytest.raises(ValueError, match=message):
        RelationIndex(relations, embeds_of(relations)).search(torch.ones(shape), top_k)


def test_relations_and_vectors_must_fit() -> None:
    relations = inventory(5)
    with pytest.raises(ValueError, match="cannot be indexed with 3 vectors"):
        RelationIndex(relations, torch.ones(3, 16))
    with pytest.raises(ValueError, match="0 relations"):
        RelationIndex([], torch.ones(0, 16))


def test_a_model_without_encoded_descriptions_or_with_a_classifier_has_no_index(processor: RocProcessor) -> None:
    model = tiny_model(processor, vision=False)
    with pytest.raises(ValueError, match="no encoded descriptions yet"):
        RocModel(model.config).index_relations()
    with pytest.raises(ValueError, match="index_relations needs head='retrieval'"):
        tiny_model(processor, vision=False, head="classification").index_relations()
