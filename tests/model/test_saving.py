"""What is saved is whole: model, processor and pipeline load again with the same answers and settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from elsewhere import WITHOUT_ROC, printed_by
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file
from tiny import RELATIONS, louder, tiny_adapted_model, tiny_model, tiny_processor
from transformers import AutoModel, pipeline

import roc.register  # noqa: F401
from roc.modeling_roc import RocModel
from roc.modeling_saving_roc import has_adapter
from roc.pipeline_roc import RocPipeline
from roc.processing_roc import RocProcessor
from roc.training.adapters import without_adapter

TASK = "multimodal-relation-extraction"
VISITS = {"name": "visits", "descriptions": ["the head visits the tail", "the head met the tail"]}
POST = {"text": "ann kissed bob in paris", "entities": [{"start": 0, "end": 3}, {"start": 11, "end": 14}]}
NAMES = [relation["name"] for relation in RELATIONS]


KINDS: dict[str, Callable[[RocProcessor], RocModel]] = {
    "full": lambda processor: louder(tiny_model(processor)),
    "text only": lambda processor: louder(tiny_model(processor, vision=False)),
    "classifier": lambda processor: louder(tiny_model(processor, head="classification")),
    "shared encoder": lambda processor: louder(tiny_model(processor, relation_config=None)),
    "half precision": lambda processor: tiny_model(processor).to(torch.bfloat16),
    "adapter": tiny_adapted_model,
    "adapter on both": lambda processor: tiny_adapted_model(processor, "both"),
    "classifier's adapter": lambda processor: tiny_adapted_model(processor, head="classification"),
}


def change_settings(model: RocModel) -> None:
    """Give a model settings that are not the defaults."""
    model.config.probability_temperature, model.config.none_threshold = 1.7, 0.25
    model.config.type_constraints, model.config.type_penalty = "soft", 2.5


def answers(model: RocModel, processor: RocProcessor) -> list[Any]:
    """Everything that has to be the same: logits, ranked relations and settings."""
    batch = processor(POST["text"], entities=POST["entities"])
    with torch.no_grad():
        output = model(**batch)
    kept = {
        name: getattr(model.config, name) for name in ("none_relation", "none_threshold", "probability_temperature")
    }
    ranked = RocPipeline(model=model, processor=processor, device="cpu")(POST, top_k=9)
    processing = {name: getattr(processor, name) for name in ("markers", "max_length", "max_regions", "entity_types")}
    settings = [kept, model.config.relations, processing, len(processor.tokenizer)]
    return [output.logits.float().tolist(), ranked, model.temperature, settings]


def agree(given: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return given == pytest.approx(expected, abs=1e-4)
    if isinstance(expected, dict):
        return given.keys() == expected.keys() and all(agree(given[key], own) for key, own in expected.items())
    if isinstance(expected, (list, tuple)):
        return len(given) == len(expected) and all(map(agree, given, expected))
    return given == expected


@pytest.fixture(scope="module")
def saved_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Any]]]:
    """A folder of each kind, as its pipeline saves it, and what it has to answer."""
    kinds = {}
    for number, (kind, build) in enumerate(KINDS.items()):
        processor = tiny_processor(max_length=40, max_regions=3)
        model = build(processor).eval()
        change_settings(model)
        folder = tmp_path_factory.mktemp("saved") / f"kind-{number}"
        RocPipeline(model=model, processor=processor, device="cpu").save_pretrained(folder)
        kinds[kind] = (folder, answers(model, processor))
    return kinds


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_pipeline_loads_as_it_was(kind: str, saved_kinds: Any) -> None:
    folder, expected = saved_kinds[kind]
    loaded = pipeline(TASK, model=str(folder), device="cpu")
    assert agree(answers(loaded.model, loaded.processor), expected)
    assert agree(answers(RocModel.from_pretrained(folder), RocProcessor.from_pretrained(folder)), expected)
    assert has_adapter(loaded.model) == ("adapter" in kind)


@pytest.mark.slow
def test_every_kind_loads_where_roc_is_not_installed(saved_kinds: Any, tmp_path: Path) -> None:
    program = """
import json, sys, torch
from transformers import pipeline
torch.set_num_threads(1)
post, found = json.loads(sys.argv[1]), []
for folder in sys.argv[2:]:
    pipe = pipeline("multimodal-relation-extraction", model=folder, device="cpu", **options)
    batch = pipe.processor(post["text"], entities=post["entities"])
    with torch.no_grad():
        logits = pipe.model(**batch).logits.float().tolist()
    found.append([logits, pipe(post, top_k=9)])
print(json.dumps(found))
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    given = [json.dumps(POST), *(str(folder) for folder, _ in saved_kinds.values())]
    found = json.loads(printed_by(WITHOUT_ROC + program, given, environment, tmp_path).splitlines()[-1])
    for (kind, (_, expected)), own in zip(saved_kinds.items(), found, strict=True):
        assert agree(own, expected[:2]), kind


EDITS: dict[str, Callable[[RocModel, RocProcessor, Path], Any]] = {
    "set": lambda model, processor, file: model.set_relations([VISITS, RELATIONS[1]], processor),
    "added": lambda model, processor, file: model.add_relations([VISITS], processor),
    "reworded": lambda model, processor, file: model.update_relations(
        [{**RELATIONS[1], "descriptions": ["they met"]}], processor
    ),
    "removed": lambda model, processor, file: model.remove_relations(NAMES[:2]),
    "another order": lambda model, processor, file: model.subset_relations(NAMES[::-1]),
    "loaded": lambda model, processor, file: model.load_relations(file, processor),
}


