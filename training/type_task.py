"""Entity types as a second task: what a pair's relation says of its entities' types is learnt beside the relation.

Types that a relation file demands supervise the states of head and tail, in training only. Nothing of a label enters
the model, at no time, and a trained model has nothing more than without this task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from roc.modeling_fusion_roc import gather_pairs
from roc.modeling_roc import RocModel
from roc.processing_entities_roc import NO_LABEL

SCALE = 10.0  # of the cosines, as of a temperature of 0.1; our choice


class TypeTask:
    """A classifier of types on the entities' fused states. It is fixed, so that there is nothing to save or to share.

    The states learn to point at their type, one of as many orthonormal directions; a classifier that learns as well
    would gain nothing by it.

    Args:
        model: The model; its relations say which types their head and tail have.
        weight: Weight of this task's loss.

    Raises:
        ValueError: If no relation has exactly one head type or one tail type.

    Source:
        Hoffer et al., "Fix Your Classifier: The Marginal Value of Training the Last Weight Layer" (2018), section 3.
    """

    def __init__(self, model: RocModel, weight: float) -> None:
        entity_types, width = list(model.config.entity_types), model.config.hidden_size
        targets = type_targets(model.config.relations, entity_types)
        if (targets == NO_LABEL).all():
            raise ValueError(
                f"type_loss={weight} learns from relations that have one head type or one tail type, and no relation "
                "has. Give them head_types and tail_types in the relation file, or leave type_loss out."
            )
        directions = nn.init.orthogonal_(
            torch.empty(len(entity_types), width), generator=torch.Generator().manual_seed(0)
        )
        self._pair_head, self._weight = model.pair_head, weight
        self._targets, self._directions = targets, directions

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """In the block, one forward pass leaves the states of each pair's head and tail.

        Yields:
            A list that then has one tensor, `(batch, pairs, 2, hidden)`.
        """
        seen: list[Tensor] = []

        def watch(module: nn.Module, given: tuple[Tensor, Tensor]) -> None:
            seen.append(gather_pairs(*given))

        handle = self._pair_head.register_forward_pre_hook(watch)
        try:
            yield seen
        finally:
            handle.remove()

    def loss(self, states: Tensor, labels: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
        """Return the weighted cross-entropy of the types, summed over the entities, divided by a number of pairs.

        Args:
            states: `(batch, pairs, 2, hidden)`, as `watched` gives them.
            labels: `(batch, pairs)` int64, the number of each pair's relation, -100 for padding.
            num_items_in_batch: The number of pairs, as `retrieval_loss` takes it.
        """
        targets = self._targets.to(labels.device)[labels.clamp(min=0)]  # (batch, pairs, 2)
        targets = targets.masked_fill((labels == NO_LABEL)[..., None], NO_LABEL)
        with torch.autocast(states.device.type, enabled=False):
            logits = SCALE * functional.normalize(states.float(), dim=-1) @ self._directions.to(states.device).T
        total = functional.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), ignore_index=NO_LABEL, reduction="sum"
        )
        return self._weight * total / num_items_in_batch


def type_targets(relations: Sequence[Mapping[str, Any]], entity_types: Sequence[str]) -> Tensor:
    """Number the types that relations demand: `(relations, 2)` int64, for head and tail, -100 where it is not one."""
    demanded = [[relation.get(side) or [] for side in ("head_types", "tail_types")] for relation in relations]
    numbers = [[entity_types.index(own[0]) if len(own) == 1 else NO_LABEL for own in sides] for sides in demanded]
    return torch.tensor(numbers, dtype=torch.long).view(-1, 2)
