"""The transformations of `benchmarks/grounding.py`: they change what they name, and nothing else."""

from __future__ import annotations

import datasets
import pytest
import torch

from roc.benchmarks.grounding import by_kind, kinds_of_pairs, shuffle_boxes, swap_pictures, with_samples
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.scenes import generate_examples
from roc.evaluation.predictions import Predictions
from roc.samples.grouping import GroupedSamples


@pytest.fixture(scope="module")
def kinds():
    return {example.row["id"]: example.evidence.kind for example in generate_examples(96, 13)}


@pytest.fixture(scope="module")
def samples() -> GroupedSamples:
    rows = [example.row for example in generate_examples(96, 13)]
    return GroupedSamples(datasets.Dataset.from_list(rows, features=FEATURES))


def test_each_object_gets_the_box_of_another_object_of_its_picture(samples):
    for before, after in zip(samples.samples, shuffle_boxes(samples.samples, 0), strict=True):
        boxes = [[entity.bbox for entity in sample.entities] for sample in (before, after)]
        assert sorted(boxes[0], key=str) == sorted(boxes[1], key=str)
        assert all((old is None and new is None) or old != new for old, new in zip(*boxes, strict=True))
        assert (after.text, after.image_row, after.pairs, after.relations) == (
            *(before.text, before.image_row, before.pairs),
            before.relations,
        )


def test_each_text_gets_the_picture_of_another_text_of_its_kind(samples, kinds):
    owner = {sample.image_row: sample for sample in samples.samples}
    for before, after in zip(samples.samples, swap_pictures(samples.samples, kinds, 0), strict=True):
        other = owner[after.image_row]
        assert other.text != before.text
        assert kinds[other.row_ids[0]] == kinds[before.row_ids[0]]
        assert (after.text, after.entities, after.pairs) == (before.text, before.entities, before.pairs)


def test_a_single_text_has_no_other_picture(samples, kinds):
    with pytest.raises(ValueError, match="one text only of the kind 'text-object'"):
        swap_pictures(samples.samples[:6], kinds, 0)


def test_the_given_samples_stay_as_they_are(samples):
    before = samples[0]
    changed = with_samples(samples, shuffle_boxes(samples.samples, 0)[:1])
    assert len(changed) == 1
    assert changed[0][0].entities != samples[0][0].entities
    assert samples[0] == before
    assert len(samples) == 96


def test_shares_are_counted_per_kind(kinds):
    of_kind = {"text-object": [], "text-text": [], "misleading": []}
    for row_id, kind in kinds.items():
        of_kind[kind].append(row_id)
    row_ids = [*of_kind["text-object"][:2], of_kind["text-text"][0]]
    predictions = Predictions(row_ids, ["player", "coach", "none"], ["player", "none", "none"], torch.zeros(3, 1))
    assert by_kind(predictions, kinds, "none") == {
        "text-object": {"pairs": 2, "accuracy": 0.5, "none_share": 0.5},
        "text-text": {"pairs": 1, "accuracy": 1.0, "none_share": 1.0},
    }


def test_a_pair_with_an_object_is_of_another_kind_than_one_without(samples, kinds):
    found = kinds_of_pairs(samples.samples)
    assert found.keys() == {row_id for sample in samples.samples for row_id in sample.row_ids}
    for row_id, kind in found.items():
        assert kind == ("text-object" if kinds[row_id] == "text-object" else "text-text")
