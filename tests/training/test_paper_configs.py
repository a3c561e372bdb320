"""The runs with the paper's backbones, stepped on tiny raw sets with tiny backbones in the place of the large ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from raw_sets import MORE_LABELS, mnre_instance, write_instances, write_more, write_picture
from safetensors.torch import load_file
from tiny import tiny_tokenizer
from tiny_runs import main
from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessorPil, ViTModel

from roc.training.settings import RUN_FILE, load_run_config

SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PAPER = {"text_model": "google-bert/bert-base-uncased", "vision_model": "google/vit-base-patch16-224-in21k"}
MNRE_RELATIONS = ["/per/loc/place_of_residence", "None"]


@pytest.fixture
def backbones(tmp_path: Path) -> dict[str, Path]:
    """Folders as the Hub has them, of a BERT and a ViT that are small and random."""
    text, vision = tmp_path / "bert", tmp_path / "vit"
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(text)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SIZE)).save_pretrained(text)
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SIZE)).save_pretrained(vision)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(vision)
    return {"text_model": text, "vision_model": vision}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    folders = {"more": tmp_path / "more", "mnre": tmp_path / "mnre"}
    write_more(folders["more"])
    for split in ("train", "val"):
        instances = [mnre_instance(img_id=f"{i}.jpg", relation=MNRE_RELATIONS[i % 2]) for i in range(3)]
        write_instances(folders["mnre"] / "txt" / f"ours_{split}.txt", instances)
        for instance in instances:
            write_picture(folders["mnre"] / "img_org" / split / instance["img_id"])
    return folders


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data cache outside the test, and no precision left from another run."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("name", ["more", "mnre"])
def test_the_shipped_settings_are_the_papers_backbones_and_what_comparable_systems_use(name: str) -> None:
    config = load_run_config(f"configs/{name}_bert_vit.yaml")
    assert {field: getattr(config, field) for field in PAPER} == PAPER
    assert (config.dataset, config.relations) == (name, f"relations/{name}.yaml")
    assert 1e-5 <= config.learning_rate <= 3e-5
    assert 1e-5 <= config.vision_learning_rate <= 3e-5
    assert 16 <= config.batch_size <= 32
    assert 8 <= config.num_epochs <= 30
    assert 0.06 <= config.warmup_ratio <= 0.1
    assert 80 <= config.max_length <= 128
    assert (config.weight_decay, config.mixed_precision, config.missing_images) == (0.01, "auto", "error")


@pytest.mark.parametrize("name", ["more", "mnre"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_run_steps_through_both_backbones_and_saves(
    name: str, precision: str, backbones: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        **backbones,
        "data_dir": data[name],
        "output_dir": tmp_path / "model",
        "entity_typer": "null",
        "mixed_precision": precision,
        "max_steps": 2,
        "num_workers": 0,
        "num_threads": 1,
    }
    arguments = [word for field, value in changes.items() for word in (f"--{field}", str(value))]
    assert main([f"configs/{name}_bert_vit.yaml", *arguments]) == 0

    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["history"][-1]["step"] == 2
    assert metrics["val"]["n"] == {"more": 1, "mnre": 3}[name]
    saved = load_run_config(str(tmp_path / "model" / RUN_FILE))
    assert (saved.learning_rate, saved.head_learning_rate, saved.num_epochs) == (2e-5, 1e-4, 15)
    trained = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
    for part, folder in (("text_model", backbones["text_model"]), ("vision_model", backbones["vision_model"])):
        before = load_file(folder / "model.safetensors")
        shared = {key: tensor for key, tensor in before.items() if f"{part}.{key}" in trained}
        assert len(shared) > 10
        moved = [key for key, tensor in shared.items() if not torch.equal(trained[f"{part}.{key}"], tensor)]
        assert len(moved) > len(shared) / 2, f"{part} was not trained"


def test_a_run_on_more_stops_where_a_label_is_not_described(
    backbones: dict[str, Path], data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {label.replace("present_in", "presents_in"): number for number, label in enumerate(MORE_LABELS)}
    (data["more"] / "rel2id.json").write_text(json.dumps(labels), encoding="utf-8")
    for path in (data["more"] / "txt").iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace("present_in", "presents_in"), encoding="utf-8")
    changes = {**backbones, "data_dir": data["more"], "output_dir": tmp_path / "model", "entity_typer": "null"}
    arguments = [word for field, value in changes.items() for word in (f"--{field}", str(value))]
    assert main(["configs/more_bert_vit.yaml", *arguments, "--dry_run"]) == 1
    assert "['/per/misc/presents_in'] are not in the inventory" in capsys.readouterr().err
