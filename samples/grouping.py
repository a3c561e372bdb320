"""From rows to batches: pairs of one text and picture share a sample, samples of like length share a batch."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor
from torch.utils.data import Dataset

from roc.processing_entities_roc import Entity


@dataclass
class Sample:
    """A text with its picture, its entities, and the pairs that are asked for.

    Entities come by their place in the text, then objects: never in the order of the pairs, which might tell something
    about the label.
    """

    text: str
    image_row: int | None  # row of the data set that holds the picture; None where there is none
    entities: list[Entity] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)  # (head, tail) numbers into `entities`
    relations: list[str] = field(default_factory=list)  # name of the relation of each pair
    row_ids: list[str] = field(default_factory=list)  # id of the row that each pair comes from
    image_digest: bytes | None = None  # SHA-256 of the picture's file; None where there is none
    source: int = 0  # number of the set that it comes from, where several were joined

    @property
    def approximate_length(self) -> int:
        """A number about proportional to that of tokens: characters, and what marking an entity adds."""
        return len(self.text) + 12 * len(self.entities)


@dataclass(frozen=True)
class UnreadableRow:
    """A row that was left out, because the model cannot read it."""

    row_id: str
    relation: str  # what the data state
    reason: str  # in words that other rows share
    message: str  # what exactly is wrong


class GroupedSamples(Dataset[tuple[Sample, bytes | Tensor | None]]):
    """The rows of one split (`roc.dataset_scripts.schema`), grouped by text and picture, to share one encoding."""

    def __init__(self, rows: datasets.Dataset, *, use_image: bool = True) -> None:
        self._images = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        self.use_image = use_image
        self.features: Mapping[bytes, Tensor] | None = None  # of pictures by their digest, to be given in their place
        self.samples = self._group(rows.remove_columns(["image"]))
        self.unreadable: list[UnreadableRow] = []  # rows that are in no sample; see `roc.samples.reading`

    @classmethod
    def joined(cls, sets: Sequence[GroupedSamples]) -> GroupedSamples:
        """Join sets of samples, which stay as they are; `Sample.source` tells from which set each comes.

        Joining a single set gives that set.
        """
        if len(sets) == 1:
            return sets[0]
        joined = copy.copy(sets[0])
        joined._images = datasets.concatenate_datasets([own._images for own in sets])
        starts = itertools.accumulate((len(own._images) for own in sets), initial=0)
        joined.samples = [
            replace(sample, source=number, image_row=None if sample.image_row is None else start + sample.image_row)
            for number, (own, start) in enumerate(zip(sets, starts))
            for sample in own.samples
        ]
        joined.unreadable = [row for own in sets for row in own.unreadable]
        return joined

    def rename(self, relations: Mapping[str, str], *, prefix: str) -> None:
        """Give relations other names, where they have one, and put a prefix before the ids of rows."""
        for sample in self.samples:
            sample.relations = [relations.get(name, name) for name in sample.relations]
            sample.row_ids = [prefix + row_id for row_id in sample.row_ids]
        self.unreadable = [
            replace(row, row_id=prefix + row.row_id, relation=relations.get(row.relation, row.relation))
            for row in self.unreadable
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, bytes | Tensor | None]:
        """Return the sample and the bytes of its picture file (None where it has none, or pictures are not used).

        A picture's features come in place of its bytes where `features` are set; see `roc.samples.vision_cache`.
        """
        sample = self.samples[index]
        if sample.image_row is None or not self.use_image:
            return sample, None
        if self.features is not None and sample.image_digest is not None:
            return sample, self.features[sample.image_digest]
        return sample, _image_bytes(self._images[sample.image_row]["image"])

    @property
    def num_pairs(self) -> int:
        """How many pairs all samples have: one a row."""
        return sum(len(sample.pairs) for sample in self.samples)

    def _group(self, rows: datasets.Dataset) -> list[Sample]:
        groups: dict[tuple[str, bytes | None], list[int]] = {}
        for number, (text, image) in enumerate(zip(rows["text"], self._images)):
            digest = None if image["image"] is None else hashlib.sha256(_image_bytes(image["image"])).digest()
            groups.setdefault((text, digest), []).append(number)
        content = rows.to_list()
        return [
            _sample(text, None if digest is None else numbers[0], digest, [content[number] for number in numbers])
            for (text, digest), numbers in groups.items()
        ]


def _sample(text: str, image_row: int | None, digest: bytes | None, rows: Sequence[Mapping[str, Any]]) -> Sample:
    by_place: dict[tuple[Any, ...], Entity] = {}
    for entity in (row[side] for row in rows for side in ("head", "tail")):
        known = by_place.get(_place(entity))
        if known is None or not known.type:
            by_place[_place(entity)] = _entity(entity)
    places = sorted(by_place)
    return Sample(
        text,
        image_row,
        entities=[by_place[place] for place in places],
        pairs=[(places.index(_place(row["head"])), places.index(_place(row["tail"]))) for row in rows],
        relations=[row["relation"] for row in rows],
        row_ids=[row["id"] for row in rows],
        image_digest=digest,
    )


def _place(entity: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return where an entity is, so that text entities sort by position, before objects."""
    if entity["bbox"] is not None:
        return (1, *entity["bbox"])
    return (0, entity["start"], entity["end"])


def _entity(entity: Mapping[str, Any]) -> Entity:
    """Return the processor's entity; the type `""` keeps it from predicting one, as the data set's are settled."""
    bbox = entity["bbox"]
    if bbox is not None:
        return Entity(type=entity["type"] or "", bbox=tuple(bbox), name=entity["name"])
    return Entity(entity["start"], entity["end"], entity["type"] or "")


def _image_bytes(image: Mapping[str, Any]) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
