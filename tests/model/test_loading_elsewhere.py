"""What is saved loads in another process, in another folder, where `roc` is not installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from elsewhere import ENTITIES, OTHER_RELATIONS, TEXT, WITH_ROC, WITHOUT_ROC, run_elsewhere
from safetensors.torch import load_file, save_file
from tiny import RELATIONS, tiny_adapted_model, tiny_model, tiny_picture, tiny_processor

from roc.pipeline_roc import RocPipeline

ROOT = Path(__file__).resolve().parents[2]

EDIT_AND_SEARCH = """
import json, sys
import torch
from transformers import AutoModel, AutoProcessor

folder, out, text, entities, relations = sys.argv[1], sys.argv[2], sys.argv[3], *map(json.loads, sys.argv[4:])
torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(folder, **options)
model = AutoModel.from_pretrained(folder, **options)
model.add_relations(relations, processor)
model.save_relations(out)
model.save_pretrained(out + "-edited")
model = AutoModel.from_pretrained(out + "-edited", **options)
inputs = processor(text=text, entities=entities, pictures_left_out=True)
with torch.no_grad():
    pairs = model(**inputs).pair_embeds[inputs["pair_mask"].bool()]
edited = [model.index_relations(exact=exact).search(pairs, top_k=5).names for exact in (None, False)]
model.remove_relations([relations[0]["name"]])
model.load_relations(out, processor)
print(json.dumps({"edited": edited, "loaded": model.index_relations().search(pairs, top_k=5).names}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training writes it: model and processor."""
    folder = tmp_path_factory.mktemp("hub") / "a-model.v1"  # a name that is no Python module
    processor = tiny_processor(max_length=100)
    tiny_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def expected_logits() -> dict[str, torch.Tensor]:
    processor = tiny_processor(max_length=100)
    model = tiny_model(processor)
    inputs = processor(text=TEXT, images=tiny_picture(size=(40, 24)), entities=ENTITIES)
    with torch.no_grad():
        logits = model(**inputs).logits
        model.set_relations(OTHER_RELATIONS, processor)
        return {"logits": logits, "other": model(**inputs).logits}


@pytest.mark.parametrize("start", [WITHOUT_ROC, WITH_ROC], ids=["without roc", "with roc.register"])
def test_a_saved_model_gives_the_same_logits_elsewhere(start: str, saved: Path, tmp_path: Path) -> None:
    told, out = run_elsewhere(start, saved, tmp_path)
    assert told["relations"] == [relation["name"] for relation in RELATIONS]
    assert told["markers"] == "entities"
    installed = start == WITH_ROC
    assert told["roc"] == installed
    assert told["module"].startswith("roc." if installed else "transformers_modules.")
    logits = load_file(out)
    for name, expected in expected_logits().items():
        torch.testing.assert_close(logits[name], expected, rtol=1e-5, atol=1e-5)
    again = out.with_name(out.name + "-again")
    assert {path.name for path in again.iterdir()} >= {path.name for path in saved.iterdir()}, "code was left behind"


def test_relations_are_edited_searched_saved_and_loaded_elsewhere(tmp_path: Path) -> None:
    processor = tiny_processor(max_length=100)
    model = tiny_adapted_model(processor)
    RocPipeline(model=model, processor=processor, device="cpu").save_pretrained(tmp_path / "saved")
    told, _ = run_elsewhere(WITHOUT_ROC, tmp_path / "saved", tmp_path, program=EDIT_AND_SEARCH)
    model.add_relations(OTHER_RELATIONS, processor)
    inputs = processor(text=TEXT, entities=ENTITIES, pictures_left_out=True)
    with torch.no_grad():
        ranked = model.rank_relations(model(**inputs), inputs["pair_mask"], top_k=5)
    names = [[found["relation"] for found in row] for row in ranked]
    assert told == {"edited": [names, names], "loaded": names}


def test_a_saved_folder_holds_safetensors_settings_tokenizer_and_code_only(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    code = {name for name in names if name.endswith("_roc.py")}
    assert code == {path.name for path in ROOT.glob("*_roc.py")}
    assert names - code == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_copied_code_imports_nothing_of_the_package_by_its_name(saved: Path) -> None:
    for path in saved.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("import roc", "from roc"))], path.name


def test_settings_name_the_code_to_load(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "roc"
    assert config["architectures"] == ["RocModel"]
    assert config["auto_map"] == {"AutoConfig": "configuration_roc.RocConfig", "AutoModel": "modeling_roc.RocModel"}
    processor = json.loads((saved / "processor_config.json").read_text(encoding="utf-8"))
    assert processor["auto_map"] == {"AutoProcessor": "processing_roc.RocProcessor"}


def test_a_folder_without_safetensors_is_refused(saved: Path, tmp_path: Path) -> None:
    from roc.modeling_roc import RocModel

    for path in saved.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(saved / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        RocModel.from_pretrained(tmp_path, use_safetensors=True)


def test_a_checkpoint_with_another_number_of_descriptions_is_refused(saved: Path, tmp_path: Path) -> None:
    from roc.modeling_roc import RocModel

    for path in saved.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(saved / "model.safetensors")
    tensors["relation_bank.features"] = tensors["relation_bank.features"][1:].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another shape .*relation_bank.features \(4, 32\) for \(5, 32\)"):
        RocModel.from_pretrained(tmp_path)
