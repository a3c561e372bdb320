"""From scores to relations: entity types, calibrated probabilities, ranks, and pairs that have no relation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .configuration_roc import RocConfig
from .relations_bank_roc import descriptions_of, nearest_descriptions, relation_index_of, type_mismatches

HARD_PENALTY = 1e4  # on logits: puts a relation behind all others and keeps the order among such relations
NO_RELATION = -1  # takes the place of a relation's number


def constrain_types(logits: Tensor, config: RocConfig, *, entity_type_ids: Tensor | None, pair_index: Tensor) -> Tensor:
    """Lower the logits of relations that do not take the types of head and tail, as `type_constraints` says.

    `PairInputs` describes the last two arguments. Without `entity_type_ids` nothing is constrained.
    """
    if entity_type_ids is None or config.type_constraints == "off":
        return logits
    penalty = config.type_penalty if config.type_constraints == "soft" else HARD_PENALTY
    return logits - penalty * type_mismatches(entity_type_ids, pair_index, config.relations)


def relation_probabilities(logits: Tensor, config: RocConfig) -> Tensor:
    """Turn logits `(..., relations)` into calibrated probabilities: a softmax with `probability_temperature`."""
    return (logits / config.probability_temperature).softmax(dim=-1)


def decide_relations(logits: Tensor, config: RocConfig, *, temperature: float) -> Tensor:
    """Decide for each pair which relation it has, or that it has none.

    Where the inventory describes "none of these", that relation competes like every other one. Where it does not, a
    pair whose best relation stays below `none_threshold` has no relation.

    `logits` `(..., relations)` are what `RocModel.forward` gives; `RocModel.temperature` makes cosines of them.

    Returns:
        `(...)` int64, the number of the relation, or `NO_RELATION`.
    """
    best = logits.max(dim=-1)
    if config.head == "classification" or config.none_relation is not None or config.none_threshold is None:
        return best.indices
    return best.indices.masked_fill(best.values * temperature < config.none_threshold, NO_RELATION)


@torch.no_grad()
def rank_relations(
    logits: Tensor, config: RocConfig, *, pair_embeds: Tensor, description_embeds: Tensor | None, top_k: int
) -> list[list[dict[str, Any]]]:
    """Rank for each pair the relations from likely to unlikely: see `RocModel.rank_relations`.

    `logits` `(num_pairs, relations)` and `pair_embeds` `(num_pairs, embed_dim)` are without padded pairs;
    `description_embeds` are what `RocModel.get_description_features` gives, or None for the classification head.
    """
    scores, numbers = relation_probabilities(logits, config).topk(min(top_k, config.num_relations), dim=-1)
    relation_index = relation_index_of(config.relations).to(numbers.device)
    if description_embeds is None:
        shown = torch.searchsorted(relation_index, numbers)
    else:
        _, shown = nearest_descriptions(pair_embeds, description_embeds, relation_index, numbers)
    names, descriptions = config.relation_names, descriptions_of(config.relations)
    return [
        [
            {"relation": names[number], "score": score, "description": descriptions[description]}
            for score, number, description in zip(*row)
        ]
        for row in zip(scores.tolist(), numbers.tolist(), shown.tolist())
    ]
