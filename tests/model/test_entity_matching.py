"""Head and tail are matched with what a relation says that they are: closed forms, the bank, and training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import RELATIONS, scores, tiny_model, tiny_processor
from tiny_samples import training_run
from torch.nn import functional
from transformers import BertConfig

from roc.configuration_roc import RocConfig
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations_bank_roc import description_digests, texts_of_rows, weigh_parts

ENTITIES = {"head": "a person", "tail": "the location of berlin"}
BORN = {**RELATIONS[2], **ENTITIES}
SAID: list[dict[str, Any]] = [RELATIONS[0], {**RELATIONS[1], "head": "ann", "tail": "bob"}, BORN, RELATIONS[3]]
VISITS = {"name": "visits", "descriptions": ["the head visits the tail"], "tail": "paris"}


def matching_model(processor: RocProcessor, **settings: Any) -> RocModel:
    """A tiny model without pictures whose relations say what head and tail are."""
    given = {"entity_weight": 1.0, "relations": SAID} | settings
    return tiny_model(processor, vision=False, alignment="residual", **given)


@pytest.fixture
def model(processor: RocProcessor) -> RocModel:
    return matching_model(processor)


# --- what is compared --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0, 40.0])
def test_the_cosine_of_weighed_parts_is_the_weighted_mean_of_the_parts_cosines(weight: float) -> None:
    torch.manual_seed(0)
    pairs, relations = 5 * torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    joined = weigh_parts(pairs, weight), weigh_parts(relations, weight)
    whole, head, tail = functional.cosine_similarity(pairs, relations, dim=-1).unbind(-1)
    torch.testing.assert_close((joined[0] * joined[1]).sum(-1), (whole + weight * (head + tail) / 2) / (1 + weight))
    torch.testing.assert_close(joined[0].norm(dim=-1), torch.ones(4))


def test_a_score_is_the_weighted_mean_of_the_whole_and_the_entities(processor: RocProcessor) -> None:
    whole, even, heavy = (scores(matching_model(processor, entity_weight=w), processor) for w in (0.0, 1.0, 3.0))
    for name in (relation["name"] for relation in SAID if len(relation["descriptions"]) == 1):
        entities = 2 * even[name] - whole[name]
        assert abs(entities - whole[name]) > 0.1, "the entities would say nothing"
        assert heavy[name] == pytest.approx((whole[name] + 3 * entities) / 4, abs=1e-4)


def test_without_a_weight_head_and_tail_change_nothing(processor: RocProcessor) -> None:
    said, unsaid = (matching_model(processor, entity_weight=0.0, relations=own) for own in (SAID, RELATIONS))
    assert scores(said, processor) == scores(unsaid, processor)
    assert said.relation_bank.features.shape == (5, 32)
    assert matching_model(processor).relation_bank.features.shape == (5, 3 * 32)


def test_the_head_of_a_pair_is_matched_with_the_head_and_its_tail_with_the_tail(
    model: RocModel, processor: RocProcessor
) -> None:
    """At its start, a pair's whole is the same in both directions; its entities are not."""
    exchanged = {**BORN, "name": "exchanged", "head": BORN["tail"], "tail": BORN["head"]}
    model.set_relations([BORN, exchanged], processor)
    batch = processor("ann was born in berlin", entities=[(0, 3), (16, 22)], pairs=[(0, 1), (1, 0)])
    logits = model(**batch).logits[0]
    torch.testing.assert_close(logits, logits.T, rtol=1e-4, atol=1e-4)
    assert (logits[0, 0] - logits[0, 1]).abs() > 1e-2


def test_a_relation_that_does_not_say_it_is_compared_by_its_description(processor: RocProcessor) -> None:
    text = RELATIONS[2]["descriptions"][0]
    assert texts_of_rows([RELATIONS[1]], match_entities=True) == [(own,) * 3 for own in RELATIONS[1]["descriptions"]]
    assert texts_of_rows([BORN], match_entities=True) == [(text, "a person", "the location of berlin")]
    assert texts_of_rows([{**RELATIONS[2], "tail": "paris"}], match_entities=True) == [(text, text, "paris")]
    assert texts_of_rows([BORN], match_entities=False) == [(text,)]
    unsaid = matching_model(processor, relations=RELATIONS)
    said = matching_model(processor, relations=[*RELATIONS[:2], {**RELATIONS[2], "head": text, "tail": text}, VISITS])
    assert scores(unsaid, processor)[BORN["name"]] == pytest.approx(scores(said, processor)[BORN["name"]], abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"head": "classification"}], ids=str)
def test_a_weight_needs_the_encoders_own_space(settings: dict[str, Any]) -> None:
    sizes = BertConfig(hidden_size=32, num_attention_heads=2)
    with pytest.raises(ValueError, match=r"entity_weight=0\.5 .* set alignment to 'residual'"):
        RocConfig(text_config=sizes, fusion_num_heads=2, relations=RELATIONS, entity_weight=0.5, **settings)


