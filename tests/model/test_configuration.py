"""The model's configuration: ranges, types, misspelt names, relations, and saving."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from tiny import RELATIONS
from transformers import BertConfig, CLIPVisionConfig, ViTConfig

from roc.configuration_fields_roc import ModelSettings
from roc.configuration_roc import RocConfig
from roc.messages_roc import did_you_mean
from roc.processing_typing_roc import ENTITY_TYPES
from roc.relations_roc import normalise_relations

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def tiny_config(**fields: Any) -> RocConfig:
    return RocConfig(**({"text_config": BertConfig(**SIZE), "fusion_num_heads": 2} | fields))


# ---------------------------------------------------------------------------------------------------------------------
# Fields


def test_the_defaults_are_a_valid_configuration() -> None:
    config = RocConfig()
    assert (config.text_config.model_type, config.vision_config, config.relation_config) == ("bert", None, None)
    assert (config.num_relations, config.num_descriptions) == (0, 0)
    assert config.hidden_size == config.text_config.hidden_size


def test_dictionaries_become_the_backbones_own_configurations() -> None:
    config = tiny_config(vision_config={"model_type": "clip_vision_model", "patch_size": 8})
    assert isinstance(config.vision_config, CLIPVisionConfig)
    assert config.vision_config.patch_size == 8
    assert isinstance(tiny_config(vision_config={}).vision_config, ViTConfig)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fusion_num_layers", -1, "fusion_num_layers=-1 is out of range: give a number in [0, 100]"),
        ("fusion_num_heads", 0, "fusion_num_heads=0 is out of range: give a number in [1, 1000]"),
        ("fusion_num_heads", 5, "fusion_num_heads=5 must divide the text encoder's hidden size 32"),
        ("fusion_intermediate_size", 0, "fusion_intermediate_size=0 is out of range: give a number in [1, 1000000]"),
        ("projection_dim", 0, "projection_dim=0 is out of range: give a number in [1, 100000]"),
        ("initializer_range", -0.1, "initializer_range=-0.1 is out of range: give a number >= 0"),
        ("dropout", 1.0, "dropout=1.0 is out of range: give a number in [0, 1)"),
        ("dropout", -0.1, "dropout=-0.1 is out of range"),
        ("dropout", math.nan, "dropout=nan is out of range"),
        ("label_smoothing", 1, "label_smoothing=1 is out of range: give a number in [0, 1)"),
        ("initial_temperature", 0.001, "Temperatures must satisfy 0 < min_temperature <= initial_temperature"),
        ("min_temperature", 0.0, "Temperatures must satisfy 0 < min_temperature"),
        ("max_temperature", 0.05, "Temperatures must satisfy"),
        ("none_relation", "None", "none_relation='None' is not among the relations ['a']"),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    fields = {"relations": [{"name": "a", "descriptions": "about a"}], field: value}
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_config(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head", "retreival"),
        ("dropout", "0.1"),
        ("projection_dim", 2.5),
        ("fusion_num_layers", True),
        ("learn_temperature", "no"),
        ("entity_types", "person"),
        ("relations", "mnre.yaml"),
        ("none_relation", False),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=f"Validation error for field '{field}'"):
        tiny_config(**{field: value})


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("text_config", {"num_hidden_layers": 10**9}),
        ("text_config", {"vocab_size": 10**12}),
        ("text_config", {"num_attention_heads": 0}),
        ("vision_config", {"patch_size": 0}),
        ("vision_config", {"image_size": 50_000, "patch_size": 1}),
        ("relation_config", {"hidden_size": -1}),
    ],
)
def test_sizes_that_no_encoder_has_are_refused_before_it_is_built(part: str, sizes: dict[str, int]) -> None:
    kind = "vit" if part == "vision_config" else "bert"
    with pytest.raises(ValueError, match=next(iter(sizes))):
        RocConfig(**{part: {"model_type": kind, **sizes}})


def test_whole_numbers_are_taken_for_fractions() -> None:
    assert tiny_config(dropout=0, max_temperature=2).dropout == 0


def test_no_fusion_layers_need_no_heads_that_divide() -> None:
    assert tiny_config(fusion_num_layers=0, fusion_num_heads=5).fusion_num_layers == 0


def test_a_configuration_that_was_made_invalid_is_not_saved(tmp_path: Path) -> None:
    config = tiny_config()
    config.dropout = 2.0
    with pytest.raises(StrictDataclassClassValidationError, match=r"dropout=2\.0 is out of range"):
        config.save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassFieldValidationError):
        config.dropout = "much"


def test_a_misspelt_field_is_refused_with_the_right_name() -> None:
    with pytest.raises(ValueError, match=r"has no field 'fusion_num_layer'\. Did you mean 'fusion_num_layers'\?"):
        tiny_config(fusion_num_layer=1)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="positional"):
        RocConfig(BertConfig(**SIZE))


@pytest.mark.parametrize(
    "key",
    [
        *("auto_map", "custom_pipelines", "architectures", "transformers_version", "torch_dtype", "dtype"),
        *("quantization_config", "_name_or_path", "_commit_hash", "problem_type", "output_attentions"),
        *("attn_implementation", "name_or_path", "tokenizer_class", "base_model_tp_plan", "my_own_note"),
    ],
)
def test_keys_that_transformers_writes_are_not_taken_for_misspelt_fields(key: str) -> None:
    RocConfig.from_dict({**tiny_config().to_dict(), key: None})


def test_did_you_mean_names_only_close_names() -> None:
    assert did_you_mean("learning_rat", ["learning_rate", "seed"]) == " Did you mean 'learning_rate'?"
    assert did_you_mean("colour", ["learning_rate", "seed"]) == ""


# ---------------------------------------------------------------------------------------------------------------------
# Saving and loading


@pytest.mark.parametrize("vision_config", [None, ViTConfig(image_size=32, patch_size=8, **SIZE)])
@pytest.mark.parametrize("relation_config", [None, BertConfig(vocab_size=99, **SIZE)])
def test_saving_and_loading_keeps_every_field(tmp_path: Path, vision_config: Any, relation_config: Any) -> None:
    fields: dict[str, Any] = {
        "head": "classification",
        "fusion_num_layers": 3,
        "fusion_intermediate_size": 48,
        "projection_dim": 24,
        "dropout": 0.3,
        "initial_temperature": 0.2,
        "min_temperature": 0.05,
        "max_temperature": 0.5,
        "learn_temperature": False,
        "label_smoothing": 0.1,
        "entity_types": [*ENTITY_TYPES, "animal"],
        "none_relation": "None",
        "initializer_range": 0.01,
    }
    relations = [*RELATIONS, {"name": "tame", "descriptions": ["head tames tail"], "tail_types": ["animal"]}]
    backbones = {"vision_config": vision_config, "relation_config": relation_config}
    config = tiny_config(relations=relations, **fields, **backbones)
    config.save_pretrained(tmp_path)
    loaded = RocConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.relations == config.relations
    assert (loaded.vision_config is None, loaded.relation_config is None) == (
        vision_config is None,
        relation_config is None,
    )


def test_a_saved_configuration_with_what_the_hub_adds_is_loaded(tmp_path: Path) -> None:
    config = tiny_config(relations=RELATIONS)
    config.custom_pipelines = {
        "multimodal-relation-extraction": {"impl": "pipeline_roc.RocPipeline", "pt": ["AutoModel"]}
    }
    config.auto_map = {"AutoConfig": "configuration_roc.RocConfig"}
    config.save_pretrained(tmp_path)
    loaded = RocConfig.from_pretrained(tmp_path)
    assert loaded.custom_pipelines == config.custom_pipelines
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]["AutoConfig"] == "configuration_roc.RocConfig"
    loaded.save_pretrained(tmp_path / "again")
    assert RocConfig.from_pretrained(tmp_path / "again").relations == config.relations


def test_a_saved_configuration_with_a_field_that_is_no_more_is_loaded(tmp_path: Path) -> None:
    tiny_config(dropout=0.3).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(saved | {"max_regions": 4}), encoding="utf-8")
    assert RocConfig.from_pretrained(tmp_path).dropout == 0.3


def test_the_settings_that_a_run_may_choose_are_the_configurations_own() -> None:
    config, settings = RocConfig(), ModelSettings()
    for own in dataclasses.fields(ModelSettings):
        assert RocConfig.__dataclass_fields__[own.name].metadata == own.metadata
        assert getattr(config, own.name) == getattr(settings, own.name)


def test_the_relations_are_the_labels() -> None:
    config = tiny_config(relations=RELATIONS, num_labels=2, id2label={0: "LABEL_0", 1: "LABEL_1"})
    names = [relation["name"] for relation in RELATIONS]
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: number for number, name in enumerate(names)}
    assert config.num_labels == config.num_relations == len(names)
    assert config.num_descriptions == sum(len(relation["descriptions"]) for relation in RELATIONS)


# ---------------------------------------------------------------------------------------------------------------------
# Relations


def test_relations_come_in_one_form() -> None:
    given = [
        {"name": "a", "descriptions": " about a ", "head_types": "person"},
        {"name": "b", "descriptions": ("b", "c")},
    ]
    assert normalise_relations(given, None) == [
        {"name": "a", "descriptions": ["about a"], "head_types": ["person"], "tail_types": []},
        {"name": "b", "descriptions": ["b", "c"], "head_types": [], "tail_types": []},
    ]


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        ("a", "A relation is a mapping with the keys"),
        ({"descriptions": ["x"]}, "A relation needs a non-empty name; given None"),
        ({"name": " ", "descriptions": ["x"]}, "A relation needs a non-empty name"),
        ({"name": 5, "descriptions": ["x"]}, "A relation needs a non-empty name; given 5"),
        ({"name": "a"}, "Relation 'a' needs at least one description and no empty one; given None"),
        ({"name": "a", "descriptions": []}, "Relation 'a' needs at least one description"),
        ({"name": "a", "descriptions": ["x", "  "]}, "Relation 'a' needs at least one description and no empty one"),
        ({"name": "a", "descriptions": ""}, "Relation 'a' needs at least one description"),
        ({"name": "a", "descriptions": 5}, "Relation 'a' needs at least one description"),
        ({"name": "a", "descriptions": {"x": 1}}, "Relation 'a' needs at least one description"),
        ({"name": "a", "description": ["x"]}, "unknown key 'description'; allowed are .* Did you mean 'descriptions'?"),
        ({"name": "a", "descriptions": ["x"], "head_types": ["persn"]}, "head_types holds 'persn'.*mean 'person'?"),
        ({"name": "a", "descriptions": ["x"], "tail_types": 5}, "Relation 'a': tail_types is a list of entity types"),
        ({"name": "b", "descriptions": ["x"]}, r"Relation names must differ, but \['b'\] appear more than once"),
    ],
)
def test_a_malformed_relation_is_refused(relation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise_relations([{"name": "b", "descriptions": ["y"]}, relation], None)


def test_a_configuration_refuses_what_the_relations_may_not_be() -> None:
    with pytest.raises(ValueError, match="Relation names must differ"):
        tiny_config(relations=[*RELATIONS, RELATIONS[0]])


@pytest.mark.parametrize("relations", ["a", {"a": "about a"}, None])
def test_relations_must_be_a_list(relations: Any) -> None:
    with pytest.raises(ValueError, match="relations is a list of mappings"):
        normalise_relations(relations, None)


def test_the_none_relation_must_be_one_of_them() -> None:
    relations = [{"name": "None", "descriptions": ["nothing"]}]
    assert normalise_relations(relations, "None")[0]["name"] == "None"
    assert normalise_relations([], "None") == []
    with pytest.raises(
        ValueError, match=r"none_relation='none' is not among the relations .* set none_relation to null"
    ):
        normalise_relations(relations, "none")
    with pytest.raises(ValueError, match="none_relation must be a name or null; given False"):
        normalise_relations(relations, False)  # type: ignore[arg-type]


def test_a_residual_pair_is_as_wide_as_its_descriptions() -> None:
    text, other = ({"model_type": "bert", "hidden_size": size, "num_attention_heads": 2} for size in (32, 48))
    assert RocConfig(text_config=text, relation_config=text, alignment="residual").embed_dim == 32
    assert RocConfig(text_config=text, relation_config=other, projection_dim=7).embed_dim == 7
    with pytest.raises(ValueError, match="as wide as the text encoder"):
        RocConfig(text_config=text, relation_config=other, alignment="residual")


@pytest.mark.parametrize(
    ("field", "value"),
    [("none_threshold", 1.5), ("none_threshold", -2), ("probability_temperature", 0), ("type_penalty", -1)],
)
def test_decisions_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        RocConfig(**{field: value})
