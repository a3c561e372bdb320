"""Training against missing and misleading inputs: shares, what stays, whose labels change, training steps only."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import picture_bytes, tiny_model, tiny_picture, tiny_processor
from torch import Tensor

from roc.modeling_roc import RocModel, RocOutput
from roc.modeling_training_roc import drop_pictures, exchange_pictures, hide_tokens, labels_of_wrong_pictures
from roc.processing_entities_roc import Entity
from roc.processing_marking_roc import MAX_NAME_TOKENS
from roc.processing_roc import RocProcessor
from roc.samples.batching import SampleCollator
from roc.samples.grouping import Sample

BOX = {"bbox": (0.1, 0.1, 0.6, 0.9)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)


def test_a_share_of_the_pictures_is_left_out() -> None:
    index = torch.arange(4000) % 7
    dropped = drop_pictures(index, 0.25)
    assert (dropped == -1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dropped[dropped >= 0], index[dropped >= 0])


def test_a_share_of_the_samples_gets_another_picture_and_never_its_own() -> None:
    index = torch.arange(4000) % 3
    index[::10] = -1
    exchanged, is_wrong = exchange_pictures(index, 0.25)
    assert is_wrong[index >= 0].float().mean() == pytest.approx(0.25, abs=0.03)
    assert not is_wrong[index < 0].any()
    assert torch.equal(exchanged != index, is_wrong)
    assert set(exchanged[is_wrong & (index == 1)].tolist()) == {0, 2}


def test_one_picture_alone_cannot_be_exchanged() -> None:
    for index in (torch.tensor([0, 0, -1]), torch.tensor([-1, -1])):
        exchanged, is_wrong = exchange_pictures(index, 0.99)
        assert torch.equal(exchanged, index)
        assert not is_wrong.any()


def test_with_a_wrong_picture_pairs_with_an_object_have_no_relation_and_others_keep_theirs() -> None:
    labels = torch.tensor([[3, 2, -100], [3, 2, 1]])
    is_region = torch.tensor([[False, False, True], [False, False, True]])
    pairs = torch.tensor([[[0, 1], [0, 2], [1, 2]], [[0, 1], [2, 1], [1, 2]]])
    is_wrong = torch.tensor([True, False])
    assert labels_of_wrong_pictures(labels, is_wrong, is_region, pairs, 0).tolist() == [[3, 0, -100], [3, 2, 1]]
    ignored = labels_of_wrong_pictures(labels, is_wrong, is_region, pairs, None)
    assert ignored.tolist() == [[3, -100, -100], [3, 2, 1]]


def test_a_share_of_the_tokens_is_hidden_but_neither_the_first_nor_those_that_stay() -> None:
    mask = torch.ones(200, 40, dtype=torch.long)
    mask[:, 30:] = 0
    kept = torch.zeros_like(mask)
    kept[:, [5, 9, 35]] = 1  # the last of them is padding
    hidden = hide_tokens(mask, kept, 0.3)
    assert hidden[:, [0, 5, 9]].all()
    assert not hidden[:, 30:].any()
    others = [column for column in range(30) if column not in (0, 5, 9)]
    assert (hidden[:, others] == 0).float().mean() == pytest.approx(0.3, abs=0.03)


def encoded(processor: RocProcessor) -> dict[str, Tensor]:
    red, blue = (picture_bytes(tiny_picture(colour)) for colour in ("red", "blue"))
    entities = [[(0, 3), (8, 11), BOX], [(0, 3), (8, 11), BOX]]
    labels = [[1, 2], [3, 1]]
    pairs = [[(0, 1), (1, 2)]] * 2
    return dict(processor(["ann met bob today", "eve met ann"], [red, blue], entities, pairs, labels))


def run(processor: RocProcessor, batch: dict[str, Tensor], *, train: bool = True, **rates: float) -> RocOutput:
    """What the model gives with everything corrupted that these rates corrupt, and without dropout."""
    model = tiny_model(processor, dropout=0.0, **rates)
    for part in (model.text_model, model.vision_model):
        part.config.hidden_dropout_prob = part.config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train(train)(**batch)


ALMOST_ALWAYS = 1 - 1e-9


def test_without_its_picture_a_training_step_sees_the_text_alone() -> None:
    processor = tiny_processor()
    batch = encoded(processor)
    dropped = run(processor, batch, picture_dropout=ALMOST_ALWAYS)
    text_only = {**batch, "image_index": torch.tensor([-1, -1])}
    torch.testing.assert_close(dropped.logits, run(processor, text_only).logits)
    assert not torch.allclose(dropped.logits, run(processor, batch).logits)


def test_a_wrong_picture_is_the_other_one_with_the_labels_that_then_hold() -> None:
    processor = tiny_processor()
    batch = encoded(processor)
    exchanged = run(processor, batch, wrong_pictures=ALMOST_ALWAYS)
    by_hand = {**batch, "image_index": torch.tensor([1, 0]), "labels": torch.tensor([[1, 0], [3, 0]])}
    expected = run(processor, by_hand)
    torch.testing.assert_close(exchanged.logits, expected.logits)
    torch.testing.assert_close(exchanged.loss, expected.loss)


def test_hidden_tokens_change_what_a_training_step_reads() -> None:
    processor = tiny_processor()
    batch = encoded(processor)
    hidden = run(processor, batch, token_dropout=ALMOST_ALWAYS)
    kept = batch["marker_mask"].clone()
    kept[:, 0] = 1
    assert (kept < batch["attention_mask"]).any()
    torch.testing.assert_close(hidden.logits, run(processor, {**batch, "attention_mask": kept}).logits)


TYPED = [
    {"start": 0, "end": 3, "type": "person"},
    {"start": 8, "end": 11, "type": "location"},
    {"bbox": BOX["bbox"], "type": "object", "name": "a couple"},
]
MARKED = {
    "entities": "[CLS] [ENT] person ann [/ENT] met [ENT] location bob [/ENT] today [ENT] object a couple [/ENT] [SEP]",
    "pair": "[CLS] [HEAD] person ann [/HEAD] met bob today [TAIL] object a couple [/TAIL] [SEP]",
}


@pytest.mark.parametrize("markers", ["entities", "pair"])
def test_markers_and_the_types_in_them_stay_visible_and_the_text_does_not(markers: str) -> None:
    processor = tiny_processor(markers, object_names=True)
    picture = picture_bytes(tiny_picture("red"))
    batch = processor("ann met bob today", picture, TYPED, [(0, 2)], labels=[3])
    tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens == MARKED[markers].split()
    model = tiny_model(processor, token_dropout=ALMOST_ALWAYS).train()
    seen: list[Tensor] = []
    model.text_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["attention_mask"]), with_kwargs=True
    )
    model(**batch)
    visible = [token for token, is_seen in zip(tokens, seen[0][0].tolist(), strict=True) if is_seen]
    text = {"ann", "met", "bob", "today", "a", "couple", "[SEP]"}
    assert visible == [token for token in tokens if token not in text]


def test_markers_that_end_up_elsewhere_in_a_cut_text_are_known() -> None:
    processor = tiny_processor(vision=False, max_length=12)
    batch = processor("the the the the the the the ann met bob in paris today", entities=[(28, 31, "person"), (36, 39)])
    tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert batch["truncated"].all()
    marked = [token for token, is_marker in zip(tokens, batch["marker_mask"][0].tolist(), strict=True) if is_marker]
    assert marked == ["[ENT]", "person", "[/ENT]", "[ENT]", "[/ENT]"]


def test_a_long_type_of_an_object_is_no_more_than_what_is_read_of_it() -> None:
    wordy = {**TYPED[2], "type": " ".join(["the"] * 40)}
    processor = tiny_processor(object_names=True, entity_types=["person", wordy["type"]])
    batch = processor("ann met", picture_bytes(tiny_picture("red")), [TYPED[0], wordy], [(0, 1)])
    assert batch["marker_mask"].shape == batch["input_ids"].shape
    assert batch["marker_mask"].sum() == 3 + 2 + MAX_NAME_TOKENS


def test_without_its_markers_no_token_is_hidden() -> None:
    processor = tiny_processor()
    batch = encoded(processor)
    del batch["marker_mask"]
    with pytest.raises(ValueError, match=r"token_dropout=0\.5 needs marker_mask"):
        run(processor, batch, token_dropout=0.5)
    run(processor, batch)


@pytest.mark.parametrize("rate", ["picture_dropout", "wrong_pictures", "token_dropout"])
def test_inputs_are_corrupted_in_training_only(rate: str) -> None:
    processor = tiny_processor()
    batch = encoded(processor)
    evaluated = run(processor, batch, train=False, **{rate: 0.99})
    torch.testing.assert_close(evaluated.logits, run(processor, batch, train=False).logits)


def test_a_model_without_rates_draws_nothing(model: RocModel, processor: RocProcessor) -> None:
    """So that earlier runs can be repeated."""
    model.train()
    torch.manual_seed(3)
    model(**processor("ann met bob", entities=[(0, 3), (8, 11)], pairs=[(0, 1)], labels=[1]))
    after = torch.rand(1)
    model.config.token_dropout = 0.5
    torch.manual_seed(3)
    model(**processor("ann met bob", entities=[(0, 3), (8, 11)], pairs=[(0, 1)], labels=[1]))
    assert not torch.equal(after, torch.rand(1))


def test_a_share_of_the_types_is_another_one_or_none(processor: RocProcessor) -> None:
    collator = SampleCollator(processor, None, type_noise=0.4)
    sample = Sample("ann met bob", None, [Entity(0, 3, "person"), Entity(8, 11, ""), Entity(bbox=BOX["bbox"])])
    drawn = [collator._entities(replace(sample, row_ids=[str(number)])) for number in range(3000)]
    types = Counter(entities[0].type for entities in drawn)
    assert 1 - types["person"] / 3000 == pytest.approx(0.4, abs=0.04)
    assert set(types) == {"", *processor.entity_types}
    assert {entities[1:] for entities in map(tuple, drawn)} == {tuple(sample.entities[1:])}
    assert sample.entities[0].type == "person"


def test_wrong_types_depend_on_seed_epoch_and_sample_only(processor: RocProcessor) -> None:
    """So that a run that goes on from a checkpoint, or makes batches in other processes, sees the same."""
    samples = [Sample("ann met bob", None, [Entity(0, 3, "person")], row_ids=[str(n)]) for n in range(50)]

    def drawn(seed: int, epoch: int) -> list[str]:
        collator = SampleCollator(processor, None, type_noise=0.5, seed=seed)
        collator.set_epoch(epoch)
        return [collator._entities(sample)[0].type for sample in samples]

    first = drawn(1, 1)
    random.random()
    assert drawn(1, 1) == first
    assert first not in (drawn(2, 1), drawn(1, 2))
