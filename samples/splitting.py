"""Which rows a run learns from: parts of a split, shares of it, and pairs that are turned around."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence

import datasets

from roc.messages_roc import did_you_mean
from roc.samples.grouping import GroupedSamples


def split_rows(rows: datasets.Dataset, share: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part the rows of one split in two; the second part gets about a share in (0, 1) of the texts.

    Rows of one text stay together, and go the same way in every run.

    Raises:
        ValueError: If a part would be empty.
    """
    parts: tuple[list[int], list[int]] = ([], [])
    for number, text in enumerate(rows["text"][:]):
        parts[_is_in_share(text, share)].append(number)
    if not all(parts):
        raise ValueError(f"{len(rows)} rows are too few to take a share of {share} of their texts for validation.")
    return rows.select(parts[0]), rows.select(parts[1])


def split_relations(
    rows: datasets.Dataset, relations: Collection[str], none_relation: str | None, share: float
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Part the rows of one split in two; the second part gets those of some relations.

    Rows without a relation are parted by their texts, as `split_rows` does, because both parts need some.
    """
    parts: tuple[list[int], list[int]] = ([], [])
    for number, (text, relation) in enumerate(zip(rows["text"][:], rows["relation"][:])):
        parts[_is_in_share(text, share) if relation == none_relation else relation in relations].append(number)
    return rows.select(parts[0]), rows.select(parts[1])


def _is_in_share(text: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def sample_rows(rows: datasets.Dataset, share: float, *, seed: int = 0) -> datasets.Dataset:
    """Draw a share in (0, 1] of the rows of each relation, rounded to at least one; their order stays.

    With one seed, a larger share holds the smaller ones.
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
        The number of pairs that were turned.
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
            f"{row_id!r}.{did_you_mean(name, relations)} Describe them in the relation file (--relations), or "
            "mend the data."
        )
