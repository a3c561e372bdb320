"""From scores to a decision: entity types, calibrated probabilities, and pairs that get no relation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import RELATIONS, tiny_model, tiny_processor
from torch import Tensor
from transformers import BatchFeature

from roc.evaluation.predictions import ABSTAINED, Predictions, score_predictions
from roc.inference.posts import predict
from roc.modeling_decisions_roc import NO_RELATION, decide_relations
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.processing_typing_roc import ENTITY_TYPES, type_id

NAMES = [relation["name"] for relation in RELATIONS]
TEXT, ANN, BOB, PARIS = "ann met bob in paris", (0, 3, "person"), (8, 11, "person"), (15, 20, "location")
# of (ann, bob), (ann, paris) and (paris, ann): who of head and tail has a type that the relation does not take
MISFITS = torch.tensor([[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1]])


@pytest.fixture
def batch(processor: RocProcessor) -> BatchFeature:
    return processor(TEXT, entities=[ANN, BOB, PARIS], pairs=[(0, 1), (0, 2), (2, 0)], labels=[3, 1, 1])


@torch.no_grad()
def logits_with(model: RocModel, batch: BatchFeature, **settings: object) -> Tensor:
    for name, value in settings.items():
        setattr(model.config, name, value)
    return model(**batch).logits[0]


def test_the_processor_tells_types_whatever_words_they_are_given_in(processor: RocProcessor) -> None:
    entities = [[ANN, (8, 11, "PER"), (15, 20, "GPE"), (4, 7, "")], [(0, 3)]]
    batch = processor([TEXT, "eve met bob"], entities=entities, pairs=[[(0, 1)], []])
    person, location = type_id("person"), type_id("location")
    assert batch["entity_type_ids"].tolist() == [[person, person, location, -1], [-1, -1, -1, -1]]
    typed = processor(TEXT, entities=[ANN, BOB, PARIS], pairs=[(0, 1)])
    by_tag = processor(TEXT, entities=[(0, 3, "Person"), (8, 11, "PER"), (15, 20, "LOC")], pairs=[(0, 1)])
    assert typed["input_ids"].equal(by_tag["input_ids"])


def test_a_type_that_relations_cannot_ask_for_is_refused(processor: RocProcessor) -> None:
    message = (
        r"sample 0, entity 0: the entity type 'locaton' is not known. Did you mean 'location'\? Give one of \['per"
    )
    with pytest.raises(ValueError, match=message):
        processor(TEXT, entities=[(15, 20, "locaton"), ANN])


def test_the_types_of_a_processor_are_saved_and_what_a_typer_predicts_beside_them_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typer = SimpleNamespace(find=lambda texts: [[(0, 3, "person"), (15, 20, "location")] for _ in texts])
    monkeypatch.setattr("roc.processing_roc.load_entity_typer", lambda name: typer)
    tiny_processor(vision=False, entity_types=["person", "animal"], entity_typer="fake").save_pretrained(tmp_path)
    loaded = RocProcessor.from_pretrained(tmp_path, entity_typer="fake")
    [found] = loaded.find_entities([TEXT])
    assert [entity["type"] for entity in found] == ["person", ""]
    batch = loaded(TEXT, entities=[*found, (8, 11, "Animal")], pairs=[(0, 1)])
    assert batch["entity_type_ids"].tolist() == [[type_id("person"), -1, type_id("animal")]]


@pytest.mark.parametrize("constraints", ["soft", "hard"])
def test_the_order_of_types_in_processor_and_model_changes_nothing(model: RocModel, constraints: str) -> None:
    ordered, turned = (tiny_processor(vision=False, entity_types=own) for own in (ENTITY_TYPES, ENTITY_TYPES[::-1]))
    given = {"entities": [ANN, BOB, PARIS], "pairs": [(0, 1), (0, 2), (2, 0)]}
    expected = logits_with(model, ordered(TEXT, **given), type_constraints=constraints)
    assert not torch.equal(expected, logits_with(model, ordered(TEXT, **given), type_constraints="off"))
    assert torch.equal(logits_with(model, turned(TEXT, **given), type_constraints=constraints), expected)
    model.config.entity_types = [*ENTITY_TYPES[::-1]]
    assert torch.equal(logits_with(model, ordered(TEXT, **given), type_constraints=constraints), expected)


def test_a_type_that_only_the_processor_knows_is_a_misfit_where_others_are_asked_for(model: RocModel) -> None:
    own = tiny_processor(vision=False, entity_types=["animal", *ENTITY_TYPES])
    batch = own(TEXT, entities=[(0, 3, "animal"), BOB], pairs=[(0, 1)])
    free = logits_with(model, batch)
    soft = logits_with(model, batch, type_constraints="soft", type_penalty=2.5)
    torch.testing.assert_close(soft, free - 2.5 * torch.tensor([[0, 1, 1, 1]]))


def test_soft_constraints_subtract_a_penalty_for_each_misfit(model: RocModel, batch: BatchFeature) -> None:
    free = logits_with(model, batch)
    soft = logits_with(model, batch, type_constraints="soft", type_penalty=2.5)
    torch.testing.assert_close(soft, free - 2.5 * MISFITS)


def test_hard_constraints_put_misfits_last_in_their_order(model: RocModel, batch: BatchFeature) -> None:
    free = logits_with(model, batch)
    hard = logits_with(model, batch, type_constraints="hard")
    assert hard.isfinite().all()
    for own_free, own_hard, misfits in zip(free, hard, MISFITS):
        order = sorted(range(len(NAMES)), key=lambda n: (misfits[n].item(), -own_free[n].item()))
        assert own_hard.argsort(descending=True).tolist() == order


def test_constraints_do_not_change_the_loss(model: RocModel, batch: BatchFeature) -> None:
    loss = model(**batch).loss
    model.config.type_constraints = "hard"  # (ann, bob) has the label of a relation that takes objects only
    torch.testing.assert_close(model(**batch).loss, loss)


def test_entities_without_types_fit_all_relations(model: RocModel, processor: RocProcessor) -> None:
    batch = processor(TEXT, entities=[ANN[:2], BOB[:2]], pairs=[(0, 1)])
    torch.testing.assert_close(logits_with(model, batch, type_constraints="hard"), logits_with(model, batch))
    entities = batch["entity_type_ids"]
    assert (entities == -1).all()


def test_probabilities_are_tempered_and_keep_the_order(model: RocModel, batch: BatchFeature) -> None:
    model.config.probability_temperature = 4.0
    output = model(**batch)
    [ranked, *_] = model.rank_relations(output, batch["pair_mask"], top_k=4)
    expected = (output.logits[0, 0] / 4).softmax(-1).sort(descending=True).values
    assert [entry["score"] for entry in ranked] == pytest.approx(expected.tolist())


def test_below_the_threshold_a_pair_has_no_relation(model: RocModel, processor: RocProcessor) -> None:
    model.remove_relations(["None"])
    batch = processor(TEXT, entities=[ANN, BOB, PARIS])
    with torch.no_grad():
        logits = model(**batch).logits[0]
    cosines = logits.amax(-1) * model.temperature
    decided = decide_relations(logits, model.config, temperature=model.temperature)
    assert decided.equal(logits.argmax(-1))  # no threshold: always a relation
    model.config.none_threshold = cosines.median().item() + 1e-6
    decided = decide_relations(logits, model.config, temperature=model.temperature)
    assert decided.equal(torch.where(cosines < model.config.none_threshold, NO_RELATION, logits.argmax(-1)))
    assert 0 < (decided == NO_RELATION).sum() < len(decided)


@pytest.mark.parametrize("head", ["retrieval", "classification"])
def test_where_none_is_a_relation_the_threshold_is_not_asked(head: str, processor: RocProcessor) -> None:
    model = tiny_model(processor, vision=False, head=head, none_threshold=1.0)
    with torch.no_grad():
        logits = model(**processor(TEXT, entities=[ANN, BOB, PARIS])).logits
    assert decide_relations(logits, model.config, temperature=model.temperature).equal(logits.argmax(-1))


def test_a_prediction_without_relation_is_none_and_still_ranked(model: RocModel, processor: RocProcessor) -> None:
    model.remove_relations(["None"])
    entities = [{"start": 0, "end": 3}, {"start": 8, "end": 11}]
    [sure] = predict(model, processor, TEXT, entities, pairs=[(0, 1)])["predictions"]
    assert sure["relation"] == sure["relations"][0]["relation"]
    model.config.none_threshold = 1.0
    [unsure] = predict(model, processor, TEXT, entities, pairs=[(0, 1)])["predictions"]
    assert unsure["relation"] is None
    assert unsure["relations"] == sure["relations"]


def test_threshold_and_temperature_are_saved(model: RocModel, processor: RocProcessor, tmp_path: Path) -> None:
    model.config.none_threshold, model.config.probability_temperature = 0.4, 1.5
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path).config
    assert (loaded.none_threshold, loaded.probability_temperature) == (0.4, 1.5)


def test_an_abstention_is_scored_as_no_relation() -> None:
    predictions = Predictions(["1", "2"], ["born", "visits"], ["born", ABSTAINED], torch.empty(2, 2))
    scores = score_predictions(predictions, None)
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)
    assert scores["macro_f1"] == 0.5  # of two relations; abstaining is none
