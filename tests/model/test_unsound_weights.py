"""Weights that are missing, superfluous, misshapen or not finite are refused by name, and never drawn at random."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_adapted_model, tiny_model, tiny_processor
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel

import roc.register  # noqa: F401
from roc.modeling_roc import RocModel

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain model, a classifier, and one with an adapter."""
    processor = tiny_processor(vision=False)
    models = {
        "plain": tiny_model(processor, vision=False),
        "classifier": tiny_model(processor, vision=False, head="classification"),
        "adapter": tiny_adapted_model(processor, vision=False),
    }
    folder = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: folder / name for name in models}


def weights_changed(file: str, change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / file)
        change(weights)
        save_file(weights, folder / file, metadata={"format": "pt"})

    return damage


def config_changed(**fields: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")

    return damage


def cut(name: str) -> Callable[[Path], None]:
    return weights_changed(WEIGHTS, lambda weights: weights.update({name: weights[name][1:].clone()}))


def truncated(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def index_elsewhere(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "stranger.safetensors")
    names = load_file(folder.parent / "stranger.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../stranger.safetensors")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index), encoding="utf-8")


def index_that_is_none(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text("[]", encoding="utf-8")


def lacks(name: str, file: str = WEIGHTS) -> Callable[[Path], None]:
    return weights_changed(file, lambda weights: [weights.pop(own) for own in [*weights] if own.startswith(name)])


def has_also(file: str) -> Callable[[Path], None]:
    return weights_changed(file, lambda weights: weights.update({"x": torch.ones(1)}))


def has(value: float, name: str, file: str = WEIGHTS) -> Callable[[Path], None]:
    def change(weights: dict[str, Tensor]) -> None:
        weights[next(own for own in weights if name in own)].view(-1)[:1].fill_(value)

    return weights_changed(file, change)


NAN, INFINITY = float("nan"), float("-inf")
FIRST_LAYER = "base_model.model.text_model.encoder.layer.0"
DAMAGES = {
    "a missing tensor": ("plain", lacks("fusion_norm.bias"), "no weights for fusion_norm.bias"),
    "a missing part": ("plain", lacks("text_model."), r"no weights for text_model.* and \d+ more"),
    "a missing bank": ("plain", lacks("relation_bank.features"), "relation_bank.features"),
    "a bank of before": ("plain", lacks("relation_bank.digests"), "relation_bank.digests"),
    "a classifier of before": ("classifier", lacks("relation_digests"), "relation_digests"),
    "a superfluous tensor": ("plain", has_also(WEIGHTS), "no place for: x"),
    "fewer layers": ("plain", config_changed(fusion_num_layers=0), "no place for: fusion_layers.0"),
    "more layers": ("plain", config_changed(fusion_num_layers=2), "no weights for fusion_layers.1"),
    "another shape": ("plain", cut("pair_projection.weight"), r"pair_projection.weight \(15, 32\)"),
    "another size": ("plain", config_changed(projection_dim=8), r"another shape .*pair_projection.bias"),
    "another head": ("plain", config_changed(head="classification"), "no weights for classifier"),
    "not a number": ("plain", has(NAN, "text_model.embeddings"), "not finite: text_model"),
    "infinity": ("plain", has(INFINITY, "pair_head.dense"), "not finite: pair_head.dense"),
    "a bank not finite": ("plain", has(NAN, "relation_bank.features"), "not finite: relation_bank"),
    "an adapter's missing tensor": ("adapter", lacks(FIRST_LAYER, ADAPTER), r"no weights for .*layer.0.*lora_A"),
    "an adapter's superfluous": ("adapter", has_also(ADAPTER), "no place for: x"),
    "an adapter not finite": ("adapter", has(NAN, "lora_B", ADAPTER), r"not finite: .*lora_B"),
    "beside an adapter": ("adapter", lacks("fusion_norm.bias"), "no weights for fusion_norm.bias"),
    "a truncated file": ("plain", truncated, "no safetensors, or not all of them"),
    "an index elsewhere": ("plain", index_elsewhere, "only files of its own folder are read"),
    "no index": ("plain", index_that_is_none, "is no index of weights"),
}


@pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}], ids=["plain", "ignoring"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_unsound_weights_are_refused_by_name(
    damage: str, options: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    kind, change, message = DAMAGES[damage]
    shutil.copytree(folders[kind], tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(ValueError, match=message) as caught:
        AutoModel.from_pretrained(tmp_path / "model", **options)
    assert len(str(caught.value)) < 600 + len(str(tmp_path))


def test_what_transformers_allows_on_purpose_still_works(folders: dict[str, Path]) -> None:
    model, info = RocModel.from_pretrained(folders["plain"], output_loading_info=True)
    assert not info["missing_keys"]
    assert RocModel.from_pretrained(folders["plain"], dtype=torch.float16).dtype == torch.float16
    assert RocModel.from_pretrained(folders["plain"], device_map="cpu").device.type == "cpu"
    assert isinstance(model, RocModel)


@pytest.mark.parametrize("damage", ["missing", "not finite"])
def test_a_pretrained_encoder_that_is_not_whole_is_refused(damage: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=40, **sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    RocModel.from_backbones(str(tmp_path), fusion_num_heads=2)  # without a pooler, which is not read
    name = "encoder.layer.0.output.dense.weight"
    (lacks(name) if damage == "missing" else has(NAN, name))(tmp_path)
    with pytest.raises(ValueError, match=rf"{'no weights for' if damage == 'missing' else 'not finite:'} {name}"):
        RocModel.from_backbones(str(tmp_path), fusion_num_heads=2)
