"""What a pipeline remembers between calls depends on everything that its answers depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import RELATIONS, louder, tiny_adapted_model, tiny_model, tiny_processor

from roc.pipeline_roc import RocPipeline

VISITS = [
    {"name": "visits", "descriptions": ["the head visits the tail"], "head_types": ["location"]},
    {"name": "None", "descriptions": ["the head met the tail"]},
    {"name": "loves", "descriptions": ["the head loves the tail", "the two are a couple"]},
]
POST = {"text": "ann kissed bob", "head": {"start": 0, "end": 3, "type": "person"}, "tail": {"start": 11, "end": 14}}


def other_model(pipe: Any) -> None:
    pipe.model = louder(tiny_model(pipe.processor, vision=False, seed=5))


def other_temperature(pipe: Any) -> None:
    pipe.model.config.probability_temperature = 3.0


def trained_temperature(pipe: Any) -> None:
    with torch.no_grad():
        pipe.model.logit_scale.add_(0.7)


def other_constraints(pipe: Any) -> None:
    pipe.model.config.type_constraints = "hard"


def other_none_relation(pipe: Any) -> None:
    pipe.model.set_relations(RELATIONS[1:], pipe.processor)


def threshold(pipe: Any) -> None:
    pipe.model.config.none_relation = None
    pipe.model.config.none_threshold = 0.9


def other_dtype(pipe: Any) -> None:
    pipe.model.to(torch.bfloat16)


def other_encoder(pipe: Any) -> None:
    pipe.model.relation_model = tiny_model(pipe.processor, vision=False, seed=7).relation_model


def encoder_that_learnt(pipe: Any) -> None:
    with torch.no_grad():
        for parameter in pipe.model.relation_model.parameters():
            parameter.mul_(1.5)


def encoder_edited_through_data(pipe: Any) -> None:
    pipe.model.relation_model.embeddings.word_embeddings.weight.data.mul_(3)


def adapter_off(pipe: Any) -> None:
    pipe.model.disable_adapters()


def fused_weights(pipe: Any) -> None:
    with torch.no_grad():
        pipe.model.pair_projection.weight.mul_(-1)


def pooling(pipe: Any) -> None:
    pipe.model.config.description_pooling = "max"


CHANGES = [
    other_model,
    other_temperature,
    trained_temperature,
    other_constraints,
    other_none_relation,
    threshold,
    other_dtype,
    other_encoder,
    encoder_that_learnt,
    encoder_edited_through_data,
    adapter_off,
    fused_weights,
    pooling,
]


def found_by(pipe: Any, own: dict[str, Any]) -> list[tuple[str, float]]:
    """All relations with their scores, and those that are above a threshold."""
    found = [*pipe(POST, top_k=3, **own), *pipe(POST, top_k=3, threshold=0.0, **own)]
    return [(entry["relation"], entry["score"]) for entry in found]


def agree(given: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    scores = [score for _, score in expected]
    has_same_names = [name for name, _ in given] == [name for name, _ in expected]
    return has_same_names and [score for _, score in given] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("way", ["with the call", "for all calls"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_counts_in_the_next_call_with_the_same_relations(change: Callable[[Any], None], way: str) -> None:
    processor = tiny_processor(vision=False)
    settings: dict[str, Any] = {"relation_config": None} if change is adapter_off else {}
    model = (tiny_adapted_model if change is adapter_off else tiny_model)(processor, vision=False, **settings)
    given = {"relations": VISITS}
    standing, own = ({}, given) if way == "with the call" else (given, {})
    pipe: Any = RocPipeline(model=model, processor=processor, device="cpu", **standing)
    before = found_by(pipe, own)
    assert agree(found_by(pipe, own), before)
    change(pipe)
    found = found_by(pipe, own)
    assert agree(found, found_by(RocPipeline(model=pipe.model, processor=processor, device="cpu"), given))
    assert not agree(found, before), "the change changes nothing: the test would not see it missing"


def test_relations_for_all_calls_give_way_to_those_of_one_call() -> None:
    processor = tiny_processor(vision=False)
    pipe: Any = RocPipeline(
        model=tiny_model(processor, vision=False), processor=processor, device="cpu",
        relations=VISITS, none_relation="visits",
    )  # fmt: skip
    names = {entry["relation"] for entry in pipe(POST, top_k=9)}
    assert names == {"visits", "None", "loves"}
    assert {entry["relation"] for entry in pipe(POST, top_k=9, relations=RELATIONS[1:])} == {
        relation["name"] for relation in RELATIONS[1:]
    }
    assert {entry["relation"] for entry in pipe(POST, top_k=9)} == names
