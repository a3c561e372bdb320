"""Calibration on a validation split: honest probabilities, and when a pair gets no relation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roc.evaluation.drawn import DrawnInventory, area_under_curve, draw_inventories, even_f1
from roc.evaluation.predictions import Predictions
from roc.modeling_decisions_roc import HARD_PENALTY
from roc.modeling_roc import RocModel

NUM_BINS = 15  # Guo et al.
NUM_HALVES = 2
MIN_PAIRS = 30  # fewer do not calibrate; our choice
MIN_OF_A_KIND = 10  # so many with a relation, and so many besides those of any one, choose a threshold; our choice
NUM_DRAWS = 50  # inventories that choose it
# Relations in each, at most: as many as a person writes. What 5 unseen relations of FewRel choose is within 3 points of
# the best F1 with 3 to 15 of them.
DRAWN_SIZE = 5
# Share of the pairs outside that fall below the threshold where training has seen the relations. On FewRel these pairs
# are as near to seen relations as to unseen ones, so it gives the threshold that unseen relations choose; pairs inside
# are nearer by 0.1 to seen ones, and the threshold with the best F1 on them is worse than none on unseen ones.
REJECTED = 0.7
# What few pairs are weighed against. With the first, 30 pairs that are all right, each with logits 1 apart, get the
# probability 0.97: that of Laplace's rule of succession, 31 / 32. A thousand pairs move by less than 1 %.
PRIOR_WIDTH = 0.5  # standard deviation of a normal prior of the temperature's logarithm, whose mean is 0
PRIOR_PAIRS = 10  # of each kind: the weight of the threshold half-way between the kinds' mean cosines
COLUMNS = ("best", "is_inside", "is_other", "is_right")

logger = logging.getLogger("roc.evaluation.calibration")


def calibrate(model: RocModel, predictions: Predictions, *, unseen: bool = False, seed: int = 0) -> dict[str, Any]:
    """Choose `probability_temperature` and `none_threshold` on predictions, and say what they are worth.

    Both are chosen on all predictions and written into the model's configuration. What they are worth is measured on
    each half of the predictions with what the other half chooses. The threshold is for inventories that are written on
    the spot: it is chosen over `NUM_DRAWS` of them, each of which has half of the relations that occur, but at most
    `DRAWN_SIZE`, drawn at random. Pairs of the others, and those without a relation, should get none.

    Fewer than `MIN_PAIRS` predictions choose nothing: the temperature is 1 then. A threshold also needs `MIN_OF_A_KIND`
    pairs with a relation, and besides those of the commonest kind.

    Args:
        model: The model; its configuration is changed.
        predictions: Its predictions on the validation split, whose pairs without a relation carry `none_relation`.
        unseen: Whether training has not seen these relations, so that their pairs are as far from them as those of an
            inventory written on the spot: see `fit_threshold`.
        seed: Decides which predictions make up each half, and which inventories are drawn.

    Returns:
        `num_pairs`, how many predictions there are, `probability_temperature`, `calibration_error` (`before` and
        `after`: see `expected_calibration_error`) and `reliability` after calibration. Where there are enough pairs,
        and the model retrieves, also `none_threshold` and `drawn_inventories`: `num_draws`, `unseen`, `auc` (see
        `area_under_curve`) and `micro_f1` (see `even_f1`) per way to say "none": `never`, `threshold`, and where it is
        described `described` (the description of "none" wins). They are means over the draws.
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
    if config.head == "retrieval" and _has_both_kinds(predictions.expected, config.none_relation):
        num_relations = len({*predictions.expected} - {config.none_relation})
        size = max(1, min(DRAWN_SIZE, num_relations // 2))
        draws = draw_inventories(model, predictions, size=size, num_draws=NUM_DRAWS, seed=seed)
        config.none_threshold = report["none_threshold"] = fit_threshold(draws, unseen=unseen)
        report["drawn_inventories"] = _worth(draws, halves, unseen=unseen)
    _log(report)
    return report


def _has_both_kinds(expected: Sequence[str], none_relation: str | None) -> bool:
    counts = Counter(expected)
    num_related, num_others = (
        len(expected) - counts[none_relation or ""],
        len(expected) - max(counts.values(), default=0),
    )
    return len(expected) >= MIN_PAIRS and min(num_related, num_others) >= MIN_OF_A_KIND


def fit_threshold(draws: Sequence[DrawnInventory], rows: Tensor | None = None, *, unseen: bool) -> float:
    """Choose the threshold of cosines over all inventories together.

    Of relations that training has not seen it is the one with the best `even_f1`: the lowest best one, half-way between
    two cosines. It is averaged with the point half-way between the mean cosines of the pairs inside the inventories and
    of the others, which few pairs move less; that one weighs as much as `PRIOR_PAIRS` of the rarer kind.

    Relations that training has seen lie nearer to their pairs than others will, so these pairs say nothing about it. Of
    such relations it is the cosine below which a share of `REJECTED` of the other pairs falls.

    Args:
        draws: The inventories, of the same pairs.
        rows: `(rows,)` int64, the pairs that choose; None for all.
        unseen: Whether training has not seen the relations.
    """
    keep = slice(None) if rows is None else rows
    best, inside, other, right = (torch.cat([getattr(own, name)[keep] for own in draws]) for name in COLUMNS)
    best, inside, right = (own[inside | other] for own in (best, inside, right))
    num_inside, num_others = inside.sum().item(), (~inside).sum().item()
    if not num_inside or not num_others:
        return 1.0 if num_others else -1.0
    if not unseen:
        return float(np.quantile(best[~inside].numpy(), REJECTED))
    weights = torch.where(inside, 1.0, num_inside / num_others).double()
    order = best.argsort(descending=True)
    cosines = torch.cat([best[order], torch.tensor([-1.0])])
    f1 = 2 * right[order].cumsum(0) / (weights[order].cumsum(0) + num_inside)
    f1[cosines[:-1] == cosines[1:]] = -1  # equal cosines cannot be told apart
    last = int(torch.nonzero(f1 == f1.max())[-1])
    chosen = cosines[last : last + 2].mean().item()
    middle = (best[inside].mean().item() + best[~inside].mean().item()) / 2
    pairs = min(num_inside, num_others) / len(draws)
    weight = pairs / (pairs + PRIOR_PAIRS)
    return weight * chosen + (1 - weight) * middle


def _worth(draws: Sequence[DrawnInventory], halves: Tensor, *, unseen: bool) -> dict[str, Any]:
    """Measure, on each half of the pairs, what the other half's threshold is worth, and the other ways to say none."""
    rows = [torch.nonzero(halves == half)[:, 0] for half in range(NUM_HALVES)]
    thresholds = [fit_threshold(draws, rows[1 - half], unseen=unseen) for half in range(NUM_HALVES)]

    def mean_f1(accept: Callable[[DrawnInventory, float], Tensor]) -> float:
        both = [*zip(thresholds, rows)]
        return mean(even_f1(own, accept(own, threshold), kept) for own in draws for threshold, kept in both)

    micro_f1 = {
        "never": mean_f1(lambda own, _: torch.ones_like(own.is_inside)),
        "threshold": mean_f1(lambda own, threshold: own.best >= threshold),
    }
    if draws[0].none is not None:
        micro_f1["described"] = mean_f1(lambda own, _: own.best >= own.none)
    areas = [area_under_curve(own.best[own.is_inside], own.best[own.is_other]) for own in draws]
    return {"num_draws": len(draws), "unseen": unseen, "auc": mean(areas), "micro_f1": micro_f1}


def _log(report: dict[str, Any]) -> None:
    num_pairs = report["num_pairs"]
    if num_pairs < MIN_PAIRS:
        what = "%d validation pairs are too few to calibrate probabilities: at least %d are needed"
        logger.warning(what, num_pairs, MIN_PAIRS)
        return
    what = "on %d validation pairs: probability_temperature %.3f, none_threshold %s"
    threshold = report.get("none_threshold")
    logger.info(what, num_pairs, report["probability_temperature"], "-" if threshold is None else f"{threshold:.3f}")


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
