"""Every setting of the model, from the file and from the command line to the model that is built."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import run_settings, write_inputs
from transformers import PretrainedConfig

from roc.configuration_roc import RocConfig
from roc.processing_entities_roc import ENTITY_TYPES
from roc.relations.files import read_relation_file
from roc.training.building import build_model, build_processor
from roc.training.settings import MODEL_FIELDS, RunConfig, load_run_config, parse_command_line

# what a run gives the model by itself: encoders, relations, and what it calibrates; `tie_word_embeddings` is said once
# and for all to Transformers
NOT_CHOSEN = {"text_config", "vision_config", "relation_config", "encoder_sources", "tie_word_embeddings"} | {
    *("relations", "none_relation", "none_threshold", "probability_temperature")
}
OTHERS: dict[str, Any] = {
    "freeze_vision": True,
    "head": "classification",
    "fusion_num_layers": 1,
    "fusion_num_heads": 2,
    "fusion_intermediate_size": 48,
    "pair_representation": "sentence",
    "alignment": "residual",
    "entity_weight": 0.5,
    "projection_dim": 16,
    "dropout": 0.2,
    "initial_temperature": 0.1,
    "min_temperature": 0.05,
    "max_temperature": 0.5,
    "learn_temperature": False,
    "description_pooling": "max",
    "label_smoothing": 0.1,
    "relation_dropout": 0.2,
    "picture_dropout": 0.3,
    "wrong_pictures": 0.4,
    "token_dropout": 0.5,
    "entity_types": [*ENTITY_TYPES, "animal"],
    "type_constraints": "soft",
    "type_penalty": 2.0,
    "initializer_range": 0.01,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    content = yaml.safe_load((inputs / "relations.yaml").read_text(encoding="utf-8"))
    content["relations"][1]["head_types"] = ["animal"]  # a type that only these settings know
    (inputs / "relations.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return run_settings(inputs) | {"markers": "pair"}


def by_file(base: dict[str, Any], folder: Path) -> RunConfig:
    (folder / "run.yaml").write_text(yaml.safe_dump(base | {"model": OTHERS}), encoding="utf-8")
    return load_run_config(str(folder / "run.yaml"))


def by_command_line(base: dict[str, Any], folder: Path) -> RunConfig:
    (folder / "run.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    words: list[list[str]] = []
    for name, value in OTHERS.items():
        if isinstance(value, bool):
            words.append([f"--{name}" if value else f"--no-{name}"])
        else:
            words.append([f"--{name}", *map(str, value if isinstance(value, list) else [value])])
    return load_run_config(*parse_command_line([str(folder / "run.yaml"), *itertools.chain(*words)]))


def test_a_run_may_choose_every_field_of_a_models_configuration_that_it_does_not_give_by_itself() -> None:
    own = RocConfig.__dataclass_fields__.keys() - PretrainedConfig.__dataclass_fields__.keys()
    assert own | {"tie_word_embeddings"} == MODEL_FIELDS.keys() | NOT_CHOSEN
    assert OTHERS.keys() == MODEL_FIELDS.keys(), "give a new setting of the model a value here that is not its default"
    assert not [name for name, other in OTHERS.items() if MODEL_FIELDS[name].default == other]


@pytest.mark.parametrize("read", [by_file, by_command_line], ids=lambda read: read.__name__)
def test_every_setting_of_the_model_reaches_it(read: Any, base: dict[str, Any], tmp_path: Path) -> None:
    config = read(base, tmp_path)
    inventory = read_relation_file(config.relations, entity_types=config.model.entity_types)
    processor = build_processor(config)
    model = build_model(config, processor, inventory)
    assert {name: getattr(model.config, name) for name in OTHERS} == OTHERS
    assert processor.entity_types == OTHERS["entity_types"], "model and processor number types alike"
    assert model.config.relations[1]["head_types"] == ["animal"]
