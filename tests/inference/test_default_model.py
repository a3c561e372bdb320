"""The model that answers where none is named: `predict.py`, a pipeline; a tiny one stands in for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import RELATIONS, tiny_model, tiny_processor
from transformers import pipeline

import roc.register  # noqa: F401  (Transformers knows ROC)
from roc.predict import main as predict
from roc.relations.files import read_relation_file
from roc.support.resources import DEFAULT_MODEL, PACKAGE_ROOT

TASK = "multimodal-relation-extraction"
POST = {"text": "Ann kissed Bob in Paris", "head": "Ann", "tail": "Bob"}
ARGUMENTS = ["--text", POST["text"], "--head", "Ann", "--tail", "Bob", "--top_k", "9"]
NAMES = {relation["name"] for relation in RELATIONS}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, processor = tmp_path / "stand_in", tiny_processor(vision=False)
    tiny_model(processor, vision=False).save_pretrained(folder)
    processor.save_pretrained(folder)
    monkeypatch.setattr("roc.support.resources.DEFAULT_MODEL", folder)
    return folder


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ROC without the model."""
    monkeypatch.setattr("roc.support.resources.DEFAULT_MODEL", tmp_path / "nothing")
    return tmp_path / "nothing"


def relations_of_answer(capsys: pytest.CaptureFixture[str]) -> set[str]:
    [pair] = json.loads(capsys.readouterr().out)["predictions"]
    return {entry["relation"] for entry in pair["relations"]}


def test_predict_asks_it_and_uses_its_own_relations(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(ARGUMENTS) == 0
    assert relations_of_answer(capsys) == NAMES


def test_predict_gives_it_the_relations_of_a_file(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = stand_in / "own.yaml"
    file.write_text("relations:\n- name: met\n  descriptions: [the head met the tail]\n", encoding="utf-8")
    assert predict([*ARGUMENTS, "--relations", str(file)]) == 0
    assert relations_of_answer(capsys) == {"met"}


def test_a_pipeline_without_a_model_is_of_it(stand_in: Path) -> None:
    pipe = pipeline(TASK)
    assert {found["relation"] for found in pipe(POST, top_k=9)} == NAMES
    own = [{"name": "met", "descriptions": ["the head met the tail"]}, RELATIONS[0]]
    found = pipeline(TASK, relations=own)(POST, top_k=9)
    assert {entry["relation"] for entry in found} == {"met", "None"}


def test_a_model_that_is_named_answers_itself(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([*ARGUMENTS, "--model", str(tmp_path / "other")]) == 1
    assert "There is no model folder" in capsys.readouterr().err


def test_where_it_is_missing_the_error_names_the_folder(nothing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(ARGUMENTS) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: No model is named, and the one that would answer then is not in {nothing}.")
    with pytest.raises(FileNotFoundError, match="Name a folder that train"):
        pipeline(TASK)


def test_the_released_one_has_the_everyday_relations() -> None:
    assert DEFAULT_MODEL.parent == PACKAGE_ROOT / "released"
    if not DEFAULT_MODEL.is_dir():
        pytest.skip(f"there is no folder {DEFAULT_MODEL}: it has not been trained and released yet")
    config = json.loads((DEFAULT_MODEL / "config.json").read_text(encoding="utf-8"))
    everyday = read_relation_file("relations/everyday.yaml")
    assert (config["relations"], config["none_relation"]) == (everyday.relations, everyday.none_relation)
