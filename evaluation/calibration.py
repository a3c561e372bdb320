"""Calibration on a validation split: honest probabilities, and when a pair gets no relation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roc.evaluation.predictions import Predictions, predict_relations, score_relations
from roc.modeling_decisions_roc import HARD_PENALTY
from roc.modeling_roc import RocModel
from roc.processing_roc import RocProcessor
from roc.relations.files import RelationInventory
from roc.samples.grouping import GroupedSamples

NUM_BINS = 15  # Guo et al.
NUM_HALVES = 2
MIN_PAIRS = 30  # fewer do not calibrate; our choice
MIN_OF_A_KIND = 10  # so many of these with a relation, and so many without, choose a threshold; our choice
# What few pairs are weighed against. With the first, 30 pairs that are all right, each with logits 1 apart, get the
# probability 0.97: that of Laplace's rule of succession, 31 / 32. A thousand pairs move by less than 1 %.
PRIOR_WIDTH = 0.5  # standard deviation of a normal prior of the temperature's logarithm, whose mean is 0
PRIOR_PAIRS = 10  # of each kind: the weight of the threshold half-way between the kinds' mean cosines

logger = logging.getLogger("roc.evaluation.calibration")


def calibrate(
    model: RocModel, predictions: Predictions, by_label: Predictions | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """Choose `probability_temperature` and `none_threshold` on predictions, and say what they are worth.

    Both are chosen on all predictions and written into the model's configuration. What they are worth is measured on
    each half of the predictions with what the other half chooses. The threshold is for relations that training has not
    seen, whose descriptions lie farther from their pairs; relations described by their labels alone stand in for them.

    Fewer than `MIN_PAIRS` predictions choose nothing: the temperature is 1 then. A threshold also needs `MIN_OF_A_KIND`
    pairs with a relation, and without.

    Args:
        model: The model; its configuration is changed.
        predictions: Its predictions on the validation split, whose pairs without a relation carry `none_relation`.
        by_label: The same with relations described by their labels (`predict_by_label`); None to choose no threshold.
        seed: Decides which predictions make up each half.

    Returns:
        `num_pairs`, how many predictions there are, `probability_temperature`, `calibration_error` (`before` and
        `after`: see `expected_calibration_error`) and `reliability` after calibration. Where there are enough pairs of
        both kinds and `by_label`, also `none_threshold`, `abstention` (`micro_f1` and `macro_f1` per way to say "none":
        `described`, the description of "none" wins; `threshold`, the best other relation's cosine is too low; `both`,
        either) and `abstention_by_label` (the same of `threshold` and of `never`).
    """
    config, names = model.config, model.config.relation_names
    logits = predictions.logits
    labels = torch.tensor([names.index(name) for name in predictions.expected], dtype=torch.long)
    halves = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)) % NUM_HALVES)
    fitted, config.probability_temperature = [1.0] * NUM_HALVES, 1.0
    if len(labels) >= MIN_PAIRS:
        fitted = [fit_temperature(logits[halves != half], labels[halves != half]) for half in range(NUM_HALVES)]
        config.probability_temperature = fit_temperature(logits, labels)
    before, is_right = logits.softmax(dim=-1).amax(dim=-1), logits.argmax(dim=-1) == labels
    after = (logits / torch.tensor(fitted)[halves][:, None]).softmax(dim=-1).amax(dim=-1)
    report: dict[str, Any] = {
        "num_pairs": len(labels),
        "probability_temperature": config.probability_temperature,
        "calibration_error": {
            "before": expected_calibration_error(before, is_right),
            "after": expected_calibration_error(after, is_right),
        },
        "reliability": reliability(after, is_right),
    }
    none_relation = config.none_relation
    if by_label is not None and none_relation is not None and _has_both_kinds(predictions.expected, none_relation):
        seen, unseen = (
            _Abstention(own.logits * model.temperature, names, none_relation, predictions.expected)
            for own in (predictions, by_label)
        )
        config.none_threshold = report["none_threshold"] = unseen.fit("threshold", torch.arange(len(labels)))
        report["abstention"] = {way: seen.scores_of_halves(way, halves) for way in ("described", "threshold", "both")}
        report["abstention_by_label"] = {way: unseen.scores_of_halves(way, halves) for way in ("threshold", "never")}
    _log(report)
    return report


def _has_both_kinds(expected: Sequence[str], none_relation: str) -> bool:
    num_unrelated = sum(name == none_relation for name in expected)
    return len(expected) >= MIN_PAIRS and min(num_unrelated, len(expected) - num_unrelated) >= MIN_OF_A_KIND


def _log(report: dict[str, Any]) -> None:
    num_pairs = report["num_pairs"]
    if num_pairs < MIN_PAIRS:
        what = "%d validation pairs are too few to calibrate probabilities: at least %d are needed"
        logger.warning(what, num_pairs, MIN_PAIRS)
        return
    what = "on %d validation pairs: probability_temperature %.3f, none_threshold %s"
    threshold = report.get("none_threshold")
    logger.info(what, num_pairs, report["probability_temperature"], "-" if threshold is None else f"{threshold:.3f}")


def predict_by_label(model: RocModel, processor: RocProcessor, samples: GroupedSamples, **options: Any) -> Predictions:
    """Predict while the relations of a model that retrieves are described by their labels alone.

    The model has its own descriptions again afterwards; `options` are those of `predict_relations`.
    """
    relations, none_relation = list(model.config.relations), model.config.none_relation
    by_label = RelationInventory(relations, none_relation).described_by_labels()
    model.set_relations(by_label.relations, processor, none_relation=none_relation)
    try:
        return predict_relations(model, processor, samples, **options)
    finally:
        model.set_relations(relations, processor, none_relation=none_relation)


class _Abstention:
    """Ways to say "none" on the same cosines `(pairs, relations)`, of pairs whose true relations are `expected`."""

    def __init__(self, cosines: Tensor, names: Sequence[str], none_relation: str, expected: Sequence[str]) -> None:
        none = names.index(none_relation)
        others = cosines.clone()
        others[:, none] = -torch.inf
        self.best, numbers = others.max(dim=-1)
        self.best = self.best.clamp(min=-1)  # where type constraints rule out every relation
        self.none_is_nearest = cosines[:, none] > self.best
        self.candidates = [names[number] for number in numbers.tolist()]
        self.none_relation, self.expected = none_relation, expected

    def decide(self, way: str, threshold: float, rows: Tensor) -> list[str]:
        by_description = self.none_is_nearest[rows] & (way in ("described", "both"))
        is_none = by_description | ((self.best[rows] < threshold) & (way in ("threshold", "both")))
        return [self.none_relation if no else self.candidates[row] for row, no in zip(rows.tolist(), is_none.tolist())]

    def fit(self, way: str, rows: Tensor) -> float:
        """Choose the threshold with the best micro-F1 on `rows`, drawn to one that two means tell.

        The lowest best one is taken, half-way between two cosines. It is averaged with the point half-way between the
        mean cosines of the pairs with a relation and of those without, which few pairs move less; that one weighs as
        much as `PRIOR_PAIRS` of the rarer kind.
        """
        rows = rows[self.best[rows].argsort(descending=True)]
        kept = rows[~self.none_is_nearest[rows]] if way == "both" else rows
        if not len(kept):
            return 1.0
        cosines = torch.cat([self.best[kept], torch.tensor([-1.0])])
        is_right = torch.tensor([self.candidates[row] == self.expected[row] for row in kept.tolist()])
        is_related = torch.tensor([self.expected[row] != self.none_relation for row in rows.tolist()])
        f1 = 2 * is_right.cumsum(0) / (torch.arange(1, len(kept) + 1) + is_related.sum())
        f1[cosines[:-1] == cosines[1:]] = -1  # equal cosines cannot be told apart
        last = torch.nonzero(f1 == f1.max())[-1].item()
        best = cosines[last : last + 2].mean().item()
        kinds = self.best[rows[is_related]], self.best[rows[~is_related]]
        if not all(map(len, kinds)):
            return best
        middle = sum(own.mean().item() for own in kinds) / 2
        weight = min(map(len, kinds)) / (min(map(len, kinds)) + PRIOR_PAIRS)
        return weight * best + (1 - weight) * middle

    def scores_of_halves(self, way: str, halves: Tensor) -> dict[str, float]:
        rows = [torch.nonzero(halves == half)[:, 0] for half in range(NUM_HALVES)]
        decided = [self.decide(way, self.fit(way, rows[1 - half]), rows[half]) for half in range(NUM_HALVES)]
        predicted = [name for own in decided for name in own]
        expected = [self.expected[row] for row in torch.cat(rows).tolist()]
        scores = score_relations(predicted, expected, none_relation=self.none_relation)
        return {key: scores[key] for key in ("micro_f1", "macro_f1")}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the most probable temperature t, with which `softmax(logits / t)` gives probabilities.

    It minimises their cross-entropy, summed over the pairs, plus `(log t / PRIOR_WIDTH) ** 2 / 2`. Without the second
    term a few pairs that are all right would make every answer certain, and pairs that are all wrong would make none
    more probable than another. Pairs whose true relation is ruled out by its types say nothing about it.

    Args:
        logits: `(pairs, relations)`.
        labels: `(pairs,)` int64.

    Returns:
        The temperature; 1 for no pair.

    Raises:
        ValueError: If a logit is not finite.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2; the prior is ours. Each round of
        the search zooms in on the best of a grid.
    """
    if not torch.isfinite(logits).all():
        raise ValueError("The model's logits are not all finite: nothing can be calibrated. Look at its weights.")
    is_possible = logits.amax(dim=-1) - logits.gather(-1, labels[:, None])[:, 0] < HARD_PENALTY / 2
    logits, labels = logits[is_possible].double(), labels[is_possible]
    lowest, highest = 1e-3, 1e3
    for _ in range(4):
        grid = np.geomspace(lowest, highest, 25)
        losses = [
            functional.cross_entropy(logits / t, labels, reduction="sum").item() + (np.log(t) / PRIOR_WIDTH) ** 2 / 2
            for t in grid
        ]
        best = int(np.argmin(losses))
        lowest, highest = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(grid[best])


def reliability(confidences: Tensor, is_right: Tensor) -> list[dict[str, float]]:
    """Measure how often predictions of like confidence are right.

    Args:
        confidences: `(pairs,)` in [0, 1], the probability of the predicted relation.
        is_right: `(pairs,)` bool.

    Returns:
        Per bin of width 1/15 that holds a pair, its mean `confidence`, its `accuracy` and its `share` of the pairs.
    """
    bins = (confidences * NUM_BINS).ceil().clamp(1, NUM_BINS)
    return [
        {
            "confidence": confidences[own].mean().item(),
            "accuracy": is_right[own].float().mean().item(),
            "share": own.float().mean().item(),
        }
        for own in (bins == number for number in bins.unique())
    ]


def expected_calibration_error(confidences: Tensor, is_right: Tensor) -> float:
    """Return the sum over the bins of `reliability` of `share * |accuracy - confidence|`.

    Source:
        Guo et al. (2017), equation 3, with their 15 bins.
    """
    return sum(own["share"] * abs(own["accuracy"] - own["confidence"]) for own in reliability(confidences, is_right))
