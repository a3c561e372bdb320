"""From scores to a decision: entity types, calibrated probabilities, and pairs that get no relation."""

from __future__ import annotations

from pathlib import Path

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


def test_the_processor_numbers_types_and_leaves_out_what_relations_cannot_ask_for(processor: RocProcessor) -> None:
    entities = [[ANN, BOB, PARIS, (4, 7, "verb")], [(0, 3)]]
    batch = processor([TEXT, "eve met bob"], entities=entities, pairs=[[(0, 1)], []])
    assert batch["entity_type_index"].tolist() == [[0, 0, 2, -1], [-1, -1, -1, -1]]


def test_the_order_of_types_is_saved_with_the_processor(processor: RocProcessor, tmp_path: Path) -> None:
    own = tiny_processor(vision=False, entity_types=["location", "person"])
    own.save_pretrained(tmp_path)
    batch = RocProcessor.from_pretrained(tmp_path)(TEXT, entities=[ANN, PARIS], pairs=[(0, 1)])
    assert batch["entity_type_index"].tolist() == [[1, 0]]


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
    entities = batch["entity_type_index"]
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
