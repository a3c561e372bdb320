"""From samples to batches: samples of like length share one, and processes share it among them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import BatchFeature

from roc.messages_roc import did_you_mean
from roc.processing_entities_roc import NO_LABEL, Entity
from roc.processing_roc import RocProcessor
from roc.samples.grouping import Sample


class SampleCollator:
    """Turns samples into a batch of tensors.

    Args:
        processor: The model's processor.
        relations: Names of the relations, in the order of the logits; None for batches without labels.
        type_noise: Probability that a typed text entity gets another type or none.
        seed: The noise depends on it, the sample and the epoch only: not on who makes the batch, and when.
        competitors: `(sources, relations, relations)` bool, with which relations a pair of a source that has a relation
            is compared; the batch then has its pairs' rows as `competitors`. None where all relations compete.
        none_relation: Name of the relation that means "none of these".
        max_none_pairs: Most pairs of a sample with that relation that get a label, drawn by seed, epoch and sample;
            None for all.
    """

    def __init__(
        self,
        processor: RocProcessor,
        relations: Sequence[str] | None,
        *,
        type_noise: float = 0.0,
        seed: int = 0,
        competitors: Tensor | None = None,
        none_relation: str | None = None,
        max_none_pairs: int | None = None,
    ) -> None:
        self._processor, self._type_noise = processor, type_noise
        self._competitors = competitors
        self._none_relation, self._max_none_pairs = none_relation, max_none_pairs
        self._seed, self._epoch = seed, 0
        self._index = None if relations is None else {name: i for i, name in enumerate(relations)}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose noise comes next."""
        self._epoch = epoch

    def __call__(self, items: Sequence[tuple[Sample, bytes | Tensor | None]]) -> tuple[list[str], BatchFeature]:
        """Collate samples and their pictures, as `GroupedSamples` gives them.

        Returns:
            The ids of the pairs' rows, and the processor's tensors. For no items, no ids and a batch without a label,
            on which a process can compute while others have the last samples of an epoch.

        Raises:
            ValueError: If a relation is not among `relations`; the message names the row.
        """
        if not items:
            entities = [Entity(0, 1, ""), Entity(2, 3, "")]
            return [], self._processor(text=["a b"], entities=[entities], pairs=[[(0, 1)]], labels=[[NO_LABEL]])
        samples = [sample for sample, _ in items]
        given = [image for _, image in items]
        batch = self._processor(
            text=[sample.text for sample in samples],
            images=[None if isinstance(image, Tensor) else image for image in given],
            patch_features=[image if isinstance(image, Tensor) else None for image in given],
            pictures_left_out=True,
            entities=[self._entities(sample) for sample in samples],
            pairs=[sample.pairs for sample in samples],
            labels=None if self._index is None else [self._labels(sample) for sample in samples],
            where=[f"row {sample.row_ids[0]!r}" for sample in samples],
        )
        if self._competitors is not None:
            num_relations = self._competitors.shape[-1]
            rows = batch["labels"]  # of the table of all sources, one below the other
            batch["competitors"] = self._competitors.flatten(0, 1)[rows.clamp(min=0)]
            batch["labels"] = torch.where(rows == NO_LABEL, rows, rows % num_relations)
        return [row_id for sample in samples for row_id in sample.row_ids], batch

    def _labels(self, sample: Sample) -> list[int]:
        """Number the relations of a sample's pairs; with competitors, as rows of the tables of all sources.

        Pairs without a relation that are not drawn get `NO_LABEL`.
        """
        first = 0 if self._competitors is None else sample.source * self._competitors.shape[-1]
        labels = [first + self._label(*given) for given in zip(sample.relations, sample.row_ids)]
        unrelated = [number for number, name in enumerate(sample.relations) if name == self._none_relation]
        if self._max_none_pairs is not None and len(unrelated) > self._max_none_pairs:
            generator = random.Random(f"{self._seed}-{self._epoch}-{sample.row_ids}")
            for number in generator.sample(unrelated, len(unrelated) - self._max_none_pairs):
                labels[number] = NO_LABEL
        return labels

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
        lengths: The approximate length of each sample.
        batch_size: Samples per batch; the last one may be smaller.
        seed: The order depends on it and on the epoch only.
        shuffle: Whether to shuffle; without it batches go from short to long.
        sources: The number of the source that each sample comes from; None for one source.
        temperature: How evenly sources are drawn, see `draw_samples`.
        pool_size: How many batches' worth of shuffled samples are sorted together. Larger pads less, smaller mixes
            more; 32 is our choice.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        sources: Sequence[int] | None = None,
        temperature: float = 1.0,
        pool_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is out of range: give a number >= 1.")
        self.batch_size, self._pool = batch_size, pool_size * batch_size
        self._lengths, self._shuffle = lengths, shuffle
        self._seed, self._epoch = seed, 0
        self._sources, self._temperature = sources, temperature

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self._lengths)))
        if self._sources is not None:
            order = draw_samples(self._sources, self._temperature, seed=self._seed, epoch=self._epoch)
        generator = random.Random(f"{self._seed}-{self._epoch}")
        if self._shuffle:
            generator.shuffle(order)
        pools = _cut(order, self._pool) if self._shuffle else [order]
        by_length = [number for pool in pools for number in sorted(pool, key=self._lengths.__getitem__)]
        batches = _cut(by_length, self.batch_size)
        if self._shuffle:
            generator.shuffle(batches)
        return iter(batches)


