"""Inventories drawn at random out of a split's relations: which pairs a model accepts, inside and outside of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roc.evaluation.predictions import Predictions
from roc.modeling_roc import RocModel

RULED_OUT = -10.0  # no cosine, nor one with a soft penalty, is so low; with `HARD_PENALTY` it is lower


@dataclass(frozen=True)
class DrawnInventory:
    """The pairs of a split as a model sees them that knows some of the relations alone.

    Attributes:
        best: `(pairs,)`, the cosine of the nearest of these relations; "none of these" is not among them.
        none: `(pairs,)`, the cosine of "none of these"; None where the model does not describe it.
        is_right: `(pairs,)` bool, whether the nearest of the relations is the pair's own.
        is_inside: `(pairs,)` bool, whether the pair has one of these relations.
        is_outside: `(pairs,)` bool, whether the pair has a relation that was left out.
        is_unrelated: `(pairs,)` bool, whether the pair has no relation at all.

    A pair for which every one of these relations is ruled out, by its types or as those of another source, is none of
    the three: there is nothing to decide.
    """

    best: Tensor
    none: Tensor | None
    is_right: Tensor
    is_inside: Tensor
    is_outside: Tensor
    is_unrelated: Tensor

    @property
    def is_other(self) -> Tensor:
        """`(pairs,)` bool, whether the pair should get none of these relations."""
        return self.is_outside | self.is_unrelated


def draw_inventories(
    model: RocModel, predictions: Predictions, *, size: int, num_draws: int, seed: int
) -> list[DrawnInventory]:
    """Draw inventories out of the relations that occur, "none of these" aside.

    Args:
        model: The model, with the relations of the predictions.
        predictions: Its predictions; rows that it cannot read are left out.
        size: Relations in an inventory; all that occur if there are fewer.
        num_draws: How many inventories.
        seed: Decides which relations are drawn.
    """
    names, cosines = model.config.relation_names, predictions.logits * model.temperature
    none = None if model.config.none_relation is None else names.index(model.config.none_relation)
    expected = torch.tensor([names.index(name) for name in predictions.expected], dtype=torch.long)
    occurring = [number for number in expected.unique().tolist() if number != none]
    size, rng = min(size, len(occurring)), random.Random(seed)
    return [_seen_with(sorted(rng.sample(occurring, size)), cosines, expected, none) for _ in range(num_draws)]


def _seen_with(kept: Sequence[int], cosines: Tensor, expected: Tensor, none: int | None) -> DrawnInventory:
    relations = torch.tensor(kept, dtype=torch.long)
    best, places = cosines[:, relations].max(dim=-1)
    is_asked = best > RULED_OUT
    is_inside = torch.isin(expected, relations)
    is_unrelated = torch.zeros(len(expected), dtype=torch.bool) if none is None else expected == none
    return DrawnInventory(
        best,
        None if none is None else cosines[:, none],
        relations[places] == expected,
        is_asked & is_inside,
        is_asked & ~is_inside & ~is_unrelated,
        is_asked & is_unrelated,
    )


def area_under_curve(accepted: Tensor, others: Tensor) -> float:
    """Return the area under the ROC curve: how often a score that should be higher is, ties counting half.

    Args:
        accepted: `(pairs,)`, scores of pairs that should be accepted.
        others: `(other pairs,)`, scores of pairs that should not.

    Returns:
        The area in [0, 1]; 0.5 where there are no pairs of a kind, since nothing is known.

    Source:
        Its equality with the Mann-Whitney statistic: Hanley and McNeil, "The Meaning and Use of the Area under a
        Receiver Operating Characteristic (ROC) Curve" (1982).
    """
    if not len(accepted) or not len(others):
        return 0.5
    ordered = others.sort().values
    lower, not_higher = torch.searchsorted(ordered, accepted), torch.searchsorted(ordered, accepted, right=True)
    return ((lower + not_higher).double().mean() / (2 * len(others))).item()


def even_f1(drawn: DrawnInventory, is_accepted: Tensor, rows: Tensor | None = None) -> float:
    """Return micro-F1 where pairs outside of the inventory, or without any relation, weigh as much as those inside.

    Args:
        drawn: The inventory.
        is_accepted: `(pairs,)` bool, which pairs get the nearest relation.
        rows: `(rows,)` int64 or `(pairs,)` bool, the pairs that count; None for all.
    """
    keep = slice(None) if rows is None else rows
    inside, other, accepted = drawn.is_inside[keep], drawn.is_other[keep], is_accepted[keep]
    num_inside, num_others = int(inside.sum()), int(other.sum())
    weight = num_inside / num_others if num_others else 0.0
    correct = int((accepted & inside & drawn.is_right[keep]).sum())
    predicted = int((accepted & inside).sum()) + weight * int((accepted & other).sum())
    return 2 * correct / (predicted + num_inside) if predicted + num_inside else 0.0
