"""Boxes: the picture that they need, the rounding of detectors, and what is computed from them by quantised weights."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import pytest
import torch
from posts import LEFT, POSTS, SHARED_PICTURE, encode
from tiny import louder, picture_bytes, tiny_adapted_model, tiny_model, tiny_picture, tiny_processor
from torch import Tensor, nn

from roc.dataset_scripts.schema import check_row, object_entity, text_entity
from roc.inference.posts import predict
from roc.modeling_roc import RocModel
from roc.pipeline_roc import RocPipeline
from roc.processing_entities_roc import Entity, check_box
from roc.processing_roc import RocProcessor
from roc.samples.batching import SampleCollator
from roc.samples.grouping import Sample

TEXT = "ann holds"
BOX = {"bbox": [0.1, 0.2, 0.5, 0.75]}
HERE = r"is a box in a picture, but "


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor: RocProcessor) -> RocModel:
    return louder(tiny_model(processor))


def text_alone() -> tuple[RocModel, RocProcessor]:
    processor = tiny_processor(vision=False)
    return tiny_model(processor, vision=False), processor


def by_processor(model: RocModel, processor: RocProcessor) -> None:
    processor(TEXT, entities=[(0, 3), BOX])


def by_batch(model: RocModel, processor: RocProcessor) -> None:
    processor([TEXT] * 2, [None] * 2, [[(0, 3), (4, 9)], [(0, 3), BOX]], pairs=[[(0, 1)], []])


def by_pipeline(model: RocModel, processor: RocProcessor) -> None:
    RocPipeline(model=model, processor=processor)({"text": TEXT, "head": "ann", "tail": BOX})


def by_pipeline_without_a_pair(model: RocModel, processor: RocProcessor) -> None:
    RocPipeline(model=model, processor=processor)(
        [{"text": TEXT, "entities": ["ann", "holds"]}, {"text": TEXT, "entities": [BOX]}]
    )


def by_program(model: RocModel, processor: RocProcessor) -> None:
    predict(model, processor, TEXT, [{"start": 0, "end": 3}, BOX])


WAYS = [by_processor, by_batch, by_pipeline, by_pipeline_without_a_pair, by_program]


@pytest.mark.parametrize("way", WAYS)
def test_a_box_without_a_picture_is_refused_everywhere(way: Any, model: RocModel, processor: RocProcessor) -> None:
    with pytest.raises(ValueError, match=rf"entity \d {HERE}there is no picture. Give the picture, or leave"):
        way(model, processor)


@pytest.mark.parametrize("way", WAYS)
def test_a_box_is_refused_by_a_model_of_text_alone(way: Any) -> None:
    with pytest.raises(ValueError, match=rf"entity \d {HERE}this processor's model reads text only"):
        way(*text_alone())


def test_samples_whose_pictures_were_left_out_on_purpose_are_taken(processor: RocProcessor) -> None:
    """Ablations train and score on boxes without pictures; the builder has seen the picture."""
    entities = [Entity(0, 3, ""), Entity(type="", bbox=(0.1, 0.2, 0.5, 0.75))]
    sample = Sample(TEXT, None, entities, pairs=[(0, 1)], relations=["None"], row_ids=["1"])
    for own in (processor, tiny_processor(vision=False)):
        _, batch = SampleCollator(own, ["None"])([(sample, None)])
        assert batch["region_mask"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("given", "box"),
    [
        ((0, 0, 1.0000005, 1), (0, 0, 1, 1)),
        ((-1e-7, -5e-7, 0.5, 0.5), (0, 0, 0.5, 0.5)),
        (torch.tensor([0.1, 0.2, 1.0000001, 0.75]), (0.1, 0.2, 1, 0.75)),
        (torch.tensor([0.1, 0.2, 0.5, 0.75]).numpy(), (0.1, 0.2, 0.5, 0.75)),
    ],
)
def test_what_a_detector_s_rounding_puts_beyond_the_picture_is_its_edge(given: Any, box: Any) -> None:
    assert check_box(given, "here") == pytest.approx(box, abs=1e-7)
    assert all(0 <= side <= 1 for side in check_box(given, "here"))


@pytest.mark.parametrize(
    "bbox",
    [
        *((0, 0, 1.00001, 1), (-1e-5, 0, 1, 1), (1.0000002, 0, 1.0000005, 1), (-5e-7, 0, -1e-7, 1)),
        *((0.5, 0, 0.5 + 1e-9, 1), (0, 0.25, 1, 0.25 + 1e-10), (0, 0, 1e300, 1), (0, 0, 10**400, 1)),
        *({0.1: 0, 0.2: 0, 0.5: 0, 0.75: 0}, {0.1, 0.2, 0.5, 0.75}, (0, 0, float("inf"), 1), [[0, 0, 1, 1]]),
    ],
    ids=lambda given: str(given)[:30],
)
def test_a_box_that_is_none_after_rounding_is_refused_by_builder_and_processor(
    bbox: Any, processor: RocProcessor
) -> None:
    tail = {"name": "trophy", "start": None, "end": None, "type": "object", "bbox": bbox}
    head = text_entity(TEXT, 0, 3, entity_type="person")
    row = {"id": "1", "text": TEXT, "image": b"", "head": head, "tail": tail, "relation": "None"}
    with pytest.raises((ValueError, TypeError), match="bbox"):
        check_row(row, "here")
    with pytest.raises((ValueError, TypeError), match="bbox") as error:
        processor(TEXT, tiny_picture(), [(0, 3), {"bbox": bbox}])
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("format", ["torch", "numpy"])
def test_rows_in_another_format_are_posts(format: str, model: RocModel, processor: RocProcessor) -> None:
    head, tail = text_entity(TEXT, 0, 3, entity_type="person"), object_entity("trophy", BOX["bbox"])
    rows = datasets.Dataset.from_list([{"text": TEXT, "image": tiny_picture("red"), "head": head, "tail": tail}])
    pipe = RocPipeline(model=model, processor=processor)
    [[expected]], [[found]] = (pipe([*own]) for own in (rows, rows.with_format(format)))
    assert found["head_span"] == [0, 3]
    assert found["tail_box"] == pytest.approx(expected["tail_box"], abs=1e-6)
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_a_span_in_tensors_is_a_span_and_a_truth_value_is_none(processor: RocProcessor) -> None:
    batch = processor(
        TEXT, entities=[torch.tensor([0, 3]).unbind(), {"start": torch.tensor(4), "end": torch.tensor(9)}]
    )
    assert torch.equal(batch["input_ids"], processor(TEXT, entities=[(0, 3), (4, 9)])["input_ids"])
    for end in (torch.tensor(3.0), torch.tensor([3]), torch.tensor(True)):
        with pytest.raises(TypeError, match="start and end must be integers"):
            processor(TEXT, entities=[(0, end), (4, 9)])


# --- quantised weights


class EightBit(nn.Linear):
    """A linear layer as bitsandbytes and others have it: whole numbers, and the step between them."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.step = layer.weight.detach().abs().amax() / 127
        self.weight = nn.Parameter((layer.weight.detach() / self.step).round().to(torch.int8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, given: Tensor) -> Tensor:
        assert given.is_floating_point()
        return nn.functional.linear(given, self.weight * self.step, self.bias)


def eight_bit(model: RocModel) -> RocModel:
    for module in [*model.modules()]:
        for name, layer in [*module.named_children()]:
            if type(layer) is nn.Linear:
                setattr(module, name, EightBit(layer))
    return model


def dynamic(model: RocModel) -> RocModel:
    quantization = importlib.import_module("torch.ao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("quantise", [eight_bit, dynamic])
def test_quantised_weights_read_boxes(quantise: Callable[[RocModel], RocModel], processor: RocProcessor) -> None:
    batch = encode(processor, POSTS)
    moved = {**batch, "region_boxes": batch["region_boxes"] * 0.4}
    plain = louder(tiny_model(processor))
    quantised = quantise(louder(tiny_model(processor)))
    with torch.no_grad():
        expected, far = plain(**batch).logits, plain(**moved).logits
        assert (expected - far).abs().max() > 1
        torch.testing.assert_close(quantised(**batch).logits, expected, rtol=0.1, atol=0.5)
        torch.testing.assert_close(quantised(**moved).logits, far, rtol=0.1, atol=0.5)


def test_an_adapter_around_quantised_layers_is_refused(processor: RocProcessor) -> None:
    model = torch.ao.quantization.quantize_dynamic(tiny_adapted_model(processor), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="Merge it before you quantise"):
        model(**processor("ann met bob", entities=[(0, 3), (8, 11)]))


def test_what_pytorch_quantised_has_no_explanations(processor: RocProcessor) -> None:
    model = dynamic(tiny_model(processor))
    batch = processor(TEXT, SHARED_PICTURE, [(0, 3), LEFT])
    with pytest.raises(ValueError, match="needs gradients, which layers that PyTorch has quantised do not give"):
        model.explain(batch)


def test_pictures_given_as_tensors_are_those_of_their_files(processor: RocProcessor) -> None:
    picture = tiny_picture((200, 30, 90))
    pixels = torch.tensor(picture.getdata(), dtype=torch.uint8).view(24, 40, 3)
    expected = processor(TEXT, picture_bytes(picture), [(0, 3), (4, 9)])["pixel_values"]
    for given in (pixels, pixels.permute(2, 0, 1), pixels.numpy(), pixels / 255, pixels.int()):
        found = processor(TEXT, given, [(0, 3), (4, 9)])
        assert "patch_features" not in found
        torch.testing.assert_close(found["pixel_values"], expected)
