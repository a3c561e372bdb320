"""Training from the command line on tiny data."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from tiny import RELATIONS, tiny_picture, tiny_processor
from tiny_runs import NAMES, SIZE, VISION, arguments, error_of, everything_under, history, line, main, weights
from tiny_samples import load_tiny
from torch import Tensor
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

import roc.modeling_roc
import roc.processing_roc
import roc.score
import roc.train
import roc.training.building
import roc.training.loop
from roc.evaluation.metrics.roc_f1.roc_f1 import RocF1
from roc.evaluation.predictions import predict_relations, score_predictions
from roc.evaluation.zero_shot import unseen_relations
from roc.modeling_roc import RocModel
from roc.relations.files import RelationInventory
from roc.samples.batching import SampleCollator
from roc.training.building import build_processor
from roc.training.settings import RUN_FILE, RunConfig, load_run_config

pytestmark = pytest.mark.usefixtures("fresh_state")


# --- one whole run -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A run of `main`."""

    code: int
    stdout: str
    folder: Path
    metrics: dict[str, Any]


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
        AcceleratorState._reset_state(True)
        folder, stdout = tmp_path_factory.mktemp("runs") / "model", io.StringIO()
        with contextlib.redirect_stdout(stdout):
            code = roc.train.main(arguments(inputs, folder, num_epochs=3))
    return Finished(code, stdout.getvalue(), folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))


def test_training_ends_with_one_json_line_on_stdout(finished: Finished) -> None:
    assert finished.code == 0
    assert finished.stdout.count("\n") == 1
    told = json.loads(finished.stdout)
    assert told.keys() == {"output_dir", "val"}
    assert told["output_dir"] == str(finished.folder)
    assert {"accuracy", "precision", "recall", "micro_f1", "macro_f1", "n"} <= told["val"].keys()
    val = {name: value for name, value in finished.metrics["val"].items() if name != "per_relation"}
    assert told["val"] == val


def test_training_writes_model_processor_settings_records_and_drawings(finished: Finished) -> None:
    pytest.importorskip("matplotlib")
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"}
    assert names >= {RUN_FILE, "environment.json", "metrics.json", "curves.png", "confusion.png", "calibration.png"}
    assert names >= {"modeling_roc.py", "configuration_roc.py", "processing_roc.py"}
    for name in ("curves.png", "confusion.png", "calibration.png"):
        with Image.open(finished.folder / name) as drawing:
            assert min(drawing.size) > 100
    assert [path.name for path in finished.folder.parent.iterdir()] == ["model"], "temporary files were left behind"


def test_the_few_validation_pairs_do_not_calibrate_the_saved_model(finished: Finished) -> None:
    config, calibration = RocModel.from_pretrained(finished.folder).config, finished.metrics["calibration"]
    assert config.probability_temperature == calibration["probability_temperature"] == 1
    assert config.none_threshold is None
    assert calibration["num_pairs"] == finished.metrics["val"]["n"] < 30
    assert calibration["calibration_error"].keys() == {"before", "after"}
    assert config.auto_map["AutoModel"] == "modeling_roc.RocModel"


def test_the_records_tell_every_epoch(finished: Finished) -> None:
    records = finished.metrics["history"]
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 3), (2, 6), (3, 9)]
    for record in records:
        assert math.isfinite(record["loss"])
        assert record["samples_per_second"] > 0
        assert record["temperature"] == pytest.approx(0.07, rel=0.1)
    best = max(records, key=lambda record: record["val"]["micro_f1"])  # the first of equals
    assert finished.metrics["best_epoch"] == best["epoch"]
    assert finished.metrics["val"]["micro_f1"] == best["val"]["micro_f1"]


def test_validation_scores_count_the_rows_of_the_validation_split(finished: Finished) -> None:
    assert finished.metrics["val"]["n"] == sum(len(line(number, "val")["relations"]) for number in range(5))


