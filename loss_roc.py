"""The training objective: pairs against the descriptions of all relations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NO_LABEL = -100  # PyTorch's cross-entropy leaves it out


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
        logits: `(..., num_relations)`, cosine / temperature.
        labels: `(...)` int64, index of the relation, -100 where there is none to learn.
        label_smoothing: Share of the target that is spread over all relations, in [0, 1).
        num_items_in_batch: Number of labels to divide the sum by; None for the number of the batch's own labels. With
            the number of all accumulated batches, every pair of theirs weighs alike.

    Returns:
        A scalar in float32; 0 where the batch has no label.

    Source:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), equation 4.
    """
    total = functional.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=NO_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if num_items_in_batch is None:
        num_items_in_batch = (labels != NO_LABEL).sum().clamp(min=1)
    return total / num_items_in_batch
