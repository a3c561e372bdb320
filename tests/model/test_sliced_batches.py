"""Launchers that cut a batch by its rows or join batches: pictures stay with their texts, or it is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from accelerate.utils import concatenate, slice_tensors
from posts import halves
from tiny import louder, picture_bytes, tiny_model, tiny_processor
from torch import Tensor

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor

COLOURS = ["red", "blue", "green", "yellow", "white", "black", "pink", "gray"]
PICTURES = [picture_bytes(halves(left, right)) for left, right in zip(COLOURS, COLOURS[1:] + COLOURS[:1])]
SHOWN = {
    "each its own": [0, 1, 2, 3, 4, 5, 6, 7],
    "one shared": [0, 1, 2, 0, 3, 4, 5, 6],
    "all the same": [0] * 8,
    "some without": [0, None, 1, None, None, 2, 3, 0],
    "the first half without": [None, None, None, None, 0, 1, 2, 3],
}
Rows = dict[str, Tensor]


@pytest.fixture(scope="module")
def processor() -> RocProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor: RocProcessor) -> RocModel:
    return louder(tiny_model(processor))


def batch_of(processor: RocProcessor, shown: Sequence[int | None]) -> Rows:
    """Posts of one length, so that nothing but pictures keeps batches from being joined."""
    return dict(
        processor(
            text=["ann met bob"] * len(shown),
            images=[None if number is None else PICTURES[number] for number in shown],
            entities=[[(0, 3), (8, 11)]] * len(shown),
            pairs=[[(0, 1)]] * len(shown),
        )
    )


def with_features(batch: Rows, model: RocModel) -> Rows:
    """The same batch with what a frozen vision encoder gives in the pictures' place."""
    features = torch.randn(len(batch["pixel_values"]), 4, 4, 32, generator=torch.Generator().manual_seed(0))
    return {name: tensor for name, tensor in batch.items() if name != "pixel_values"} | {"patch_features": features}


def scores(model: RocModel, batch: Rows) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


def scattered(batch: Rows, parts: int) -> list[Rows]:
    """What each of several replicas gets of `nn.DataParallel`, whose own function takes GPUs only."""
    chunks = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    return [dict(zip(chunks, own)) for own in zip(*chunks.values())]


CUTS: dict[str, Callable[[Rows], list[tuple[slice, Rows]]]] = {
    "dispatched to two": lambda batch: [(own, slice_tensors(batch, own)) for own in (slice(0, 4), slice(4, 8))],
    "dispatched to four": lambda batch: [
        (own, slice_tensors(batch, own)) for own in map(slice, (0, 2, 4, 6), (2, 4, 6, 8))
    ],
    "every other row": lambda batch: [(own, slice_tensors(batch, own)) for own in (slice(0, 8, 2), slice(1, 8, 2))],
    "nn.DataParallel": lambda batch: [(slice(4 * n, 4 * n + 4), own) for n, own in enumerate(scattered(batch, 2))],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("shown", SHOWN)
def test_no_cut_of_a_batch_shows_a_post_the_picture_of_another(
    model: RocModel, processor: RocProcessor, shown: str, cut: str
) -> None:
    pixels = batch_of(processor, SHOWN[shown])
    for batch in (pixels, with_features(pixels, model)):
        whole, refused = scores(model, batch), 0
        for rows, part in CUTS[cut](batch):
            try:
                found = scores(model, part)
            except ValueError as error:
                refused += "a batch cannot be sliced by rows" in str(error)
            else:
                torch.testing.assert_close(found, whole[rows], rtol=1e-4, atol=1e-4)
        assert refused  # an answer for some rows and none for the others would be one for fewer posts than were asked


def test_a_batch_without_pictures_may_be_cut_and_joined(model: RocModel, processor: RocProcessor) -> None:
    batch = batch_of(processor, [None] * 8)
    whole = scores(model, batch)
    for rows, part in CUTS["dispatched to two"](batch):
        torch.testing.assert_close(scores(model, part), whole[rows])
    joined = concatenate([batch, batch_of(processor, [None] * 3)])
    torch.testing.assert_close(scores(model, joined)[:8], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([0, 1, 2, 3], [4, 5, 6, 7]),
        ([0, 0, 1, 1], [2, 2, 3, 3]),
        ([0, 0, 1, 1], [0, 1, 1, 0]),
        ([None] * 4, [4, 5, 6, 7]),
        ([4, 5, 6, 7], [None] * 4),
        ([0, None, 1, 2], [3, 4, None, 5]),
    ],
)
def test_batches_with_pictures_cannot_be_joined(processor: RocProcessor, first: Any, second: Any) -> None:
    """Dispatching without `split_batches` joins one batch per process and cuts the result: the numbers would clash."""
    with pytest.raises((RuntimeError, KeyError), match=r"Sizes of tensors must match|pixel_values"):
        concatenate([batch_of(processor, first), batch_of(processor, second)])


def test_pictures_need_the_numbers_of_the_rows_that_show_them(model: RocModel, processor: RocProcessor) -> None:
    batch = batch_of(processor, [0, 1])
    del batch["image_index"]
    with pytest.raises(ValueError, match="2 pictures were given without image_index"):
        model(**batch)


def test_descriptions_that_were_cut_with_the_rows_are_refused(model: RocModel, processor: RocProcessor) -> None:
    tokens = processor.tokenize_descriptions([text for r in model.config.relations for text in r["descriptions"]])
    batch = batch_of(processor, [None] * 4) | {f"relation_{name}": tensor for name, tensor in tokens.items()}
    scores(model, batch)
    for rows in (slice(0, 2), slice(2, 4)):
        with pytest.raises(ValueError, match=r"relation_input_ids are 2 texts, but .* 5 descriptions"):
            model(**slice_tensors(batch, rows))
