"""A few rows as samples, and a run on them whose parts tests call one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from accelerate import Accelerator
from tiny import RELATIONS, picture_bytes, tiny_picture
from tiny_runs import NAMES

from roc.configuration_fields_roc import ModelSettings
from roc.dataset_scripts.features import FEATURES
from roc.dataset_scripts.schema import object_entity, text_entity
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory
from roc.relations_roc import normalise_relations
from roc.samples.grouping import GroupedSamples
from roc.training.building import load_samples
from roc.training.loop import TrainingRun
from roc.training.settings import RunConfig
from roc.training.sources import RunData, Source


def row(row_id: str, text: str, head: str, tail: str, relation: str, image: bytes | None = None) -> dict[str, Any]:
    def entity(name: str) -> dict[str, Any]:
        if name == "thing":
            return object_entity("thing", [0.1, 0.2, 0.6, 0.9])
        return text_entity(text, text.index(name), text.index(name) + len(name), entity_type="person")

    picture = None if image is None else {"bytes": image, "path": None}
    return {
        "id": row_id,
        "text": text,
        "image": picture,
        "head": entity(head),
        "tail": entity(tail),
        "relation": relation,
    }


RED = picture_bytes(tiny_picture("red"))
ROWS = [
    row("0", "ann met bob in paris", "ann", "bob", NAMES[1], RED),
    row("1", "ann met bob in paris", "bob", "ann", NAMES[1], RED),
    row("2", "ann met bob in paris", "ann", "paris", NAMES[2], RED),
    row("3", "ann met bob in paris", "ann", "thing", NAMES[3], RED),
    row("4", "eve visits berlin today with ann and bob and the two of them", "eve", "berlin", NAMES[2]),
    row("5", "bob met eve", "bob", "eve", NAMES[0]),
    row("6", "bob holds a", "bob", "thing", NAMES[3], RED),
    row("7", "paris and berlin", "paris", "berlin", NAMES[0]),
]


def grouped(rows: Sequence[Mapping[str, Any]], **options: Any) -> GroupedSamples:
    columns = {name: [entry[name] for entry in rows] for name in FEATURES}
    return GroupedSamples(datasets.Dataset.from_dict(columns, features=FEATURES), **options)


def training_run(model: RocModel, processor: RocProcessor, rows: Sequence[Any] = ROWS, **settings: Any) -> TrainingRun:
    """A run on the given rows, its model in evaluation mode, so that nothing in it is random."""
    own = model.config
    section = ModelSettings(head=own.head, alignment=own.alignment, entity_weight=own.entity_weight)
    config = RunConfig(**{"batch_size": 2, "mixed_precision": "no", "model": section, **settings})
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    return TrainingRun(config, accelerator, processor, model.eval(), run_data(grouped(rows)))


def run_data(samples: GroupedSamples) -> RunData:
    """The data of a run that trains and validates on the same samples."""
    return RunData([tiny_source(RunConfig())], [samples], [samples])


def tiny_source(config: RunConfig) -> Source:
    """The only data set of a run, whose relations are `RELATIONS`."""
    [settings] = config.data_sources
    return Source(settings, RelationInventory(normalise_relations(RELATIONS, "None"), "None"))


def load_tiny(config: RunConfig, processor: RocProcessor) -> tuple[GroupedSamples, GroupedSamples]:
    """Load the samples to train on and to validate on, whose relations are `RELATIONS`."""
    return load_samples(config, tiny_source(config), processor)