def draw_samples(sources: Sequence[int], temperature: float, *, seed: int, epoch: int) -> list[int]:
    """Draw an epoch's samples from several sources: as many as there are, with shares that a temperature evens out.

    A source of n samples gets a share proportional to `n ** (1 / temperature)`. Its samples come round after round,
    each round in another order, and an epoch goes on where the one before has stopped: over the epochs all samples of
    a source are seen equally often, whether an epoch has room for some of them or for several rounds.

    Args:
        sources: The number of the source that each sample comes from.
        temperature: 1 draws every sample once an epoch; the higher, the more alike are the shares.
        seed: The draw depends on it and on the epoch only.
        epoch: The number of the epoch, from 0.

    Returns:
        Numbers of samples, source by source.

    Source:
        Devlin et al., multilingual BERT (2019), and Arivazhagan et al., "Massively Multilingual Neural Machine
        Translation in the Wild" (2019), section 4.1, who draw languages like this.
    """
    members: dict[int, list[int]] = {}
    for number, source in enumerate(sources):
        members.setdefault(source, []).append(number)
    counts = _shares({source: len(own) ** (1 / temperature) for source, own in members.items()}, len(sources))
    drawn = []
    for source, own in members.items():
        for place in range(epoch * counts[source], (epoch + 1) * counts[source]):
            round_number, number = divmod(place, len(own))
            if number == 0 or place == epoch * counts[source]:
                order = random.Random(f"{seed}-{source}-{round_number}").sample(own, len(own))
            drawn.append(order[number])
    return drawn


def _shares(weights: dict[int, float], total: int) -> dict[int, int]:
    """Share out a whole number by weight; what rounding down leaves goes to the largest remainders."""
    exact = {key: total * weight / sum(weights.values()) for key, weight in weights.items()}
    shares = {key: int(value + 1e-9) for key, value in exact.items()}
    for key in sorted(exact, key=lambda key: shares[key] - exact[key])[: total - sum(shares.values())]:
        shares[key] += 1
    return shares


class ProcessShares(Sampler[list[int]]):
    """One process's share of each batch, so that together the processes see every sample exactly once.

    Samples are dealt out in turns: lengths and numbers are about even. Every process gets as many shares as there are
    batches; where a batch has fewer samples than there are processes, the last processes' shares are empty, because
    they have to take part in the step all the same.
    """

    def __init__(self, batches: LengthBucketBatchSampler, *, process_index: int, num_processes: int) -> None:
        self._batches, self._share = batches, slice(process_index, None, num_processes)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self._share] for batch in self._batches)


def _cut(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
