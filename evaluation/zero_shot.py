"""The zero-shot protocol: train without some relations, score on them alone."""

from __future__ import annotations

import random
import re
import runpy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roc.messages_roc import did_you_mean, quote, shorten
from roc.relations.files import RelationInventory
from roc.support.reading import read_json

if TYPE_CHECKING:
    import datasets

PARTS = ("train", "eval", "test")  # of a split of relations


def unseen_relations(
    inventory: RelationInventory,
    *,
    held_out_relations: Sequence[str] | None = None,
    num_unseen: int = 0,
    seed: int = 0,
) -> list[str]:
    """Choose the relations that training must not see: those named, or some drawn at random.

    Args:
        inventory: All relations.
        held_out_relations: Names of relations to hold out.
        num_unseen: How many to draw in place of named ones: `random.Random(seed).sample(sorted(names), num_unseen)`,
            where `names` leaves out the relation that means "none of these".
        seed: Decides which relations are drawn.

    Returns:
        The names of the unseen relations; empty where neither is given.

    Raises:
        ValueError: If both are given, a name is unknown or given twice, the relation that means "none of these" is
            named, or fewer than two relations would be left to train on.
    """
    names = [name for name in inventory.names if name != inventory.none_relation]
    if held_out_relations and num_unseen:
        raise ValueError(
            "held_out_relations and num_unseen exclude each other: name the relations, or have them drawn."
        )
    if num_unseen < 0 or num_unseen > len(names):
        raise ValueError(f"num_unseen={num_unseen} is out of range: the inventory has {len(names)} relations.")
    unseen = list(held_out_relations or random.Random(seed).sample(sorted(names), num_unseen))
    for name in unseen:
        if name not in names:
            raise ValueError(f"held_out_relations: {name!r} is not among {names}.{did_you_mean(name, names)}")
    if len(set(unseen)) < len(unseen):
        raise ValueError(f"held_out_relations names a relation twice: {unseen}.")
    if len(inventory.names) - len(unseen) < 2:
        raise ValueError(f"Without {unseen} fewer than two relations are left to train on. Hold out fewer.")
    return unseen


def restrict_inventory(inventory: RelationInventory, names: Collection[str]) -> RelationInventory:
    """Return the relations that are named, in the inventory's order; "none of these" only if it is named."""
    none_relation = inventory.none_relation if inventory.none_relation in names else None
    return RelationInventory([r for r in inventory.relations if r["name"] in names], none_relation)


def restrict_rows(rows: datasets.Dataset, names: Collection[str], *, where: str) -> datasets.Dataset:
    """Return the rows whose relation is named.

    Raises:
        ValueError: If there is none.
    """
    kept = [number for number, name in enumerate(rows["relation"][:]) if name in names]
    if not kept:
        raise ValueError(f"{where}: no row has one of the relations {sorted(names)}.")
    return rows.select(kept)


@dataclass(frozen=True)
class RelationSplit:
    """A split of relations: those to train on, those that choose the epoch, and the unseen ones."""

    name: str
    train: list[str]
    eval: list[str]
    test: list[str]


def read_splits(path: str, unseen: Sequence[int] | None = None) -> list[RelationSplit]:
    """Read splits of relations, those with the fewest test relations first.

    Args:
        path: A JSON file: the name of each split with its relations for `train`, `eval` and `test`.
        unseen: Only those with so many test relations; None for all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed, a relation is in two parts of a split, or no split has so many test relations.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: splits are a mapping of names to {PARTS}; given {quote(content)}.")
    splits = [_checked_split(name, parts, path) for name, parts in content.items()]
    sizes = sorted({len(split.test) for split in splits})
    if unknown := sorted(set(unseen or ()) - set(sizes)):
        raise ValueError(f"--unseen {unknown}: no split has so many test relations. {path} has splits with {sizes}.")
    chosen = [split for split in splits if unseen is None or len(split.test) in unseen]
    return sorted(chosen, key=lambda split: len(split.test))


def _checked_split(name: str, parts: Any, path: str) -> RelationSplit:
    where = f"{path}: split {quote(name)}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{where}: its name becomes a folder's. Give letters, digits, _, - and dots.")
    if not isinstance(parts, dict) or sorted(parts) != sorted(PARTS):
        raise ValueError(f"{where} is a mapping with the keys {PARTS}; given {quote(parts)}.")
    for part, names in parts.items():
        if not isinstance(names, list) or not all(isinstance(own, str) for own in names) or len(names) < 2:
            raise ValueError(f"{where}: {part!r} is a list of at least two relations; given {quote(names)}.")
    names = [own for part in PARTS for own in parts[part]]
    if repeated := sorted({own for own in names if names.count(own) > 1}):
        raise ValueError(f"{where}: {shorten(str(repeated))} are listed twice. A relation belongs to one part.")
    return RelationSplit(name, parts["train"], parts["eval"], parts["test"])


if __name__ == "__main__":  # the protocol trains, and so it is a study; this is its door
    runpy.run_module("roc.studies.zero_shot", run_name="__main__", alter_sys=True)
