"""Weights elsewhere or of another type: offloaded, in half precision, under autocast or inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import attach_align_device_hook
from posts import LEFT, POSTS, SHARED_PICTURE, encode
from tiny import RELATIONS, louder, tiny_model, tiny_processor
from torch import Tensor

from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline
from roc.processing_roc import RocProcessor

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {"retrieval": {}, "classification": {"head": "classification"}}
VISITS = [
    {"name": name, "descriptions": [f"the head {name} the tail"]} for name in ("visits", "kissed", "met", "holds")
]


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


def build(processor: RocProcessor, kind: str = "retrieval") -> RocModel:
    return louder(tiny_model(processor, **KINDS[kind]))


def answers(model: RocModel, processor: RocProcessor) -> list[Tensor]:
    """Everything that a model tells: scores, ranks, features, explanations, and scores for other relations."""
    with torch.no_grad():
        output = model(**encode(processor, POSTS))
    given = {"text": "ann met bob", "images": SHARED_PICTURE, "entities": [(0, 3), (8, 11), LEFT]}
    explained = model.explain(processor(**given, return_offsets_mapping=True), num_steps=2)
    [found] = RocPipeline(model=model, processor=processor)([{"text": "ann met bob", "entities": ["ann", "bob"]}])
    numbers = [model.temperature, explained.score, *(entry["score"] for entry in found)]
    tensors = [output.logits, output.loss, explained.token_relevance, explained.patch_relevance, torch.tensor(numbers)]
    if model.config.head == "retrieval":
        pairs = encode(processor, [{**post, "labels": [0] * len(post["pairs"])} for post in POSTS])
        other = model.with_relations(VISITS, processor)
        with torch.no_grad():
            tensors += [model.get_pair_features(**pairs), model.get_relation_features(), other(**pairs).logits]
    return [tensor.detach().float() for tensor in tensors]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)


def on_disk(model: RocModel, folder: Path) -> None:
    disk_offload(model, str(folder), execution_device=CPU)


def dispatched(model: RocModel, folder: Path) -> None:
    """The last parts on the disk, as `device_map="auto"` has it where memory ends."""
    names = [name for name, _ in model.named_children()]
    places = {name: "cpu" if name == "text_model" else "disk" for name in sorted(names, key="text_model".__ne__)}
    kept = {name: "cpu" for name, _ in model.named_parameters() if "." not in name}
    dispatch_model(model, kept | places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize(
    ("kind", "offload"),
    [
        ("retrieval", lambda model, _: cpu_offload(model, CPU)),
        ("retrieval", dispatched),
        ("classification", on_disk),
    ],
)
def test_an_offloaded_model_answers_as_it_did(
    kind: str, offload: Callable[[RocModel, Path], Any], processor: RocProcessor, tmp_path: Path
) -> None:
    model = build(processor, kind)
    expected = answers(model, processor)
    offload(model, tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert_same(answers(model, processor), expected)


def owners(model: RocModel) -> Iterator[str]:
    """Names of ROC's own modules that hold weights or buffers; the encoders are Transformers' own."""
    for name, module in model.named_modules():
        is_own = name.split(".")[0] not in ("text_model", "vision_model", "relation_model")
        if name and is_own and ({*module._parameters} | {*module._buffers}):
            yield name


def test_no_weight_is_used_outside_the_call_of_the_module_that_holds_it(processor: RocProcessor) -> None:
    expected = answers(build(processor), processor)
    names = [*owners(build(processor))]
    assert {"modality_embeddings", "image_embeddings", "relation_bank", "pair_head.dense"} <= {*names}
    for name in names:
        model = build(processor)
        module = model.get_submodule(name)
        weights = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
        attach_align_device_hook(module, CPU, offload=True, weights_map=weights)
        assert module.has_vision if name == "image_embeddings" else True
        assert_same(answers(model, processor), expected)


def test_relations_that_are_offloaded_cannot_be_changed(processor: RocProcessor) -> None:
    model = cpu_offload(build(processor), CPU, offload_buffers=True)
    with torch.no_grad():
        expected = model(**encode(processor, POSTS)).logits
    with pytest.raises(ValueError, match=r"cannot be changed while their features are offloaded"):
        model.set_relations(VISITS, processor)
    with torch.no_grad():
        assert torch.equal(model(**encode(processor, POSTS)).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_precision_changes_scores_by_rounding_only(
    dtype: torch.dtype, processor: RocProcessor, tmp_path: Path
) -> None:
    model = build(processor)
    expected = answers(model, processor)
    model.save_pretrained(tmp_path)
    assert_same(answers(RocModel.from_pretrained(tmp_path, dtype=dtype).eval(), processor), expected, 0.15)
    assert_same(answers(model.to(dtype), processor), expected, 0.15)  # after calls
    assert_same(answers(model.to(torch.float32), processor), expected, 0.15)


def test_autocast_changes_scores_by_rounding_only(processor: RocProcessor) -> None:
    model = build(processor)
    expected = answers(model, processor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(answers(model, processor), expected, 0.15)


def test_inference_mode_around_everything_changes_nothing(processor: RocProcessor) -> None:
    model = build(processor)
    expected = answers(model, processor)
    with torch.inference_mode():
        assert_same(answers(model, processor), expected)
        model.set_relations(RELATIONS, processor, none_relation="None")
    model.train()(**encode(processor, POSTS)).loss.backward()  # with the relations that were encoded in that mode


def test_a_model_made_in_inference_mode_has_no_explanations(processor: RocProcessor) -> None:
    with torch.inference_mode():
        model = build(processor)
    batch = processor("ann met bob", entities=[(0, 3), (8, 11)])
    with pytest.raises(ValueError, match=r"needs gradients, but this model was made in torch.inference_mode"):
        model.explain(batch)


def test_a_pipeline_says_where_a_device_map_must_begin(processor: RocProcessor, tmp_path: Path) -> None:
    model = build(processor)
    model.save_pretrained(tmp_path)
    loaded = RocModel.from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "offloaded")
    with pytest.raises(ValueError, match="device_map begins with 'disk'"):
        RocPipeline(model=loaded, processor=processor)
