"""Training against missing and misleading inputs: pictures left out or exchanged, tokens hidden.

All of it is for training steps only. Random numbers come from PyTorch's generator.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .configuration_roc import RocConfig
from .loss_roc import NO_LABEL
from .modeling_fusion_roc import PairInputs


def corrupt_inputs(inputs: PairInputs, labels: Tensor | None, config: RocConfig) -> tuple[PairInputs, Tensor | None]:
    """Corrupt a training step's inputs as the configuration says: `token_dropout`, `wrong_pictures`, `picture_dropout`.

    Pictures are exchanged first and left out afterwards.

    Args:
        inputs: The step's inputs.
        labels: `(batch, pairs)` int64, or None. Pairs that are about an exchanged picture lose their relation.
        config: The model's configuration.

    Returns:
        Inputs and labels in the same shapes.

    Raises:
        ValueError: If tokens are to be hidden and `marker_mask` is missing.
    """
    if config.token_dropout:
        if inputs.marker_mask is None:
            raise ValueError(
                f"token_dropout={config.token_dropout} needs marker_mask, which tells the tokens that stay. Give the "
                "model everything that the processor returns, or set token_dropout to 0."
            )
        attention_mask = hide_tokens(inputs.attention_mask, inputs.marker_mask, config.token_dropout)
        inputs = replace(inputs, attention_mask=attention_mask)
    image_index = inputs.image_index
    if image_index is not None and config.wrong_pictures:
        image_index, is_wrong = exchange_pictures(image_index, config.wrong_pictures)
        if labels is not None:
            none = None if config.none_relation is None else config.relation_names.index(config.none_relation)
            labels = labels_of_wrong_pictures(labels, is_wrong, inputs.entity_is_region, inputs.pair_index, none)
    if image_index is not None and config.picture_dropout:
        image_index = drop_pictures(image_index, config.picture_dropout)
    return replace(inputs, image_index=image_index), labels


def drop_pictures(image_index: Tensor, rate: float) -> Tensor:
    """Take the picture from some samples.

    Args:
        image_index: `(batch,)` int64, each sample's picture, -1 for none.
        rate: Probability with which a sample loses its picture.

    Returns:
        `(batch,)`, with -1 for the samples that have lost theirs.
    """
    return image_index.masked_fill(torch.rand(image_index.shape, device=image_index.device) < rate, -1)


def exchange_pictures(image_index: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Show some samples another picture of the batch.

    Args:
        image_index: `(batch,)` int64, each sample's picture, numbered from 0, -1 for none.
        rate: Probability with which a sample gets another picture.

    Returns:
        `(batch,)`, the pictures, and `(batch,)` bool, which samples now have a wrong one. A sample without a picture
        stays without; where the batch has a single picture, nothing changes.
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

    A pair of two text entities keeps its relation, because the text is still there. A pair with an object has lost
    the object, and with it the relation. This rule is our choice.

    Args:
        labels: `(batch, pairs)` int64.
        is_wrong: `(batch,)` bool, which samples show a wrong picture.
        entity_is_region: `(batch, entities)` bool, see `PairInputs`.
        pair_index: `(batch, pairs, 2)` int64, see `PairInputs`.
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
        kept: `(batch, length)`, 1 = a token that stays. The first token stays too.
        rate: Probability of being hidden.

    Returns:
        `(batch, length)`.
    """
    hidden = torch.rand(attention_mask.shape, device=attention_mask.device) < rate
    hidden[:, 0] = False
    return attention_mask.masked_fill(hidden & ~kept.bool(), 0)
