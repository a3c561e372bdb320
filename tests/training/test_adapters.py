"""LoRA adapters: what is trained, what is saved, and that it loads everywhere as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from elsewhere import ENTITIES, TEXT, WITHOUT_ROC, run_elsewhere
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny_model, tiny_picture, tiny_processor
from torch import Tensor
from transformers import AutoModel

import roc.register  # noqa: F401  (AutoModel knows ROC)
from roc.inference.posts import load_model
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter
from roc.processing_roc import RocProcessor
from roc.training.adapters import add_lora, save_model, without_adapter
from roc.training.learner import parameter_groups
from roc.training.settings import RunConfig

PROCESSOR = tiny_processor()
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}
PROGRAM = """
import json, sys
import PIL.Image
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

folder, out, text, entities = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
processor = AutoProcessor.from_pretrained(folder, **options)
model = AutoModel.from_pretrained(folder, **options)
with torch.no_grad():
    logits = model(**processor(text=text, images=PIL.Image.new("RGB", (40, 24), "red"), entities=entities)).logits
save_file({"logits": logits}, out)
print(json.dumps({"roc": sys.modules.get("roc") is not None, "relations": model.config.relation_names}))
"""


def inputs(processor: RocProcessor = PROCESSOR, **more: Any) -> Any:
    return processor(text=TEXT, images=tiny_picture(size=(40, 24)), entities=ENTITIES, **more)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**inputs()).logits


def adapted(encoders: str = "both", **kwargs: Any) -> RocModel:
    model = tiny_model(PROCESSOR, **kwargs)
    add_lora(model, encoders=encoders, rank=4, alpha=8, marker_ids=PROCESSOR.marker_ids)
    return model


def trained(model: RocModel, *, steps: int = 3) -> RocModel:
    batch = inputs(pairs=[(0, 1), (0, 2)], labels=[2, 3])
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def learnt() -> RocModel:
    return trained(adapted())


@pytest.fixture(scope="module")
def folder(learnt: RocModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "adapted"
    save_model(learnt, folder)
    PROCESSOR.save_pretrained(folder)
    return folder


# --- what is trained ---------------------------------------------------------------------------------------------


def test_before_training_an_adapter_changes_nothing() -> None:
    torch.testing.assert_close(logits(adapted()), logits(tiny_model(PROCESSOR)), rtol=0, atol=0)


@pytest.mark.parametrize("encoders", ["text", "vision", "both"])
def test_the_adapter_and_what_joins_the_encoders_learn_and_adapted_encoders_keep_their_weights(encoders: str) -> None:
    model, start = adapted(encoders), tiny_model(PROCESSOR)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained(model, steps=2)  # the first leaves A as it was, because B starts at zero
    parts = {"text": ["text_model"], "vision": ["vision_model"], "both": ["text_model", "vision_model"]}[encoders]
    moved = {name for name, parameter in model.named_parameters() if (parameter != before[name]).any()}
    in_adapted = {name for name in moved if name.split(".")[0] in parts}
    assert all("lora_" in name or "trainable_tokens" in name for name in in_adapted), in_adapted
    assert len([name for name in in_adapted if "lora_" in name]) == 2 * len(parts) * 2 * 6, "A and B of 6 per layer"
    assert any("trainable_tokens" in name for name in moved) == ("text_model" in parts)
    others = {name for name, parameter in start.named_parameters() if parameter.requires_grad} - {
        name for name, _ in start.named_parameters() if name.split(".")[0] in parts
    }
    assert others <= moved
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_of_the_embeddings_only_the_markers_learn(learnt: RocModel) -> None:
    start, end = tiny_model(PROCESSOR), without_adapter(learnt, merge=True)
    changed = (end.get_input_embeddings().weight != start.get_input_embeddings().weight).any(dim=-1)
    assert changed.nonzero().flatten().tolist() == sorted(PROCESSOR.marker_ids)


def test_an_adapter_belongs_to_its_encoders_learning_rate_and_every_parameter_to_one_group() -> None:
    model = adapted()
    groups = parameter_groups(model, RunConfig(learning_rate=1.0, vision_learning_rate=2.0, head_learning_rate=3.0))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    expected = {"text_model": 1.0, "vision_model": 2.0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == expected.get(name.split(".")[0], 3.0), name


def test_a_frozen_part_gets_no_adapter() -> None:
    """The description encoder has linear layers of the same names."""
    names = {name for name, _ in adapted().named_parameters() if "lora_" in name}
    assert names
    assert not [name for name in names if name.startswith("relation_model")]


def test_activation_checkpointing_gives_the_same_gradients_through_an_adapter() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted(dropout=0.0)
        for encoder in (model.text_model, model.vision_model):
            for module in encoder.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model.train()
        model(**inputs(pairs=[(0, 1)], labels=[2])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


# --- what is saved -----------------------------------------------------------------------------------------------


def test_the_folder_is_a_whole_model_with_the_encoders_as_they_were_and_an_adapter_beside_it(
    folder: Path, tmp_path: Path
) -> None:
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", *ADAPTER_FILES}
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    start, saved = tiny_model(PROCESSOR).state_dict(), RocModel.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == start.keys()
    for name, tensor in saved.items():
        if name.startswith(("text_model", "vision_model")):
            torch.testing.assert_close(tensor, start[name], rtol=0, atol=0)
    adapter = load_file(folder / "adapter_model.safetensors")
    assert all("lora_" in name or "trainable_tokens" in name for name in adapter)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 4, 8)


def test_auto_model_and_roc_load_it_wherever_it_lies(folder: Path, learnt: RocModel, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    for model in (AutoModel.from_pretrained(moved), RocModel.from_pretrained(moved), load_model(str(moved))[0]):
        assert isinstance(model, RocModel)
        assert has_adapter(model)
        torch.testing.assert_close(logits(model), logits(learnt))


def test_peft_puts_the_adapter_on_a_model_without_it(folder: Path, learnt: RocModel) -> None:
    model = PeftModel.from_pretrained(without_adapter(learnt, merge=False), folder).eval()
    torch.testing.assert_close(logits(model), logits(learnt))
    torch.testing.assert_close(logits(model.merge_and_unload()), logits(learnt), rtol=1e-4, atol=1e-4)


def test_it_loads_in_a_process_without_roc(folder: Path, learnt: RocModel, tmp_path: Path) -> None:
    told, out = run_elsewhere(WITHOUT_ROC, folder, tmp_path, program=PROGRAM)
    torch.testing.assert_close(load_file(out)["logits"], logits(learnt), rtol=1e-5, atol=1e-5)
    assert told == {"roc": False, "relations": learnt.config.relation_names}


def test_a_loaded_adapter_leaves_everything_a_model_does_as_it_is(folder: Path) -> None:
    model, plain = RocModel.from_pretrained(folder), without_adapter(RocModel.from_pretrained(folder), merge=True)
    relations = [{"name": "visits", "descriptions": ["the head visits the tail"]}]
    batch = inputs(return_offsets_mapping=True)
    for each in (model, plain):
        each.set_relations(relations, PROCESSOR)
    ranked, expected = (each.rank_relations(each(**batch), batch["pair_mask"]) for each in (model, plain))
    assert [[entry["relation"] for entry in row] for row in ranked] == [["visits"]] * len(expected)
    explained, expected = (each.explain(batch, num_steps=4) for each in (model, plain))
    torch.testing.assert_close(explained.token_relevance, expected.token_relevance, rtol=1e-3, atol=1e-4)
    assert explained.patch_relevance is not None
    torch.testing.assert_close(explained.patch_relevance, expected.patch_relevance, rtol=1e-3, atol=1e-4)


def test_merged_it_is_a_plain_model_that_computes_the_same(learnt: RocModel, tmp_path: Path) -> None:
    expected = logits(learnt)
    save_model(learnt, tmp_path, merge_adapter=True)
    assert not {path.name for path in tmp_path.iterdir()} & ADAPTER_FILES
    merged = AutoModel.from_pretrained(tmp_path)
    assert not has_adapter(merged)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert (logits(merged) - logits(tiny_model(PROCESSOR))).abs().max() > 0.1, "training has changed nothing"
    torch.testing.assert_close(logits(learnt), expected, rtol=0, atol=0)  # saving leaves the model as it was


def test_a_model_without_an_adapter_is_saved_as_ever(tmp_path: Path) -> None:
    save_model(tiny_model(PROCESSOR), tmp_path)
    assert not {path.name for path in tmp_path.iterdir()} & ADAPTER_FILES
    torch.testing.assert_close(logits(RocModel.from_pretrained(tmp_path)), logits(tiny_model(PROCESSOR)))


def test_without_peft_an_adapter_is_refused_rather_than_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "roc.modeling_saving_roc",
        "transformers.integrations.peft",
        "transformers.models.auto.auto_factory",
    ):
        monkeypatch.setattr(f"{module}.is_peft_available", lambda: False)
    with pytest.raises(ImportError, match=r"has an adapter\. Type `pip install peft`"):
        AutoModel.from_pretrained(folder)


def test_the_adapter_of_a_loaded_model_is_merged_afterwards(folder: Path, learnt: RocModel, tmp_path: Path) -> None:
    save_model(load_model(str(folder))[0], tmp_path, merge_adapter=True)
    merged, told = AutoModel.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"]
    assert not has_adapter(merged)
    torch.testing.assert_close(logits(merged.eval()), logits(learnt), rtol=0, atol=1e-5)
