"""The real MNRE, where it is present: its seven pictures go the whole way, and no label reaches a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_processor

from roc.dataset_scripts.loading import load_dataset_splits
from roc.relations.files import read_relation_file
from roc.samples.batching import SampleCollator
from roc.samples.grouping import GroupedSamples

INVENTORY = read_relation_file("relations/mnre.yaml")


@pytest.fixture(scope="module")
def pictured(roc_data: Path, tmp_path_factory: pytest.TempPathFactory) -> GroupedSamples:
    """The instances of train and val whose picture is there."""
    import datasets

    cache = tmp_path_factory.mktemp("cache")
    splits = load_dataset_splits(
        "mnre", roc_data / "mnre", splits=["train", "val"], missing_images="skip", cache_dir=cache
    )
    return GroupedSamples(datasets.concatenate_datasets([splits["train"], splits["val"]]))


def test_the_seven_real_pictures_go_through_dataset_processor_model_and_a_training_step(
    pictured: GroupedSamples,
) -> None:
    processor = tiny_processor()
    model = tiny_model(processor, relations=INVENTORY.relations, none_relation="None").train()
    collator = SampleCollator(processor, INVENTORY.names)
    row_ids, batch = collator([pictured[number] for number in range(len(pictured))])
    assert len(row_ids) == 12
    assert len(batch["pixel_values"]) == 7, "seven pictures, each once"
    assert (batch["image_index"] >= 0).all()

    before = {name: parameter.detach().clone() for name, parameter in model.vision_model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert model(**batch).loss < loss
    assert all((parameter != before[name]).any() for name, parameter in model.vision_model.named_parameters())


def test_what_the_model_reads_is_the_same_whatever_the_labels_say(pictured: GroupedSamples) -> None:
    """Types, positions, regions and order come from text and spans alone."""
    collator = SampleCollator(tiny_processor(), None)
    items = [pictured[number] for number in range(len(pictured))]
    _, batch = collator(items)
    for sample, _ in items:
        sample.relations = ["None"] * len(sample.relations)
    _, relabelled = collator(items)
    assert batch.keys() == relabelled.keys()
    assert all(torch.equal(batch[name], relabelled[name]) for name in batch)
