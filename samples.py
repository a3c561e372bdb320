"""From rows to batches: pairs of one text and picture share a sample, samples of like length share a batch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import BatchFeature

from roc.configuration_roc import did_you_mean
from roc.entities_roc import Entity
from roc.processing_roc import RocProcessor
from roc.retrieval_roc import NO_LABEL


@dataclass
class Sample:
    """A text with its picture, its entities, and the pairs that are asked for.

    Args:
        text: The text.
        image_row: Row of the data set that holds the picture; None where there is none.
        entities: In the order of their place in the text, then objects: never in the order of the pairs, which
            might tell something about the label.
        pairs: (head, tail) numbers into `entities`.
        relations: Name of the relation of each pair.
        row_ids: Id of the row that each pair comes from.
        image_digest: SHA-256 of the picture's file; None where there is none.
    """

    text: str
    image_row: int | None
    entities: list[Entity] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    relations: list[str] = field(default_factory=list)
    row_ids: list[str] = field(default_factory=list)
    image_digest: bytes | None = None

    @property
    def approximate_length(self) -> int:
        """About proportional to the number of tokens: characters, and what marking an entity adds."""
        return len(self.text) + 12 * len(self.entities)


class GroupedSamples(Dataset[tuple[Sample, bytes | Tensor | None]]):
    """The rows of one split, grouped by text and picture, so that one encoding serves all their pairs.

    Args:
        rows: Rows of the schema (`roc.dataset_scripts.schema`).
        use_image: Whether items come with their pictures.
    """

    def __init__(self, rows: datasets.Dataset, *, use_image: bool = True) -> None:
        self._images = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        self.use_image = use_image
        self.features: Mapping[bytes, Tensor] | None = None  # of pictures by their digest, to be given in their place
        self.samples = self._group(rows.remove_columns(["image"]))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, bytes | Tensor | None]:
        """The sample and the bytes of its picture file (None where it has none, or pictures are not used).

        Where `features` are set, they come instead of bytes; see `roc.vision_cache`.
        """
        sample = self.samples[index]
        if sample.image_row is None or not self.use_image:
            return sample, None
        if self.features is not None and sample.image_digest is not None:
            return sample, self.features[sample.image_digest]
        return sample, _image_bytes(self._images[sample.image_row]["image"])

    @property
    def num_pairs(self) -> int:
        """Pairs of all samples: the rows."""
        return sum(len(sample.pairs) for sample in self.samples)

    def _group(self, rows: datasets.Dataset) -> list[Sample]:
        groups: dict[tuple[str, bytes | None], list[int]] = {}
        texts = rows["text"]
        for number, (text, image) in enumerate(zip(texts, self._images)):
            groups.setdefault((text, _digest(image["image"])), []).append(number)
        content = rows.to_list()
        return [
            self._sample([(number, content[number]) for number in numbers], digest)
            for (_, digest), numbers in groups.items()
        ]

    def _sample(self, rows: Sequence[tuple[int, Mapping[str, Any]]], digest: bytes | None) -> Sample:
        first, head_row = rows[0]
        sample = Sample(head_row["text"], None if digest is None else first, image_digest=digest)
        by_place: dict[tuple[Any, ...], Entity] = {}
        for _, row in rows:
            for entity in (row["head"], row["tail"]):
                known = by_place.get(_place(entity))
                if known is None or not known.type:
                    by_place[_place(entity)] = _entity(entity)
        places = sorted(by_place)
        sample.entities = [by_place[place] for place in places]
        number_of = {place: number for number, place in enumerate(places)}
        for _, row in rows:
            sample.pairs.append((number_of[_place(row["head"])], number_of[_place(row["tail"])]))
            sample.relations.append(row["relation"])
            sample.row_ids.append(row["id"])
        return sample


class SampleCollator:
    """Turns samples into a batch of tensors.

    Args:
        processor: The model's processor.
        relations: Names of the relations, in the order of the logits; None for batches without labels.
        type_noise: Probability with which a typed text entity gets another type or none.
        seed: Of the noise, which depends on it, the sample and the epoch only: not on who makes the batch, and when.
    """

    def __init__(
        self, processor: RocProcessor, relations: Sequence[str] | None, *, type_noise: float = 0.0, seed: int = 0
    ) -> None:
        self._processor = processor
        self._type_noise = type_noise
        self._seed = seed
        self._epoch = 0
        self._index = None if relations is None else {name: i for i, name in enumerate(relations)}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose noise comes next."""
        self._epoch = epoch

    def __call__(self, items: Sequence[tuple[Sample, bytes | Tensor | None]]) -> tuple[list[str], BatchFeature]:
        """Collate.

        Args:
            items: Samples and their pictures, as `GroupedSamples` gives them.

        Returns:
            The ids of the pairs' rows, and the processor's tensors. Of no items, none and a batch without a label, on
            which a process can compute while others have the last samples of an epoch.

        Raises:
            ValueError: If a relation is not among `relations`; the message names the row.
        """
        if not items:
            placeholder = {"entities": [Entity(0, 1, ""), Entity(2, 3, "")], "pairs": [(0, 1)], "labels": [NO_LABEL]}
            return [], self._processor(text=["a b"], **{name: [value] for name, value in placeholder.items()})
        samples = [sample for sample, _ in items]
        batch = self._processor(
            text=[sample.text for sample in samples],
            images=[image for _, image in items],
            entities=[self._entities(sample) for sample in samples],
            pairs=[sample.pairs for sample in samples],
            labels=None if self._index is None else [self._labels(sample) for sample in samples],
            where=[f"row {sample.row_ids[0]!r}" for sample in samples],
        )
        return [row_id for sample in samples for row_id in sample.row_ids], batch

    def _entities(self, sample: Sample) -> list[Entity]:
        if not self._type_noise:
            return sample.entities
        generator = random.Random(f"{self._seed}-{self._epoch}-{sample.row_ids}")
        return [self._with_noise(entity, generator) for entity in sample.entities]

    def _with_noise(self, entity: Entity, generator: random.Random) -> Entity:
        if entity.is_object or not entity.type or generator.random() >= self._type_noise:
            return entity
        others = [kind for kind in ("", *self._processor.entity_types) if kind != entity.type]
        return replace(entity, type=generator.choice(others))

    def _labels(self, sample: Sample) -> list[int]:
        return [self._label(relation, row_id) for relation, row_id in zip(sample.relations, sample.row_ids)]

    def _label(self, relation: str, row_id: str) -> int:
        assert self._index is not None
        if relation not in self._index:
            raise ValueError(
                f"Row {row_id!r} has the relation {relation!r}, which is not among the {len(self._index)} relations "
                f"of the inventory.{did_you_mean(relation, self._index)} Describe it in the relation file, or mend the "
                "row."
            )
        return self._index[relation]


