"""Predictions of a model over a split, and their scores."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from roc.modeling_roc import NO_RELATION, RocModel
from roc.processing_roc import RocProcessor
from roc.samples import GroupedSamples, LengthBucketBatchSampler, SampleCollator
from roc.scoring import relation_scores

ABSTAINED = ""  # what is predicted below `none_threshold`, where no relation of the inventory means "none of these"


@dataclass(frozen=True)
class Predictions:
    """One entry per row of the split, in the order in which the samples list them.

    Args:
        row_ids: Ids of the rows.
        expected: Relations that the data states.
        predicted: Relations that the model decides for; `ABSTAINED` for none.
        logits: `(pairs, relations)`, on the CPU.
    """

    row_ids: list[str]
    expected: list[str]
    predicted: list[str]
    logits: Tensor = field(compare=False)


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
    decided, logits = [], []
    for _, batch in tqdm(loader, desc="scoring", disable=not sys.stderr.isatty(), leave=False):
        batch = batch.to(model.device)
        logits.append(model(**batch).logits[batch["pair_mask"].bool()])
        decided.append(model.decide_relations(logits[-1]))
    order = _rows_in_order(samples, [number for numbers in sampler for number in numbers])
    names = dict(enumerate(model.config.relation_names)) | {NO_RELATION: ABSTAINED}
    return Predictions(
        [row_id for sample in samples.samples for row_id in sample.row_ids],
        [relation for sample in samples.samples for relation in sample.relations],
        [names[number] for number in torch.cat(decided)[order].tolist()],
        torch.cat(logits)[order].cpu(),
    )


def _rows_in_order(samples: GroupedSamples, numbers: Sequence[int]) -> Tensor:
    """Which row of a result, whose samples came in the order `numbers`, holds each pair of the samples in order."""
    counts = [len(samples.samples[number].pairs) for number in numbers]
    ends = dict(zip(numbers, itertools.accumulate(counts)))
    return torch.tensor(
        [
            row
            for number, sample in enumerate(samples.samples)
            for row in range(ends[number] - len(sample.pairs), ends[number])
        ]
    )


def score_predictions(predictions: Predictions, none_relation: str | None) -> dict[str, Any]:
    """`relation_scores` of the predictions."""
    no_relation = ABSTAINED if none_relation is None else none_relation
    return relation_scores(predictions.predicted, predictions.expected, none_relation=no_relation)