@pytest.mark.parametrize(
    ("kind", "edit"), [("shared encoder", "set"), ("full", "added"), *(("adapter", own) for own in EDITS)]
)
def test_edited_relations_are_saved_too(kind: str, edit: str, tmp_path: Path) -> None:
    processor = tiny_processor()
    model, other = (KINDS[kind](processor).eval() for _ in range(2))
    other.set_relations([VISITS, *RELATIONS[::-1]], processor)
    other.save_relations(tmp_path / "relations.safetensors")
    EDITS[edit](model, processor, tmp_path / "relations.safetensors")
    model.save_pretrained(tmp_path / "model")
    assert agree(answers(AutoModel.from_pretrained(tmp_path / "model"), processor), answers(model, processor))


@pytest.mark.parametrize(
    ("first", "second"),
    [("adapter", "plain"), ("plain", "sharded"), ("sharded", "adapter")],
)
def test_nothing_of_an_earlier_model_in_a_folder_is_read(first: str, second: str, tmp_path: Path) -> None:
    processor = tiny_processor()
    for name in (first, second):
        build = tiny_adapted_model if name == "adapter" else tiny_model
        model = build(processor, seed=3 if name == second else 0).eval()
        model.save_pretrained(tmp_path, max_shard_size="50KB" if name == "sharded" else "50GB")
    loaded = RocModel.from_pretrained(tmp_path)
    assert agree(answers(loaded, processor), answers(model, processor))
    assert has_adapter(loaded) == has_adapter(model)


@pytest.mark.parametrize(
    "options", [{"save_peft_format": False}, {"state_dict": None}, {"max_shard_size": "200KB"}], ids=str
)
def test_a_model_with_an_adapter_is_whole_with_every_option(options: dict[str, Any], tmp_path: Path) -> None:
    processor = tiny_processor()
    model = tiny_adapted_model(processor).eval()
    given = {"state_dict": model.state_dict()} if "state_dict" in options else options
    model.save_pretrained(tmp_path, **given)
    assert agree(answers(RocModel.from_pretrained(tmp_path), processor), answers(model, processor))
    again = RocModel.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert agree(answers(AutoModel.from_pretrained(tmp_path / "again"), processor), answers(model, processor))


def test_saving_changes_nothing_of_a_model_with_an_adapter(tmp_path: Path) -> None:
    processor = tiny_processor(vision=False)
    model = tiny_adapted_model(processor, vision=False)
    before, trained = answers(model.eval(), processor), [own.requires_grad for own in model.parameters()]
    model.save_pretrained(tmp_path)
    assert agree(answers(model, processor), before)
    assert [own.requires_grad for own in model.parameters()] == trained
    plain = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(plain, {**without_adapter(model, merge=False).state_dict()})


def switched_off(model: RocModel) -> None:
    model.disable_adapters()


def merged(model: RocModel) -> None:
    next(own for own in model.modules() if hasattr(own, "merge")).merge()


@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(target_modules=["query"], use_dora=True),
        LoraConfig(target_modules=".*query"),
        LoraConfig(target_modules=["query"], rank_pattern={"query": 3}),
        IA3Config(target_modules=["query", "output.dense"], feedforward_modules=["output.dense"]),
    ],
    ids=["DoRA", "pattern", "ranks", "IA3"],
)
def test_an_adapter_that_is_not_loaded_is_not_saved_either(settings: Any, tmp_path: Path) -> None:
    model = tiny_model(tiny_processor())
    model.add_adapter(settings)
    with pytest.raises(ValueError, match="ROC's"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [switched_off, merged])
def test_an_adapter_that_would_come_back_otherwise_is_not_saved(change: Any, tmp_path: Path) -> None:
    model = tiny_adapted_model(tiny_processor())
    change(model)
    with pytest.raises(ValueError, match="adapter is merged into the weights or switched off"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    processor = tiny_processor()
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model(processor), {torch.nn.Linear})
    with pytest.raises(ValueError, match="quantised cannot be saved"):
        quantised.save_pretrained(tmp_path)
    for method, packed, message in (("torchao", False, "read this model's folder back"), ("bnb", True, "has packed")):
        model = tiny_model(processor)
        config = SimpleNamespace(quant_method=SimpleNamespace(value=method))
        model.hf_quantizer = SimpleNamespace(quantization_config=config)
        model.pair_projection.weight.quant_state = SimpleNamespace(packing_format_for_cpu=packed)
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(tmp_path)
    wrapped = tiny_model(processor)
    wrapped.pair_projection = torch.nn.Sequential(wrapped.pair_projection)
    with pytest.raises(ValueError, match=r"place for: pair_projection\.0\.bias"):
        wrapped.save_pretrained(tmp_path)
    edited = tiny_model(processor)
    edited.config.relations[1]["descriptions"][0] = "the head met the tail"
    with pytest.raises(ValueError, match="'/per/per/couple'"):
        edited.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match="is a file"):
        tiny_model(processor).save_pretrained(tmp_path / "file")