class LengthBucketBatchSampler(Sampler[list[int]]):
    """Batches of samples of about the same length, so that little is padded, in an order that changes each epoch.

    Args:
        lengths: About how long each sample is.
        batch_size: Samples per batch; the last one may be smaller.
        seed: Of the shuffling; the order depends on it and on the epoch only.
        shuffle: Whether to shuffle; without it batches go from short to long.
        pool_size: How many batches' worth of shuffled samples are sorted together. Larger pads less, smaller mixes
            more; 32 is our choice.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int = 0, shuffle: bool = True, pool_size: int = 32
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is out of range: give a number >= 1.")
        self.batch_size = batch_size
        self.drop_last = False
        self._lengths = lengths
        self._seed = seed
        self._shuffle = shuffle
        self._pool = pool_size * batch_size
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self._lengths)))
        if not self._shuffle:
            yield from self._batches(sorted(order, key=self._lengths.__getitem__))
            return
        generator = random.Random(f"{self._seed}-{self._epoch}")
        generator.shuffle(order)
        pools = (order[start : start + self._pool] for start in range(0, len(order), self._pool))
        by_length = [number for pool in pools for number in sorted(pool, key=self._lengths.__getitem__)]
        batches = list(self._batches(by_length))
        generator.shuffle(batches)
        yield from batches

    def _batches(self, order: Sequence[int]) -> Iterator[list[int]]:
        for start in range(0, len(order), self.batch_size):
            yield list(order[start : start + self.batch_size])


class ProcessShares(Sampler[list[int]]):
    """One process's share of each batch, so that together the processes see every sample exactly once.

    Samples are dealt out in turns: lengths and numbers are about even. Every process gets as many shares as there are
    batches; where a batch has fewer samples than there are processes, the last processes' shares are empty, because
    they have to take part in the step all the same.

    Args:
        batches: Batches for all processes together.
        process_index: Which process.
        num_processes: How many there are.
    """

    def __init__(self, batches: LengthBucketBatchSampler, *, process_index: int, num_processes: int) -> None:
        self._batches = batches
        self._process_index = process_index
        self._num_processes = num_processes

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield batch[self._process_index :: self._num_processes]


def split_rows(rows: datasets.Dataset, share: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part the rows of one split in two; rows of one text stay together, and go the same way in every run.

    Args:
        rows: Rows of the schema.
        share: About the share of the texts in the second part, in (0, 1).

    Returns:
        The larger rest, and the share.

    Raises:
        ValueError: If a part would be empty.
    """
    hashes = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in rows["text"][:]]
    parts: tuple[list[int], list[int]] = ([], [])
    for number, value in enumerate(hashes):
        parts[value < share * 2**64].append(number)
    if not all(parts):
        raise ValueError(f"{len(rows)} rows are too few to take a share of {share} of their texts for validation.")
    return rows.select(parts[0]), rows.select(parts[1])


