"""One model out of several runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import tiny_adapted_model, tiny_model, tiny_processor
from tiny_runs import arguments, error_of, main, packaged_encoder, weights, write_inputs
from torch import Tensor, nn

import roc.score
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter
from roc.processing_roc import RocProcessor
from roc.publishing.card import write_model_card
from roc.publishing.small_checkpoints import save_small_checkpoint
from roc.training import averaging
from roc.training.adapters import without_adapter
from roc.training.averaging import average_models, mean_of_weights
from roc.training.settings import RunConfig, load_run_config

pytestmark = pytest.mark.usefixtures("fresh_state")


def train(inputs: Path, folder: Path, *flags: str, **changes: Any) -> Path:
    settings = {"vision_model": "null", "missing_images": "no_image", "max_steps": 2, "start_seed": 7}
    assert main(arguments(inputs, folder, *flags, **settings | changes)) == 0
    return folder


def average(models: Sequence[Path], output_dir: Path, *more: str) -> int:
    return averaging.main(["--models", *map(str, models), "--output_dir", str(output_dir), *more])


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one start with different seeds."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    return [train(inputs, inputs / "runs" / str(seed), seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def averaged(trained: list[Path]) -> Path:
    assert average(trained, trained[0].parent / "mean") == 0
    return trained[0].parent / "mean"


# --- weights -----------------------------------------------------------------------------------------------------


def test_the_mean_is_that_of_each_weight_and_leaves_whole_numbers_as_they_are() -> None:
    states = [{"a": torch.full((2,), float(value)), "n": torch.tensor([value])} for value in (1, 2, 6)]
    mean = mean_of_weights(states)
    assert mean["a"].tolist() == [3.0, 3.0]
    assert mean["a"].dtype == torch.float32
    assert mean["n"].tolist() == [1]


def test_the_mean_of_equal_models_is_that_model_bit_for_bit() -> None:
    state = nn.Linear(20, 30).state_dict()
    for name, tensor in mean_of_weights([state] * 3).items():
        assert torch.equal(tensor, state[name])


def test_models_with_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Model 2 has not the weights of the first, see b\."):
        mean_of_weights([{"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}])
    with pytest.raises(ValueError, match="Model 2 has not the weights of the first, see a"):
        mean_of_weights([{"a": torch.ones(1)}, {"a": torch.ones(2)}])


def test_adapters_are_joined_to_one_whose_correction_is_the_mean_of_theirs(tmp_path: Path) -> None:
    """The mean of the factors is another one, which this test would tell apart."""
    processor = tiny_processor(vision=False)
    merged: list[dict[str, Tensor]] = []
    for number in range(2):
        model = tiny_adapted_model(processor, vision=False)
        with torch.no_grad():
            for own in model.parameters():
                if own.requires_grad:
                    own.add_(torch.randn(own.shape, generator=torch.Generator().manual_seed(number)))
        model.save_pretrained(tmp_path / str(number))
        merged.append(without_adapter(model, merge=True).state_dict())
    folders = [tmp_path / "0", tmp_path / "1"]
    config = RunConfig(lora_rank=2, lora_alpha=4)
    model, config = average_models(folders, processor, config)
    assert (config.lora_rank, config.lora_alpha) == (4, 8)
    assert has_adapter(model)
    assert not model.training
    expected = mean_of_weights(merged)
    for name, tensor in without_adapter(model, merge=True).state_dict().items():
        if "relation_bank" not in name:  # its descriptions are encoded anew
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    factor = "text_model.encoder.layer.0.attention.self.query.lora_A.default.weight"
    assert model.state_dict()[factor].shape[0] == 4
    model.save_pretrained(tmp_path / "mean")
    again = RocModel.from_pretrained(tmp_path / "mean").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_descriptions_are_encoded_anew_by_an_encoder_that_was_trained(tmp_path: Path) -> None:
    processor = tiny_processor(vision=False)
    for seed in range(2):
        model = tiny_model(processor, vision=False, relation_config=None, seed=seed)
        model.save_pretrained(tmp_path / str(seed))
    model, _ = average_models([tmp_path / "0", tmp_path / "1"], processor, RunConfig())
    features = model.relation_bank.features.clone()
    model.set_relations(list(model.config.relations), processor, none_relation=model.config.none_relation)
    torch.testing.assert_close(features, model.relation_bank.features)
    models = [RocModel.from_pretrained(tmp_path / str(seed)) for seed in range(2)]
    assert not torch.allclose(features, sum(own.relation_bank.features for own in models) / 2)


# --- runs --------------------------------------------------------------------------------------------------------


def test_runs_of_one_start_seed_start_alike_and_go_on_otherwise(trained: list[Path], tmp_path: Path) -> None:
    """At a rate of next to nothing the weights are those of the start."""
    inputs, rates = trained[0].parents[1], {"learning_rate": 1e-30, "head_learning_rate": 1e-30}
    starts = [weights(train(inputs, tmp_path / str(seed), seed=seed, **rates)) for seed in (1, 2)]
    for name, tensor in starts[0].items():
        torch.testing.assert_close(tensor, starts[1][name], rtol=0, atol=1e-20, msg=name)
    other = weights(train(inputs, tmp_path / "other", seed=1, start_seed="null", **rates))
    assert not torch.equal(other["pair_head.dense.weight"], starts[0]["pair_head.dense.weight"])
    first, second = map(weights, trained)
    assert not torch.equal(first["pair_head.dense.weight"], second["pair_head.dense.weight"])


def test_the_folder_is_that_of_a_run_with_the_mean_of_the_weights_and_its_own_scores(
    averaged: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, mean = map(weights, [*trained, averaged])
    name = "text_model.encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)
    metrics, environment = (read(averaged, file) for file in ("metrics.json", "environment.json"))
    records = environment["averaged"]
    assert [own["seed"] for own in records] == [1, 2]
    assert [own["micro_f1"] for own in records] == [read(own, "metrics.json")["val"]["micro_f1"] for own in trained]
    assert all(len(own["sha256"]["model.safetensors"]) == 64 for own in records)
    assert metrics["seconds"] > sum(read(own, "metrics.json")["seconds"] for own in trained)
    assert load_run_config(str(averaged / "run_config.yaml")).output_dir == str(averaged)
    assert RocProcessor.from_pretrained(averaged).markers == "entities"
    data = ["--dataset", "jsonl", "--data_dir", str(trained[0].parents[1] / "data"), "--split", "val"]
    capsys.readouterr()
    assert roc.score.main(["--model", str(averaged), *data]) == 0
    assert json.loads(capsys.readouterr().out) == metrics["val"]


def test_one_line_tells_the_scores_and_what_was_averaged(
    trained: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert average(trained, tmp_path / "mean", "--data_dir", str(trained[0].parents[1] / "data")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["val"]["micro_f1"] == read(tmp_path / "mean", "metrics.json")["val"]["micro_f1"]
    assert [own["name"] for own in told["averaged"]] == [str(folder) for folder in trained]


def test_the_card_says_what_was_averaged(averaged: Path, tmp_path: Path) -> None:
    shutil.copytree(averaged, tmp_path / "model")
    card = write_model_card(tmp_path / "model", [averaged], repo_id="ann/mean").read_text(encoding="utf-8")
    assert "the mean of the weights of 2 runs" in card
    assert "by itself each scored" in card
    assert "seeds 1 and 2" in card
    assert "averaged [" not in card, "the record is among the versions"


def test_averaged_adapters_make_a_small_checkpoint(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    with packaged_encoder(inputs) as encoder:
        options = {"text_model": encoder, "lora_rank": 2, "lora_alpha": 4}
        runs = [train(inputs, tmp_path / str(seed), seed=seed, **options) for seed in (1, 2)]
        assert average(runs, tmp_path / "mean") == 0
        assert yaml.safe_load((tmp_path / "mean" / "run_config.yaml").read_text(encoding="utf-8"))["lora_rank"] == 4
        save_small_checkpoint(tmp_path / "mean", tmp_path / "small")
        small, whole = (
            without_adapter(RocModel.from_pretrained(tmp_path / name), merge=True).state_dict()
            for name in ("small", "mean")
        )
        for name, tensor in whole.items():
            torch.testing.assert_close(small[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


# --- refusals ----------------------------------------------------------------------------------------------------


def change(folder: Path, file: str, **values: Any) -> None:
    text = (folder / file).read_text(encoding="utf-8")
    content = (json.loads(text) if file.endswith(".json") else yaml.safe_load(text)) | values
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("run_config.yaml", {"start_seed": 8}, "started otherwise, see ['start_seed'] (7 and 8)"),
        ("run_config.yaml", {"text_model": "org/other"}, "started otherwise, see ['text_model']"),
        ("config.json", {"fusion_num_layers": 3}, "differ in architecture or relations, see ['fusion_num_layers']"),
        ("processor_config.json", {"max_length": 12}, "differ in processor, see ['max_length']"),
        ("tokenizer.json", {"version": "x"}, "have different tokenizers"),
    ],
)
def test_runs_that_have_no_mean_are_refused(
    file: str,
    values: dict[str, Any],
    message: str,
    trained: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained[1], tmp_path / "other")
    change(tmp_path / "other", file, **values)
    capsys.readouterr()
    assert average([trained[0], tmp_path / "other"], tmp_path / "mean") == 1
    assert message in error_of(capsys)
    assert not (tmp_path / "mean").exists()


def test_what_was_chosen_on_validation_may_differ(trained: list[Path], tmp_path: Path) -> None:
    shutil.copytree(trained[1], tmp_path / "other")
    change(tmp_path / "other", "config.json", none_threshold=0.1, probability_temperature=2.5)
    assert average([trained[0], tmp_path / "other"], tmp_path / "mean") == 0


def test_one_run_alone_a_folder_without_one_and_the_folder_of_one_are_refused(
    trained: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert average([trained[0], trained[0]], tmp_path / "mean") == 1
    assert "are not several runs. Give two or more, each once" in error_of(capsys)
    assert average([trained[0], tmp_path], tmp_path / "mean") == 1
    assert "Give folders of runs of train.py that have ended" in error_of(capsys)
    assert average(trained, trained[1], "--overwrite") == 1
    assert "is one of the runs. Choose another folder" in error_of(capsys)
    shutil.copytree(trained[0], tmp_path / "taken")
    assert average(trained, tmp_path / "taken") == 1
    assert "holds an earlier run. Choose another folder, or add --overwrite" in error_of(capsys)
