"""A relation's score is its own: whatever is edited, in files or attributes, none gets another's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import RELATIONS, scores, tiny_model, tiny_processor

from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline
from roc.processing_roc import RocProcessor

COUPLE = RELATIONS[1]["name"]
POST = {"text": "ann kissed bob", "head": {"start": 0, "end": 3}, "tail": {"start": 11, "end": 14}}


def swap_relations(config: dict[str, Any]) -> None:
    config["relations"][1], config["relations"][2] = config["relations"][2], config["relations"][1]


def swap_descriptions(config: dict[str, Any]) -> None:
    first, second = config["relations"][0], config["relations"][2]
    first["descriptions"], second["descriptions"] = second["descriptions"], first["descriptions"]


def reword(config: dict[str, Any]) -> None:
    config["relations"][1]["descriptions"][0] = "the head met the tail"


def swap_names(config: dict[str, Any]) -> None:
    first, second = config["relations"][0], config["relations"][3]
    first["name"], second["name"] = second["name"], first["name"]


def move_description(config: dict[str, Any]) -> None:
    config["relations"][2]["descriptions"].append(config["relations"][1]["descriptions"].pop())


EDITS = [swap_relations, swap_descriptions, reword, swap_names, move_description]


def of_config(model: RocModel, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the configuration of a model as a file would be edited."""
    edit(vars(model.config))


def turn_rows(features: torch.Tensor) -> torch.Tensor:
    return features.flip(0).contiguous()


def assigned_relations(model: RocModel) -> None:
    model.config.relations = copy.deepcopy(RELATIONS[::-1])


def assigned_features(model: RocModel) -> None:
    model.relation_bank.features = turn_rows(model.relation_bank.features)


def features_in_place(model: RocModel) -> None:
    model.relation_bank.features.copy_(turn_rows(model.relation_bank.features))


def other_index(model: RocModel) -> None:
    model.relation_bank.relation_index = turn_rows(model.relation_bank.relation_index)


def loaded_state(model: RocModel) -> None:
    other = tiny_model(tiny_processor(vision=False), vision=False, relations=RELATIONS[::-1])
    model.load_state_dict(other.state_dict())


def loaded_part(model: RocModel) -> None:
    model.load_state_dict({"relation_bank.features": turn_rows(model.relation_bank.features)}, strict=False)


def not_finite(model: RocModel) -> None:
    model.relation_bank.features[2, 0] = torch.nan


def other_labels(model: RocModel) -> None:
    model.config.id2label = dict(enumerate(["d", "c", "b", "a"]))


def other_config(model: RocModel) -> None:
    model.config = copy.deepcopy(model.config)
    model.config.replace_relations(RELATIONS[::-1], "None")


def bank_of_another_encoder(model: RocModel) -> None:
    model.relation_bank = tiny_model(tiny_processor(vision=False), vision=False, seed=3).relation_bank


def loaded_bank_of_another_encoder(model: RocModel) -> None:
    other = tiny_model(tiny_processor(vision=False), vision=False, seed=3)
    model.relation_bank.load_state_dict(other.relation_bank.state_dict())


def other_description_encoder(model: RocModel) -> None:
    model.relation_model.load_state_dict(
        tiny_model(tiny_processor(vision=False), vision=False, seed=3).relation_model.state_dict()
    )


def loaded_larger_bank(model: RocModel) -> None:
    processor = tiny_processor(vision=False)
    other = tiny_model(processor, vision=False)
    other.add_relations([{"name": "visits", "descriptions": ["the head visits the tail"]}], processor)
    model.load_state_dict(other.state_dict())


def swapped_through_data(model: RocModel) -> None:
    features = model.relation_bank.features.data
    features[[1, 3]] = features[[3, 1]].clone()


def swapped_with_seals(model: RocModel) -> None:
    with torch.no_grad():
        for tensor in (model.relation_bank.features, model.relation_bank.seals):
            tensor[[1, 3]] = tensor[[3, 1]].clone()


ASSIGNED = [
    bank_of_another_encoder,
    loaded_bank_of_another_encoder,
    other_description_encoder,
    loaded_larger_bank,
    swapped_through_data,
    swapped_with_seals,
    assigned_relations,
    assigned_features,
    features_in_place,
    other_index,
    loaded_state,
    loaded_part,
    not_finite,
    other_labels,
    other_config,
    *((lambda model, edit=edit: of_config(model, edit)) for edit in EDITS),
]
IDS = [change.__name__ for change in [*ASSIGNED[:-5], *EDITS]]


def expected_scores(processor: RocProcessor, model: RocModel) -> dict[str, float]:
    """What a model says that was given the relations as `model` has them now."""
    right = tiny_model(processor, vision=False)
    right.relation_model = model.relation_model
    right.set_relations(model.config.relations, processor, none_relation=model.config.none_relation)
    return scores(right, processor)