def test_the_saved_settings_are_the_runs(finished: Finished, inputs: Path) -> None:
    saved = load_run_config(str(finished.folder / RUN_FILE))
    assert saved.num_epochs == 3
    assert saved.vision_model == VISION
    assert saved.data_dir == str(inputs / "data")
    environment = json.loads((finished.folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["torch"] == importlib.metadata.version("torch")
    assert environment.keys() >= {"commit", "python", "transformers", "datasets", "accelerate"}


def test_the_trained_model_loads_and_scores_as_reported(finished: Finished, inputs: Path) -> None:
    model = AutoModel.from_pretrained(finished.folder)
    processor = AutoProcessor.from_pretrained(finished.folder)
    assert isinstance(model, RocModel)
    assert [relation["name"] for relation in model.config.relations] == NAMES
    config = RunConfig(data_dir=str(inputs / "data"), output_dir=str(finished.folder))
    _, val_set = load_tiny(config, processor)
    scores = score_predictions(predict_relations(model, processor, val_set), "None")
    assert scores == finished.metrics["val"]


def test_what_is_reported_is_what_the_metric_module_says(
    finished: Finished, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def count(self: RocF1, predictions: list[str], references: list[str], *, none_relation: str) -> dict[str, Any]:
        return {"pairs": len(references), "none": none_relation}

    monkeypatch.setattr(RocF1, "_compute", count)
    given = ["--model", str(finished.folder), "--dataset", "jsonl", "--data_dir", str(inputs / "data")]
    assert roc.score.main(given) == 0
    assert json.loads(capsys.readouterr().out) == {"pairs": finished.metrics["val"]["n"], "none": "None"}


# --- variants of a run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "classification"},
        {"vision_model": "null"},
        {"use_image": False},
        {"share_description_encoder": True},
        {"markers": "pair"},
        {"gradient_accumulation_steps": 2, "activation_checkpointing": True, "learn_temperature": False},
        {"mixed_precision": "bf16"},
        {"label_smoothing": 0.1, "fusion_num_layers": 0, "swap_none_pairs": True, "max_train_samples": 6},
        {"num_workers": 1},
        {"freeze_vision": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_variant_trains_saves_and_loads(changes: dict[str, Any], inputs: Path, tmp_path: Path) -> None:
    flags = [f"--{'' if value else 'no-'}{name}" for name, value in changes.items() if isinstance(value, bool)]
    values = {name: value for name, value in changes.items() if not isinstance(value, bool)}
    assert main(arguments(inputs, tmp_path / "model", *flags, max_steps=2, **values)) == 0
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "model").values())
    assert AutoProcessor.from_pretrained(tmp_path / "model").markers == changes.get("markers", "entities")


def test_a_run_tells_its_trackers_every_step_every_validation_and_the_result(inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = {"output_dir": tmp_path / "model", "tracking_dir": tmp_path / "tracking"}
    assert main(arguments(inputs, **folders, trackers="tensorboard")) == 0
    [folder] = {path.parent for path in (tmp_path / "tracking").rglob("*tfevents*")}
    events = EventAccumulator(str(folder)).Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert steps["train/loss"] == steps["train/learning_rate"] == [1, 2, 3, 4, 5, 6]
    assert steps["val/micro_f1"] == [3, 6]
    assert set(steps["final/micro_f1"]) == {6}
    losses = [event.value for event in events.Scalars("train/loss")]
    told = [record["loss"] for record in history(tmp_path / "model")]
    assert [sum(losses[:3]) / 3, sum(losses[3:]) / 3] == pytest.approx(told)


def test_a_vision_encoder_may_be_a_folder(inputs: Path, tmp_path: Path) -> None:
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SIZE)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    assert main(arguments(inputs, tmp_path / "model", vision_model=tmp_path / "vit", max_steps=1)) == 0


@pytest.mark.parametrize("image_size", [None, 48])
def test_no_image_processor_crops_because_boxes_are_shares_of_the_whole_picture(
    image_size: int | None, inputs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=8, **SIZE)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)  # as CLIP's are
    config = RunConfig(text_model=str(inputs / "text"), vision_model=str(folder), image_size=image_size)
    processor = build_processor(config)
    picture = tiny_picture("black", size=(96, 32))
    picture.paste(tiny_picture("white", size=(12, 32)), (0, 0))  # the leftmost eighth, which a centre crop cuts off
    pixels = processor(text="ann met bob", images=picture, entities=[(0, 3), (8, 11)])["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, image_size or 32, image_size or 32)
    assert pixels[0, 0, :, 0].mean() > pixels[0, 0, :, -1].mean() + 1, "the left edge was cut off"


def test_a_siglip_2_encoder_of_any_grid_gets_whole_pictures_in_its_own_colours(inputs: Path, tmp_path: Path) -> None:
    """Its own image processor would cut them into patches."""
    folder = tmp_path / "siglip2"
    Siglip2VisionModel(Siglip2VisionConfig(num_patches=16, patch_size=8, **SIZE)).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16, image_mean=[0.25] * 3).save_pretrained(folder)
    processor = build_processor(RunConfig(text_model=str(inputs / "text"), vision_model=str(folder)))
    pixels = processor("ann met bob", tiny_picture("white"), entities=[(0, 3), (8, 11)])["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 32, 32)
    torch.testing.assert_close(pixels, torch.full_like(pixels, 1.5))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(inputs: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("second", 5), ("third", 6)):
        assert main(arguments(inputs, tmp_path / name, seed=seed, max_steps=3)) == 0
    first, second, third = (weights(tmp_path / name) for name in ("first", "second", "third"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
    assert [r["loss"] for r in history(tmp_path / "first")] == [r["loss"] for r in history(tmp_path / "second")]


@pytest.mark.parametrize(("max_steps", "expected"), [(2, [(1, 2)]), (3, [(1, 3)]), (4, [(1, 3), (2, 4)])])
def test_max_steps_ends_the_run_wherever_it_is(
    max_steps: int, expected: list[tuple[int, int]], inputs: Path, tmp_path: Path
) -> None:
    assert main(arguments(inputs, tmp_path / "model", max_steps=max_steps, num_epochs=1)) == 0
    assert [(record["epoch"], record["step"]) for record in history(tmp_path / "model")] == expected
    assert history(tmp_path / "model")[-1]["learning_rate"] == pytest.approx(0)


def test_the_vision_cache_leaves_no_trace_but_speed(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    open_image = roc.processing_roc.open_image
    monkeypatch.setattr(roc.processing_roc, "open_image", lambda *given: decoded.append(given[0]) or open_image(*given))
    counts, cached = {}, {"vision_cache": tmp_path / "cache"}
    for name, changes in (("without", {}), ("filling", cached), ("reading", cached)):
        decoded.clear()
        assert main(arguments(inputs, tmp_path / name, "--freeze_vision", **changes)) == 0
        counts[name] = len(decoded)
    # the saved model is calibrated on pictures: a pass over one batch of two distinct ones
    assert (counts["filling"], counts["reading"]) == (2 + 2, 2)
    assert counts["without"] > 10
    without, filling, reading = (weights(tmp_path / name) for name in counts)
    assert all(torch.equal(filling[name], reading[name]) for name in filling), "it matters who filled the cache"
    assert all(torch.equal(without[name], filling[name]) for name in without if name.startswith("vision_model"))
    losses = [[record["loss"] for record in history(tmp_path / name)] for name in ("without", "filling")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in counts]
    assert files[0] == files[1] == files[2]
    for name in files[1] - {RUN_FILE}:
        assert b"vision_cache" not in (tmp_path / "filling" / name).read_bytes()


def test_a_model_trained_on_cached_features_scores_as_reported_on_pictures(inputs: Path, tmp_path: Path) -> None:
    cached = ("--freeze_vision", "--vision_cache", str(tmp_path / "cache"))
    assert main(arguments(inputs, tmp_path / "model", *cached)) == 0
    model, processor = AutoModel.from_pretrained(tmp_path / "model"), AutoProcessor.from_pretrained(tmp_path / "model")
    config = RunConfig(data_dir=str(inputs / "data"), vision_model=VISION)
    _, val_set = load_tiny(config, processor)
    assert any(isinstance(image, bytes) for _, image in (val_set[number] for number in range(len(val_set))))
    scores = score_predictions(predict_relations(model, processor, val_set), "None")
    assert scores == json.loads((tmp_path / "model" / "metrics.json").read_text(encoding="utf-8"))["val"]


@pytest.mark.parametrize("more", [(), ("--freeze_vision", "--vision_cache", "CACHE")], ids=["plain", "cached"])
def test_a_dry_run_writes_nothing(
    more: tuple[str, ...], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_under(inputs) | everything_under(tmp_path)
    more = tuple(option.replace("CACHE", str(tmp_path / "cache")) for option in more)
    assert main(arguments(inputs, tmp_path / "runs" / "model", "--dry_run", *more)) == 0
    assert everything_under(inputs) | everything_under(tmp_path) == before
    printed = capsys.readouterr()
    assert "pairs of" in printed.err
    assert "the first batch as the model reads it" in printed.err
    [told] = printed.out.splitlines()
    expected = {"dry_run": True, "num_samples": 12, "num_val_samples": 5, "num_relations": 4, "total_steps": 6}
    assert {name: json.loads(told)[name] for name in expected} == expected
    assert math.isfinite(json.loads(told)["loss"])


def test_the_test_split_is_never_opened(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    load = roc.training.building.load_dataset_splits

    def spy(*given: Any, splits: Sequence[str], **options: Any) -> Any:
        asked.append(list(splits))
        return load(*given, splits=splits, **options)

    monkeypatch.setattr(roc.training.building, "load_dataset_splits", spy)
    assert main(arguments(inputs, tmp_path / "model", "--dry_run")) == 0  # test.jsonl is no JSON
    assert asked == [["train", "val"]]


@pytest.mark.parametrize("role", ["train_split", "val_split"])
def test_no_run_can_train_on_or_choose_by_the_test_split(role: str, inputs: Path, tmp_path: Path) -> None:
    assert main(arguments(inputs, tmp_path / "model", **{role: "test"})) == 1
    assert not (tmp_path / "model").exists()


# --- relations that training does not see ------------------------------------------------------------------------


def test_held_out_relations_are_neither_trained_on_nor_validated_but_can_be_scored(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()
    label = SampleCollator._label

    def spy(self: SampleCollator, relation: str, row_id: str) -> int:
        seen.add(relation)
        return label(self, relation, row_id)

    monkeypatch.setattr(SampleCollator, "_label", spy)
    folder = tmp_path / "model"
    assert main(arguments(inputs, folder, num_epochs=1, num_unseen=2, seed=1)) == 0
    unseen = unseen_relations(RelationInventory(RELATIONS, "None"), num_unseen=2, seed=1)
    assert seen == set(NAMES) - set(unseen)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert not set(metrics["val"]["per_relation"]) & set(unseen)
    assert AutoModel.from_pretrained(folder).config.relation_names == [name for name in NAMES if name not in unseen]

    capsys.readouterr()
    options = {"model": folder, "dataset": "jsonl", "data_dir": inputs / "data", "relations": inputs / "relations.yaml"}
    given = [*itertools.chain(*((f"--{name}", str(value)) for name, value in options.items()))]
    assert roc.score.main([*given, "--num_unseen", "2", "--seed", "1"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores["per_relation"]) <= set(unseen)
    stated = [relation["relation"] for number in range(5) for relation in line(number, "val")["relations"]]
    assert scores["n"] == sum(relation in unseen for relation in stated)
    assert roc.score.main([*given, "--held_out_relations", *unseen]) == 0
    assert json.loads(capsys.readouterr().out) == scores


def test_scoring_unseen_relations_needs_their_descriptions(
    finished: Finished, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(finished.folder), "--dataset", "jsonl", "--data_dir", str(inputs / "data")]
    assert roc.score.main([*given, "--num_unseen", "1"]) == 1
    assert "need --relations FILE" in capsys.readouterr().err


def test_markers_like_something_that_is_no_token_are_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(inputs, tmp_path / "model", markers_like="no token")) == 1
    assert "markers_like='no token' is not a token" in error_of(capsys)
    assert main(arguments(inputs, tmp_path / "model", "--dry_run", markers_like=",")) == 0


def test_one_split_can_be_parted_for_training_and_validation(inputs: Path) -> None:
    config = RunConfig(data_dir=str(inputs / "data"), train_split="train", val_split="train", val_share=0.3)
    train_set, val_set = load_tiny(config, tiny_processor(vision=False))
    texts = [{sample.text for sample in samples.samples} for samples in (train_set, val_set)]
    assert all(texts)
    assert not texts[0] & texts[1]
    assert len(texts[0] | texts[1]) == 12


# --- which epoch is kept, and when to stop -----------------------------------------------------------------------


class Scripted:
    """A validation that gives these scores, one per epoch, and keeps the weights of each."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.kept = scores, list[dict[str, Tensor]]()

    def __call__(self, validator: Any, model: RocModel) -> dict[str, Any]:
        self.kept.append(copy.deepcopy(model.state_dict()))
        return {"micro_f1": self.scores[len(self.kept) - 1], "accuracy": 0.0, "per_relation": {}, "n": 1}


@pytest.mark.parametrize(
    ("scores", "best"), [((0.2, 0.9, 0.5), 2), ((0.0, 0.0, 0.0), 1), ((0.1, 0.5, 0.5), 2), ((0.1, 0.2, 0.3), 3)]
)
def test_the_validation_scores_choose_the_epoch_that_is_kept(
    scores: tuple[float, ...], best: int, inputs: Path, tmp_path: Path
) -> None:
    scripted = Scripted(*scores)
    assert main(arguments(inputs, tmp_path / "model", num_epochs=3), validate=scripted) == 0
    kept = scripted.kept
    saved = weights(tmp_path / "model")
    assert all(torch.equal(saved[name], tensor) for name, tensor in kept[best - 1].items())
    assert not all(torch.equal(saved[name], kept[best % 3][name]) for name in saved), "all epochs are alike"
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["best_epoch"] == best
    assert [epoch["val"]["micro_f1"] for epoch in metrics["history"]] == list(scores)


def test_validation_may_be_rarer_than_epochs(inputs: Path, tmp_path: Path) -> None:
    assert main(arguments(inputs, tmp_path / "model", num_epochs=5, epochs_per_validation=2)) == 0
    records = history(tmp_path / "model")
    assert [record["epoch"] for record in records if "val" in record] == [2, 4, 5]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [("1", (0.5, 0.4), 2), ("2", (0.5, 0.4, 0.6, 0.5, 0.6), 5), ("null", (0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 6)],
)
def test_training_stops_after_so_many_epochs_without_a_better_score(
    patience: str,
    scores: tuple[float, ...],
    epochs: int,
    inputs: Path,
    tmp_path: Path,
) -> None:
    options = {"num_epochs": 6, "batch_size": 12, "early_stopping_patience": patience}
    assert main(arguments(inputs, tmp_path / "model", **options), validate=Scripted(*scores)) == 0
    assert len(history(tmp_path / "model")) == epochs
