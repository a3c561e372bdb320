"""Editing a model's relations: what changes, what does not, and what is encoded anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import RELATIONS, scores, tiny_model

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

NAMES = [relation["name"] for relation in RELATIONS]
VISITS = {"name": "visits", "descriptions": ["the head visits the tail", "the head is in the tail today"]}
COUPLE = NAMES[1]


def test_added_relations_come_last_and_change_no_other_score(model: RocModel, processor: RocProcessor) -> None:
    before = scores(model, processor)
    model.add_relations([VISITS], processor)
    after = scores(model, processor)
    assert list(after) == [*NAMES, "visits"]
    assert {name: after[name] for name in NAMES} == pytest.approx(before, abs=1e-5)
    assert model.config.none_relation == "None"
    assert model.config.label2id["visits"] == 4


def test_an_updated_relation_keeps_its_place_and_leaves_the_others(model: RocModel, processor: RocProcessor) -> None:
    before = scores(model, processor)
    model.update_relations([{"name": COUPLE, "descriptions": ["berlin and paris met today"]}], processor)
    after = scores(model, processor)
    assert list(after) == NAMES
    assert abs(after.pop(COUPLE) - before.pop(COUPLE)) > 1e-3
    assert after == pytest.approx(before, abs=1e-5)


def test_removed_relations_are_gone_and_the_others_score_as_before(model: RocModel, processor: RocProcessor) -> None:
    before = scores(model, processor)
    model.remove_relations([NAMES[0], NAMES[2]])
    assert scores(model, processor) == pytest.approx({name: before[name] for name in (NAMES[1], NAMES[3])}, abs=1e-5)
    assert model.config.none_relation is None
    assert model.relation_bank.relation_index.tolist() == [0, 0, 1]


def test_a_subset_has_the_order_that_was_asked_for(model: RocModel, processor: RocProcessor) -> None:
    before = scores(model, processor)
    model.subset_relations([NAMES[3], NAMES[0], NAMES[1]])
    after = scores(model, processor)
    assert list(after) == [NAMES[3], NAMES[0], NAMES[1]]
    assert after == pytest.approx({name: before[name] for name in after}, abs=1e-5)
    assert model.config.none_relation == "None"


def test_editing_step_by_step_is_setting_the_result_at_once(model: RocModel, processor: RocProcessor) -> None:
    reworded = {**RELATIONS[1], "descriptions": ["the two are a couple", "ann and bob kissed"]}
    model.add_relations([VISITS], processor)
    model.remove_relations([NAMES[2]])
    model.update_relations([reworded], processor)
    once = tiny_model(processor, vision=False)
    once.set_relations([RELATIONS[0], reworded, RELATIONS[3], VISITS], processor, none_relation="None")
    assert scores(model, processor) == pytest.approx(scores(once, processor), abs=1e-5)
    assert model.config.relations == once.config.relations


def test_an_edited_bank_survives_saving(model: RocModel, processor: RocProcessor, tmp_path: Path) -> None:
    model.add_relations([VISITS], processor)
    model.remove_relations([NAMES[1]])
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path)
    assert scores(loaded, processor) == pytest.approx(scores(model, processor), abs=1e-5)


def test_only_new_descriptions_are_encoded(model: RocModel, processor: RocProcessor, encoded: list[int]) -> None:
    model.update_relations([{**RELATIONS[1], "descriptions": [*RELATIONS[1]["descriptions"], "they met"]}], processor)
    assert encoded == [1]
    model.remove_relations([NAMES[3]])
    model.set_relations(RELATIONS[2::-1], processor, none_relation="None")
    assert encoded == [1]
    model.add_relations([RELATIONS[3]], processor)
    assert encoded == [1, 1]


def test_a_loaded_model_encodes_new_descriptions_only(
    model: RocModel, processor: RocProcessor, encoded: list[int], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path)
    loaded.add_relations([VISITS], processor)
    assert encoded == [2]


def test_one_edit_among_many_relations_encodes_one_description(
    model: RocModel, processor: RocProcessor, encoded: list[int]
) -> None:
    many = [{"name": f"relation {n}", "descriptions": [f"the head met {n}"]} for n in range(20_000)]
    model.set_relations(many, processor)
    assert sum(encoded) == 20_000
    del encoded[:]
    model.update_relations([{"name": "relation 7", "descriptions": ["the head kissed the tail"]}], processor)
    assert encoded == [1]
    model.add_relations([VISITS], processor)
    assert encoded == [1, 2]
    model.remove_relations([f"relation {n}" for n in range(10_000)])
    model.subset_relations([f"relation {n}" for n in range(19_999, 10_000, -1)])
    assert encoded == [1, 2]
    assert model.config.num_relations == len(model.relation_bank.features) == 9_999


def test_a_shared_encoder_may_have_learnt_since_and_encodes_all_anew(
    processor: RocProcessor, encoded: list[int]
) -> None:
    model = tiny_model(processor, vision=False, relation_config=None)
    del encoded[:]
    model.set_relations(RELATIONS, processor, none_relation="None")
    assert encoded == [5]


def test_descriptions_of_a_bank_without_content_are_encoded(model: RocModel, processor: RocProcessor) -> None:
    fresh = RocModel(model.config)
    fresh.set_relations(RELATIONS, processor, none_relation="None")
    assert fresh.relation_bank.features.any(dim=-1).all()


def test_many_descriptions_are_encoded_as_they_are_alone(
    model: RocModel, processor: RocProcessor, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roc.relations_editing_roc.DESCRIPTIONS_PER_BATCH", 2)
    many = [{"name": str(n), "descriptions": ["the head " * (1 + n % 3) + str(n)]} for n in range(5)]
    model.set_relations(many, processor)
    assert encoded == [2, 2, 1]
    for number, relation in enumerate(many):
        alone = model.encode_descriptions(**processor.tokenize_descriptions(relation["descriptions"]))[0]
        torch.testing.assert_close(model.relation_bank.features[number], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda model, processor: model.add_relations([RELATIONS[1]], processor), "Relation names must differ"),
        (
            lambda model, processor: model.add_relations([{"name": "a", "descriptions": [" "]}], processor),
            "no empty one",
        ),
        (
            lambda model, processor: model.add_relations([{"name": "a", "descriptions": "a " * 200}], processor),
            "Shorten",
        ),
        (lambda model, processor: model.update_relations([VISITS], processor), "has no relation 'visits'"),
        (lambda model, processor: model.update_relations([{"name": COUPLE}], processor), "at least one description"),
        (lambda model, processor: model.remove_relations(["/per/per/coupel"]), f"Did you mean '{COUPLE}'"),
        (lambda model, processor: model.remove_relations(NAMES), "No relation would be left"),
        (lambda model, processor: model.subset_relations([]), "No relation would be left"),
        (lambda model, processor: model.subset_relations(["visits"]), "has no relation 'visits'"),
        (lambda model, processor: model.subset_relations([COUPLE, COUPLE]), "Relation names must differ"),
    ],
)
def test_an_edit_that_cannot_be_leaves_the_model_as_it_was(
    edit: Callable[[RocModel, RocProcessor], Any], message: str, model: RocModel, processor: RocProcessor
) -> None:
    bank, relations = copy.deepcopy(model.relation_bank.state_dict()), copy.deepcopy(model.config.relations)
    with pytest.raises(ValueError, match=message):
        edit(model, processor)
    assert all(torch.equal(tensor, bank[name]) for name, tensor in model.relation_bank.state_dict().items())
    assert model.config.relations == relations
    assert model.config.none_relation == "None"


def test_a_classifier_cannot_be_edited(processor: RocProcessor) -> None:
    classifier = tiny_model(processor, vision=False, head="classification")
    with pytest.raises(ValueError, match="subset_relations needs head='retrieval'"):
        classifier.remove_relations([COUPLE])
    with pytest.raises(ValueError, match="set_relations needs head='retrieval'"):
        classifier.add_relations([VISITS], processor)
