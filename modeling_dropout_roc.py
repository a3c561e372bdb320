"""Training against missing and misleading inputs: pictures left out or exchanged, tokens hidden.

All of it is for training steps only. What is random comes from PyTorch's generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration_roc import RocConfig
from .loss_roc import NO_LABEL


def corrupt_inputs(
    config: RocConfig,
    attention_mask: Tensor,
    image_index: Tensor | None,
    labels: Tensor | None,
    entity_positions: Tensor,
    entity_is_region: Tensor,
    pair_index: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Corrupt a training step's inputs as the configuration says: `token_dropout`, `wrong_pictures`, `picture_dropout`.

    Args:
        config: The model's configuration.
        attention_mask: See `RocModel.forward`, like those below.
        image_index: Its pictures may be exchanged, then left out.
        labels: Those of pairs that the corruption takes the evidence from change.
        entity_positions: Tokens that stay, where they are no regions.
        entity_is_region: See `RocModel.forward`.
        pair_index: See `RocModel.forward`.

    Returns:
        `attention_mask`, `image_index` and `labels` in the same shapes.
    """
    if config.token_dropout:
        kept = entity_positions.masked_fill(entity_is_region, 0)
        attention_mask = hide_tokens(attention_mask, kept, config.token_dropout)
    if image_index is not None and config.wrong_pictures:
        image_index, is_wrong = exchange_pictures(image_index, config.wrong_pictures)
        if labels is not None:
            none = None if config.none_relation is None else config.relation_names.index(config.none_relation)
            labels = labels_of_wrong_pictures(labels, is_wrong, entity_is_region, pair_index, none)
    if image_index is not None and config.picture_dropout:
        image_index = drop_pictures(image_index, config.picture_dropout)
    return attention_mask, image_index, labels


def drop_pictures(image_index: Tensor, rate: float) -> Tensor:
    """Take the picture from some samples.

    Args:
        image_index: `(batch,)` int64, each sample's picture, -1 for none.
        rate: Probability of losing it.

    Returns:
        `(batch,)`: -1 for those that have lost theirs.
    """
    return image_index.masked_fill(torch.rand(image_index.shape, device=image_index.device) < rate, -1)


def exchange_pictures(image_index: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Show some samples another picture of the batch.

    Args:
        image_index: `(batch,)` int64, each sample's picture out of those numbered from 0, -1 for none.
        rate: Probability of getting another one.

    Returns:
        `(batch,)`, and which samples now have a wrong picture, `(batch,)` bool: none without a picture, and none at all
        where there is one picture only.
    """
    chosen = (torch.rand(image_index.shape, device=image_index.device) < rate) & (image_index >= 0)
    num_pictures = int(image_index.max()) + 1
    if num_pictures < 2:
        return image_index, torch.zeros_like(chosen)
    shift = torch.randint(1, num_pictures, image_index.shape, device=image_index.device)
    return torch.where(chosen, (image_index + shift) % num_pictures, image_index), chosen


def labels_of_wrong_pictures(
    labels: Tensor, is_wrong: Tensor, entity_is_region: Tensor, pair_index: Tensor, none_number: int | None
) -> Tensor:
    """Labels where some samples show a wrong picture.

    A pair of two text entities keeps its relation: the text is still there, and the picture is what misleads. A pair
    with an object has lost what it is about: no relation. Our choice.

    Args:
        labels: `(batch, pairs)` int64.
        is_wrong: `(batch,)` bool.
        entity_is_region: `(batch, entities)` bool.
        pair_index: `(batch, pairs, 2)` int64.
        none_number: Number of the relation that means "none of these"; None to leave such pairs out of the loss.

    Returns:
        `(batch, pairs)`.
    """
    has_object = entity_is_region.gather(1, pair_index.flatten(1)).view(pair_index.shape).any(dim=-1)
    lost = is_wrong[:, None] & has_object & (labels != NO_LABEL)
    return labels.masked_fill(lost, NO_LABEL if none_number is None else none_number)


def hide_tokens(attention_mask: Tensor, kept: Tensor, rate: float) -> Tensor:
    """Hide some tokens from attention, as if the text lacked them.

    Args:
        attention_mask: `(batch, length)`, 1 = real.
        kept: `(batch, n)` int64, positions that stay: those of entities. The first token stays too.
        rate: Probability of being hidden.

    Returns:
        `(batch, length)`.
    """
    hidden = torch.rand(attention_mask.shape, device=attention_mask.device) < rate
    hidden[:, 0] = False
    return attention_mask.masked_fill(hidden.scatter(1, kept, False), 0)