# --- the bank ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["head", "tail"])
@pytest.mark.parametrize("given", ["eve", None], ids=["reworded", "left out"])
def test_an_edited_head_or_tail_is_refused_until_the_relations_are_set(
    key: str, given: str | None, model: RocModel, processor: RocProcessor
) -> None:
    edited = model.config.relations[2]
    before = description_digests([edited]).tolist()
    del edited[key]
    if given:
        edited[key] = given
    assert description_digests([edited]).tolist() != before
    with pytest.raises(ValueError, match=rf"relation '{BORN['name']}' is the first that differs"):
        scores(model, processor)
    model.set_relations(model.config.relations, processor, none_relation="None")
    fresh = matching_model(processor, relations=[*SAID[:2], edited, SAID[3]])
    assert scores(model, processor) == pytest.approx(scores(fresh, processor), abs=1e-5)


def test_only_what_is_new_of_a_relation_is_encoded(
    model: RocModel, processor: RocProcessor, encoded: list[int]
) -> None:
    encoded.clear()
    model.update_relations([{**BORN, "head": "eve"}], processor)
    model.add_relations([VISITS], processor)
    assert encoded == [1, 2], "a head; a description, which also says what the head is, and a tail"
    model.remove_relations([RELATIONS[1]["name"]])
    model.with_relations([VISITS, BORN], processor)
    assert encoded == [1, 2, 1], "`a person` was forgotten"


def test_edited_step_by_step_saved_and_loaded_it_is_the_model_with_the_result(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    expected = scores(matching_model(processor, relations=[SAID[0], *SAID[2:], VISITS]), processor)
    seconds = model.with_relations([SAID[0], *SAID[2:], VISITS], processor)
    assert scores(seconds, processor) == pytest.approx(expected, abs=1e-5)
    model.add_relations([VISITS], processor)
    model.remove_relations([RELATIONS[1]["name"]])
    model.save_pretrained(tmp_path / "model")
    loaded = RocModel.from_pretrained(tmp_path / "model")
    assert loaded.config.relations[1]["head"] == ENTITIES["head"]
    assert scores(loaded, processor) == pytest.approx(expected, abs=1e-5)


def test_saved_relations_are_taken_without_encoding_and_by_a_model_of_their_kind_alone(
    model: RocModel, processor: RocProcessor, tmp_path: Path, encoded: list[int]
) -> None:
    model.save_relations(tmp_path / "relations.safetensors")
    other = matching_model(processor, relations=[VISITS], none_relation=None)
    encoded.clear()
    other.load_relations(tmp_path / "relations.safetensors", processor)
    assert not encoded
    assert scores(other, processor) == pytest.approx(scores(model, processor), abs=1e-5)
    assert other.config.relations == model.config.relations
    without = matching_model(processor, entity_weight=0.0)
    with pytest.raises(ValueError, match="96"):
        without.load_relations(tmp_path / "relations.safetensors", processor)


# --- training ----------------------------------------------------------------------------------------------------


def test_a_shared_encoder_learns_from_what_head_and_tail_are(processor: RocProcessor) -> None:
    model = matching_model(processor, relation_config=None)
    columns = zip(*texts_of_rows(model.config.relations, match_entities=True))
    tokens = processor.tokenize_descriptions([text for column in columns for text in column])
    anew = model.get_relation_features(tokens["input_ids"], tokens["attention_mask"])
    torch.testing.assert_close(anew, model.get_relation_features(), rtol=1e-4, atol=1e-5)
    batch = processor("ann met bob", entities=[(0, 3), (8, 11)], pairs=[(0, 1)])
    given = {f"relation_{key}": tokens[key] for key in ("input_ids", "attention_mask")}
    model(**batch, **given, labels=torch.tensor([[1]])).loss.backward()
    gradient = model.text_model.get_input_embeddings().weight.grad
    for word in ("person", "location"):  # of the head and the tail of `BORN` alone
        assert gradient[processor.tokenizer.convert_tokens_to_ids(word)].any()
    with pytest.raises(ValueError, match="5 texts, but the relations have 5 descriptions, of 3 texts each"):
        model.get_relation_features(tokens["input_ids"][:5], tokens["attention_mask"][:5])


@pytest.mark.usefixtures("fresh_state")
def test_a_step_with_a_shared_encoder_reads_all_that_relations_say(encoded: list[int]) -> None:
    processor = tiny_processor()
    model = tiny_model(processor, alignment="residual", entity_weight=1.0, relation_config=None)
    run = training_run(model, processor, share_description_encoder=True)
    before = model.text_model.encoder.layer[0].output.dense.weight.clone()
    encoded.clear()
    for batches in itertools.islice(run.steps(epoch=1), 2):  # the first step of all warms up
        run.learner.step(batches)
    assert encoded == [3 * 5] * 2, "five descriptions, each with a head and a tail"
    assert not torch.equal(before, model.text_model.encoder.layer[0].output.dense.weight)
    assert run.validator.score(model)["n"] > 0
