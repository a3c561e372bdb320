"""Predictions of a model over a split, and their scores."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.samples import GroupedSamples, LengthBucketBatchSampler, SampleCollator
from roc.scoring import relation_scores


@dataclass(frozen=True)
class Predictions:
    """One entry per row of the split, in the order in which the samples list them.

    Args:
        row_ids: Ids of the rows.
        expected: Relations that the data states.
        predicted: Relations that the model ranks first.
    """

    row_ids: list[str]
    expected: list[str]
    predicted: list[str]


@torch.no_grad()
def predict_relations(
    model: RocModel,
    processor: RocProcessor,
    samples: GroupedSamples,
    *,
    batch_size: int = 64,
) -> Predictions:
    """Rank the relations of every pair, in the model's own precision, so that training and scoring agree.

    Args:
        model: The model; it is set to evaluation mode.
        processor: Its processor.
        samples: The split.
        batch_size: Samples per forward pass.

    Returns:
        The predictions.
    """
    model.eval()
    sampler = LengthBucketBatchSampler(
        [sample.approximate_length for sample in samples.samples], batch_size, shuffle=False
    )
    loader = DataLoader(samples, batch_sampler=sampler, collate_fn=SampleCollator(processor, relations=None))
    names = model.config.relation_names
    ranked_first: list[str] = []
    for _, batch in tqdm(loader, desc="scoring", disable=not sys.stderr.isatty(), leave=False):
        batch = batch.to(model.device)
        logits = model(**batch).logits
        best = logits[batch["pair_mask"].bool()].argmax(dim=-1)
        ranked_first.extend(names[number] for number in best.tolist())
    queue = iter(ranked_first)  # in the sampler's order
    predicted = {
        number: [next(queue) for _ in samples.samples[number].pairs] for numbers in sampler for number in numbers
    }
    return Predictions(
        [row_id for sample in samples.samples for row_id in sample.row_ids],
        [relation for sample in samples.samples for relation in sample.relations],
        [name for number in range(len(samples)) for name in predicted[number]],
    )


def score_predictions(predictions: Predictions, none_relation: str | None) -> dict[str, Any]:
    """`relation_scores` of the predictions."""
    return relation_scores(predictions.predicted, predictions.expected, none_relation=none_relation)
