"""The zero-shot protocol: train without some relations, score on them alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import datasets

from roc.messages_roc import did_you_mean
from roc.relations.files import RelationInventory


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
