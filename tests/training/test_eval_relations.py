"""Relations that training does not see and that alone validate a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import RELATIONS, tiny_processor
from tiny_runs import NAMES, VISION, arguments, error_of, history, line, main, write_inputs
from tiny_samples import load_tiny
from transformers import AutoModel, AutoProcessor

from roc.evaluation.calibration import MIN_PAIRS
from roc.evaluation.predictions import predict_relations, score_predictions
from roc.modeling_roc import RocModel
from roc.samples.grouping import GroupedSamples
from roc.samples.splitting import split_relations
from roc.training.settings import RunConfig, load_run_config

EVAL, SEEN = [NAMES[1], NAMES[3]], [NAMES[0], NAMES[2]]  # NAMES[0] means "none of these"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), num_val=MIN_PAIRS)


def stated(split: str, number: int) -> list[str]:
    """The relations of the rows of a split, in order."""
    return [relation["relation"] for own in range(number) for relation in line(own, split)["relations"]]


def relations_of(samples: GroupedSamples) -> list[str]:
    return [relation for sample in samples.samples for relation in sample.relations]


def test_training_never_sees_them_and_they_alone_validate(inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    given = [*arguments(inputs, folder, num_epochs=1), "--eval_relations", *EVAL]
    seen: list[Any] = []

    def watched(learner: Any, batches: list[Any]) -> float:
        seen.extend(row_id for row_ids, _ in batches for row_id in row_ids)
        return learner.step(batches)

    assert main(given, step=watched) == 0
    assert len(seen) == sum(relation in SEEN for relation in stated("train", 12))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    validating = [relation for relation in stated("val", MIN_PAIRS) if relation in [*EVAL, NAMES[0]]]
    assert metrics["val"]["n"] == len(validating) == metrics["calibration"]["num_pairs"] >= MIN_PAIRS
    assert set(metrics["val"]["per_relation"]) <= {*EVAL, NAMES[0]}
    assert [record["val"]["n"] for record in history(folder)] == [len(validating)]


def test_the_model_keeps_the_relations_of_training_and_what_was_calibrated_on_others(
    inputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    assert main([*arguments(inputs, folder), "--eval_relations", *EVAL]) == 0
    model, processor = RocModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.config.relation_names == [name for name in NAMES if name in SEEN]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert model.config.probability_temperature == metrics["calibration"]["probability_temperature"] != 1
    assert model.config.none_threshold == metrics["calibration"]["none_threshold"]
    config = RunConfig(data_dir=str(inputs / "data"), vision_model=VISION, eval_relations=EVAL)
    _, val_set = load_tiny(config, processor)
    among = [relation for relation in RELATIONS if relation["name"] in [*EVAL, NAMES[0]]]
    other = model.with_relations(among, processor, none_relation=NAMES[0])
    assert score_predictions(predict_relations(other, processor, val_set), NAMES[0]) == metrics["val"]


@pytest.mark.parametrize("changes", [(), ("--share_description_encoder",)], ids=["frozen", "shared"])
def test_validation_leaves_a_model_in_training_as_it_was(
    changes: tuple[str, ...], inputs: Path, tmp_path: Path
) -> None:
    def validate(validator: Any, model: RocModel) -> Any:
        before = model.config.relation_names, model.relation_bank.features.shape
        scores = validator.score(model)
        assert (model.config.relation_names, model.relation_bank.features.shape) == before
        return scores

    given = [*arguments(inputs, tmp_path / "model", num_epochs=1), *changes, "--eval_relations", *EVAL]
    assert main(given, validate=validate) == 0
    assert AutoModel.from_pretrained(tmp_path / "model").config.relation_names == SEEN


def test_relations_part_a_split_that_trains_and_validates(inputs: Path) -> None:
    where: dict[str, Any] = {"data_dir": str(inputs / "data"), "train_split": "train", "val_split": "train"}
    config = RunConfig(**where, eval_relations=EVAL, val_share=0.5)
    train_set, val_set = load_tiny(config, tiny_processor(vision=False))
    given = stated("train", 12)
    for name in NAMES[1:]:
        assert relations_of(train_set).count(name) == (0 if name in EVAL else given.count(name))
        assert relations_of(val_set).count(name) == (given.count(name) if name in EVAL else 0)
    unrelated = [{s.text for s in own.samples if NAMES[0] in s.relations} for own in (train_set, val_set)]
    assert all(unrelated)
    assert not unrelated[0] & unrelated[1], "texts without a relation validate and train"


def test_every_row_is_in_one_part() -> None:
    import datasets

    rows = datasets.Dataset.from_dict(
        {"text": [f"text {number}" for number in range(90)], "relation": ["None", "a", "b"] * 30}
    )
    parts = split_relations(rows, ["b"], "None", 0.3)
    assert sorted(text for part in parts for text in part["text"][:]) == sorted(rows["text"][:])
    assert set(parts[0]["relation"][:]) == {"None", "a"}
    assert set(parts[1]["relation"][:]) == {"None", "b"}
    assert parts[1]["relation"][:].count("b") == 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--eval_relations", "/per/per/couples"], "eval_relations: '/per/per/couples' is not among"),
        (["--eval_relations", "None"], "eval_relations: 'None' is not among"),
        (["--eval_relations", *EVAL, EVAL[0]], "eval_relations names a relation twice"),
        (["--eval_relations", *EVAL, "--held_out_relations", EVAL[0]], f"eval_relations: '{EVAL[0]}' is held out"),
        (["--eval_relations", *EVAL, NAMES[2]], "fewer than two relations are left to train on"),
        (["--eval_relations", *EVAL, "--head", "classification"], "Leave it out, or take --head retrieval"),
    ],
)
def test_relations_that_cannot_validate_are_refused(
    given: list[str], message: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(inputs, tmp_path / "model"), *given]) == 1
    assert message in error_of(capsys)
    assert not (tmp_path / "model").exists()


def test_one_relation_without_a_none_cannot_validate(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"version": 1, "language": "en", "none_relation": None, "relations": RELATIONS}
    (tmp_path / "relations.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    given = arguments(inputs, tmp_path / "model", relations=tmp_path / "relations.yaml")
    assert main([*given, "--eval_relations", EVAL[0]]) == 1
    assert "fewer than two relations are left to validate on" in error_of(capsys)


def test_parts_of_a_data_set_are_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("parts: [news, music]", encoding="utf-8")
    assert load_run_config(str(tmp_path / "run.yaml")).parts == ["news", "music"]
    assert load_run_config(None).parts is None