@pytest.mark.parametrize("before", [True, False], ids=["after a call", "before any call"])
@pytest.mark.parametrize("change", ASSIGNED, ids=IDS)
def test_a_change_that_unties_bank_and_relations_is_refused_until_they_are_set(
    change: Callable[[RocModel], None], before: bool, model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    if before:
        scores(model, processor)
    batch = processor(POST["text"], entities=[(0, 3), (11, 14)])
    output = model(**batch)
    change(model)
    calls = [
        lambda: model(**batch),
        lambda: model.rank_relations(output, batch["pair_mask"]),
        model.get_description_features,
        model.get_relation_features,
        model.index_relations,
        lambda: model.save_relations(tmp_path / "relations.safetensors"),
        lambda: model.subset_relations([COUPLE]),
        lambda: model.save_pretrained(tmp_path / "model"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"model\.set_relations\(relations, processor\)"):
            call()
    model.set_relations(model.config.relations, processor, none_relation=model.config.none_relation)
    assert scores(model, processor) == pytest.approx(expected_scores(processor, model), abs=1e-5)


@pytest.mark.parametrize("change", ASSIGNED, ids=IDS)
def test_a_pipeline_encodes_anew_what_no_longer_belongs_together(
    change: Callable[[RocModel], None], model: RocModel, processor: RocProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = RocPipeline(model=model, processor=processor, device="cpu")
    pipe(POST)
    change(model)
    found = {own["relation"]: own["score"] for own in pipe(POST, top_k=9)}
    right = tiny_model(processor, vision=False)
    right.relation_model = model.relation_model
    right.set_relations(model.config.relations, processor, none_relation="None")
    expected = RocPipeline(model=right, processor=processor, device="cpu")(POST, top_k=9)
    assert found == pytest.approx({own["relation"]: own["score"] for own in expected}, abs=1e-5)
    assert "It is done now" in caplog.text


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", ["frozen encoder", "shared encoder"])
def test_an_edited_config_json_is_noticed(kind: str, edit: Any, processor: RocProcessor, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"relation_config": None} if kind == "shared encoder" else {}
    tiny_model(processor, vision=False, **settings).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    edit(config)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = RocModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"relation '.*' is the first that differs"):
        scores(loaded, processor)
    loaded.match_relations(processor)
    right = tiny_model(processor, vision=False, **settings)
    right.set_relations(config["relations"], processor, none_relation="None")
    assert scores(loaded, processor) == pytest.approx(scores(right, processor), abs=1e-5)


@pytest.mark.parametrize("edit", [swap_relations, swap_names])
@pytest.mark.parametrize("way", ["file", "attribute", "state"])
def test_a_classifier_s_outputs_keep_their_relations(
    way: str, edit: Any, processor: RocProcessor, tmp_path: Path
) -> None:
    model = tiny_model(processor, vision=False, head="classification")
    if way == "file":
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        edit(config)
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = RocModel.from_pretrained(tmp_path)
    elif way == "attribute":
        edit(vars(model.config))
    else:
        config = json.loads(model.config.to_json_string())
        edit(config)
        other = tiny_model(processor, vision=False, head="classification", relations=config["relations"])
        model.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"of the classifier was not trained for relation '|labels"):
        scores(model, processor)
    with pytest.raises(ValueError, match=r"of the classifier was not trained for relation '|labels"):
        RocPipeline(model=model, processor=processor, device="cpu")(POST)


@pytest.mark.slow
def test_a_compiled_model_notices_a_change_too(model: RocModel, processor: RocProcessor) -> None:
    compiled: Any = torch.compile(model, backend="eager")
    batch = processor(POST["text"], entities=[(0, 3), (11, 14)])
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)
    assigned_relations(model)
    with pytest.raises(ValueError, match=r"model\.set_relations\(relations, processor\)"):
        compiled(**batch)


def test_moving_copying_and_rounding_untie_nothing(model: RocModel, processor: RocProcessor, tmp_path: Path) -> None:
    expected = scores(model, processor)
    assert scores(copy.deepcopy(model), processor) == expected
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    model.to("cpu").double()
    scores(model, processor)
    for dtype in (torch.bfloat16, torch.float32):
        scores(model.to(dtype), processor)
        model.save_pretrained(tmp_path)
        loaded = RocModel.from_pretrained(tmp_path, dtype=torch.float16)
        assert scores(loaded.float(), processor) == pytest.approx(expected, abs=0.3)
        loaded.add_relations([{"name": "visits", "descriptions": ["they met"]}], processor)
        scores(loaded, processor)


def test_another_description_encoder_is_refused_on_load_and_mixes_with_none(
    model: RocModel, processor: RocProcessor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    other = tiny_model(processor, vision=False, seed=1)
    own = {name: tensor for name, tensor in other.state_dict().items() if name.startswith("relation_model.")}
    save_file(weights | own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="relation_model is not the description encoder"):
        RocModel.from_pretrained(tmp_path)
    model.relation_model = other.relation_model
    model.add_relations([{"name": "visits", "descriptions": ["they met"]}], processor)
    for relation, row in zip(model.config.relations, model.relation_bank.features[[0, 1, 3, 4, 5]]):
        alone = other.encode_texts(relation["descriptions"][:1], processor)[relation["descriptions"][0]]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_of_relations_that_was_edited_is_encoded_anew(
    edit: Any, model: RocModel, processor: RocProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors import safe_open

    path = tmp_path / "relations.safetensors"
    model.save_relations(path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["roc_relations"])
    if edit is move_description:  # otherwise the rows are not where the relations are, which is refused
        content["relations"][1]["descriptions"].reverse()
    else:
        edit(content)
    if edit is swap_relations:
        content["relations"][2]["descriptions"], content["relations"][1]["descriptions"] = ["they met"], ["a", "b"]
    save_file(load_file(path), path, {"roc_relations": json.dumps(content)})
    model.load_relations(path, processor)
    assert "encoded anew" in caplog.text
    assert scores(model, processor) == pytest.approx(expected_scores(processor, model), abs=1e-5)
