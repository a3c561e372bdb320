"""What only training does: the loss, and inputs that are missing or misleading on purpose.

Pictures are left out or exchanged, tokens hidden, relations left out. Random numbers come from PyTorch's generator.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from .configuration_roc import RocConfig
from .modeling_fusion_roc import PairInputs
from .processing_entities_roc import NO_LABEL


def corrupt_inputs(inputs: PairInputs, labels: Tensor | None, config: RocConfig) -> tuple[PairInputs, Tensor | None]:
    """Corrupt the inputs of a training step as the configuration says.

    `token_dropout` hides tokens; `wrong_pictures` exchanges pictures, and `picture_dropout` leaves them out afterwards.

    Args:
        inputs: The step's inputs.
        labels: `(batch, pairs)` int64, or None. Pairs that are about an exchanged picture lose their relation.
        config: The model's configuration.

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
    """Replace each number of `image_index` `(batch,)` by -1, which stands for no picture, with probability `rate`."""
    return image_index.masked_fill(torch.rand(image_index.shape, device=image_index.device) < rate, -1)


def exchange_pictures(image_index: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Show samples another picture of the batch, each with probability `rate`.

    Returns:
        `(batch,)`, as `image_index`, and `(batch,)` bool, which samples now have a wrong picture. A sample without a
        picture stays without; where the batch has a single picture, nothing changes.
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
    """Take the relation from pairs that are about an object of a wrong picture.

    A pair of two text entities keeps its relation, because the text is still there. A pair with an object has lost
    the object, and with it the relation. This rule is our choice.

    `is_wrong` `(batch,)` bool tells which samples show a wrong picture; `PairInputs` describes the arguments behind it.
    `none_number` is the relation that means "none of these"; None leaves such pairs out of the loss.
    """
    has_object = entity_is_region.gather(1, pair_index.flatten(1)).view(pair_index.shape).any(dim=-1)
    lost = is_wrong[:, None] & has_object & (labels != NO_LABEL)
    return labels.masked_fill(lost, NO_LABEL if none_number is None else none_number)


def hide_tokens(attention_mask: Tensor, kept: Tensor, rate: float) -> Tensor:
    """Hide tokens of `attention_mask` `(batch, length)` with probability `rate`, as if the text lacked them.

    The first token stays, and so do those that `kept` `(batch, length)` names with 1.
    """
    hidden = torch.rand(attention_mask.shape, device=attention_mask.device) < rate
    hidden[:, 0] = False
    return attention_mask.masked_fill(hidden & ~kept.bool(), 0)


def drop_relations(logits: Tensor, labels: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Leave out relations at random, but no relation that a pair has.

    Args:
        logits: `(..., num_relations)`.
        labels: `(...)` int64, as `retrieval_loss` takes them.
        probability: Probability of leaving a relation out, in [0, 1).

    Returns:
        `(..., kept relations)`, the logits of the relations that are kept, and `(...)`, the labels as numbers of these.
    """
    kept = torch.rand(logits.shape[-1], device=logits.device) >= probability
    kept[labels[labels >= 0]] = True
    numbers = kept.cumsum(0) - 1
    return logits[..., kept], torch.where(labels >= 0, numbers[labels.clamp(min=0)], labels)


def retrieval_loss(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Contrastive loss of pairs against the relations of the bank.

    For a pair vector p, its relation's vector r+ and the vectors R of all relations, with temperature t,
    `-log(exp(p.r+ / t) / sum_{r in R} exp(p.r / t))`. This is InfoNCE whose negatives are all other relations of the
    bank. Other pairs of the batch are none, so that processes that train together have no embeddings to exchange. Over
    label ids it is the softmax cross-entropy, which the classification head uses as well.

    Args:
        logits: `(..., num_relations)`, cosine / temperature; -inf for a relation with which a pair is not compared.
        labels: `(...)` int64, index of the relation, -100 where there is none to learn.
        label_smoothing: Share of the target that is spread over all relations that are compared, in [0, 1).
        num_items_in_batch: Number of labels to divide the sum by; None for the number of the batch's own labels. With
            the number of all accumulated batches, every pair of theirs weighs alike.

    Returns:
        A scalar in float32; 0 where the batch has no label.

    Source:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), equation 4.
    """
    logits, labels = logits.flatten(0, -2).float(), labels.flatten()
    total = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
    if label_smoothing:  # PyTorch's own would be infinite where a relation is not compared
        is_compared = logits > -torch.inf
        log_probabilities = logits.log_softmax(dim=-1).masked_fill(~is_compared, 0)
        spread = -(log_probabilities.sum(dim=-1) / is_compared.sum(dim=-1))[labels != NO_LABEL].sum()
        total = (1 - label_smoothing) * total + label_smoothing * spread
    if num_items_in_batch is None:
        num_items_in_batch = (labels != NO_LABEL).sum().clamp(min=1)
    return total / num_items_in_batch