def sample_rows(rows: datasets.Dataset, share: float, *, seed: int = 0) -> datasets.Dataset:
    """Draw a share of the rows of each relation, at least one of each.

    Args:
        rows: Rows of the schema.
        share: In (0, 1]; of each relation, the number is rounded to the nearest.
        seed: Of the draw. With one seed, a larger share holds the smaller ones.

    Returns:
        The drawn rows, in their order.
    """
    by_relation: dict[str, list[int]] = {}
    for number, relation in enumerate(rows["relation"][:]):
        by_relation.setdefault(relation, []).append(number)
    drawn: list[int] = []
    for relation, numbers in by_relation.items():
        random.Random(f"{seed}-{relation}").shuffle(numbers)
        drawn += numbers[: max(1, round(share * len(numbers)))]
    return rows.select(sorted(drawn))


def swap_none_pairs(samples: GroupedSamples, none_relation: str, *, seed: int = 0) -> int:
    """Turn half of the pairs without a relation around, so that their direction says nothing.

    In MNRE the annotators kept the order of the text for unrelated pairs and chose head and tail by the relation for
    the others: where the head comes after the tail, 98 % have a relation, else 29 % (train). A model that learns
    this from the data rejects too little as soon as both directions of a pair are asked for.

    Args:
        samples: Training samples; changed in place.
        none_relation: Name of the relation that means "none of these".
        seed: With a row's id, it decides whether the row is turned.

    Returns:
        How many pairs were turned.
    """
    turned = 0
    for sample in samples.samples:
        for number, (relation, row_id) in enumerate(zip(sample.relations, sample.row_ids)):
            if relation == none_relation and random.Random(f"{seed}-{row_id}").random() < 0.5:
                head, tail = sample.pairs[number]
                sample.pairs[number] = (tail, head)
                turned += 1
    return turned


def check_relations_known(samples: GroupedSamples, relations: Sequence[str], where: str) -> None:
    """Stop before the first step where a row's relation is not in the inventory.

    Raises:
        ValueError: Naming the first such row, all unknown relations, and what to do.
    """
    unknown: dict[str, str] = {}
    for sample in samples.samples:
        for relation, row_id in zip(sample.relations, sample.row_ids):
            if relation not in relations:
                unknown.setdefault(relation, row_id)
    if unknown:
        name, row_id = next(iter(unknown.items()))
        raise ValueError(
            f"{where}: the relations {sorted(unknown)} are not in the inventory; the first is {name!r} in row "
            f"{row_id!r}.{did_you_mean(name, relations)} Describe them in the relation file, or mend the data."
        )


def _place(entity: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where an entity is; sorts text entities by position, before objects."""
    if entity["bbox"] is not None:
        return (1, *entity["bbox"])
    return (0, entity["start"], entity["end"])


def _entity(entity: Mapping[str, Any]) -> Entity:
    """The processor's entity. Types were settled when the data set was built: `""` keeps the processor from asking."""
    bbox = entity["bbox"]
    if bbox is not None:
        return Entity(type=entity["type"] or "", bbox=tuple(bbox), name=entity["name"])
    return Entity(entity["start"], entity["end"], entity["type"] or "")


def _digest(image: Mapping[str, Any] | None) -> bytes | None:
    if image is None:
        return None
    return hashlib.sha256(_image_bytes(image)).digest()


def _image_bytes(image: Mapping[str, Any]) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
