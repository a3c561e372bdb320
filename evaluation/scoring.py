"""Scores of relation extraction, computed the way the field reports them on MNRE and MORE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def relation_scores(
    predictions: Sequence[str], references: Sequence[str], *, none_relation: str | None
) -> dict[str, Any]:
    """Compare predicted with true relations, one of each per entity pair.

    With `correct` = pairs whose prediction equals the reference and is not `none_relation`, `predicted` = predictions
    other than `none_relation`, and `gold` = references other than `none_relation`:

        precision = correct / predicted
        recall    = correct / gold
        micro_f1  = 2 * precision * recall / (precision + recall)
        macro_f1  = mean F1 over all relations but `none_relation` that occur in references or predictions
        accuracy  = pairs whose prediction equals the reference, `none_relation` included / n

    A quotient with denominator 0 counts as 0.

    Args:
        predictions: Predicted relation names, one per pair.
        references: True relation names, in the same order.
        none_relation: Name of the relation that means "no relation": it counts in the accuracy only. `None` when the
            inventory has no such relation; then nothing is excluded.

    Returns:
        `accuracy`, `precision`, `recall`, `micro_f1`, `macro_f1` (floats in [0, 1]), `per_relation` (name to
        `precision`, `recall`, `f1` and `support`, the number of references; `none_relation` included; sorted by name)
        and `n` (number of pairs).

    Raises:
        ValueError: If there are no pairs, or not as many predictions as references.
        TypeError: If something other than relation names is given, such as label ids.

    Source:
        Micro scores: `eval_result` of OpenNRE (Han et al., 2019), which MEGA, HVPNeT, MKGformer and MOREformer report.
        Macro F1: scikit-learn's `f1_score(..., average="macro", labels=<the occurring relations>, zero_division=0)`.
    """
    _check_pairs(predictions, references)
    correct = Counter(gold for predicted, gold in zip(predictions, references, strict=True) if predicted == gold)
    predicted, gold = Counter(predictions), Counter(references)
    per_relation = {
        name: {**_precision_recall_f1(correct[name], predicted[name], gold[name]), "support": gold[name]}
        for name in sorted(predicted | gold)
    }
    positive = [name for name in per_relation if name != none_relation]
    micro = _precision_recall_f1(*(sum(count[name] for name in positive) for count in (correct, predicted, gold)))
    return {
        "accuracy": correct.total() / len(references),
        "precision": micro["precision"],
        "recall": micro["recall"],
        "micro_f1": micro["f1"],
        "macro_f1": _ratio(sum(per_relation[name]["f1"] for name in positive), len(positive)),
        "per_relation": per_relation,
        "n": len(references),
    }


def macro_scores(per_relation: Mapping[str, Mapping[str, float]], relations: Sequence[str]) -> dict[str, float]:
    """Average precision, recall and F1 over relations, in both ways that papers on unseen relations do.

    With P and R the precision and recall of a relation, each relation counting alike:

        macro_precision = mean of P
        macro_recall    = mean of R
        macro_f1        = mean of 2 * P * R / (P + R)
        f1_of_means     = 2 * macro_precision * macro_recall / (macro_precision + macro_recall), never less

    Args:
        per_relation: What `relation_scores` gives under that name; a relation that it lacks scores 0.
        relations: The relations to average over: those of the inventory, without the one that means "none of these".

    Raises:
        ValueError: If there are no relations.

    Source:
        Opitz and Burst, "Macro F1 and Macro F1" (2019). The last is what ZS-BERT and RE-Matching report.
    """
    if not relations:
        raise ValueError("There is nothing to average: relations are empty.")
    means = {
        key: sum(per_relation[name][key] for name in relations if name in per_relation) / len(relations)
        for key in ("precision", "recall", "f1")
    }
    precision, recall = means["precision"], means["recall"]
    f1_of_means = _ratio(2 * precision * recall, precision + recall)
    return {
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": means["f1"],
        "f1_of_means": f1_of_means,
    }


def confusion_matrix(predictions: Sequence[str], references: Sequence[str], relations: Sequence[str]) -> np.ndarray:
    """Count how often each true relation was predicted as each relation.

    Args:
        predictions: Predicted relation names, one per pair.
        references: True relation names, in the same order.
        relations: Every relation that can occur, in the order of rows and columns.

    Returns:
        int64 array (relations, relations): references in rows, predictions in columns.

    Raises:
        ValueError: If a relation is listed twice, a prediction or reference isn't listed, or as `relation_scores`.
        TypeError: As `relation_scores`.
    """
    _check_pairs(predictions, references)
    index = {name: i for i, name in enumerate(relations)}
    if len(index) < len(relations):
        repeated = [name for name, count in Counter(relations).items() if count > 1]
        raise ValueError(f"Relations are listed twice: {repeated}. Give each row and column its own relation.")
    unknown = sorted((set(predictions) | set(references)) - set(index))
    if unknown:
        raise ValueError(
            f"Predictions or references hold relations that aren't listed: {unknown}. Add them to relations."
        )
    matrix = np.zeros((len(relations), len(relations)), dtype=np.int64)
    for (gold, predicted), count in Counter(zip(references, predictions)).items():
        matrix[index[gold], index[predicted]] = count
    return matrix


def _precision_recall_f1(correct: int, predicted: int, gold: int) -> dict[str, float]:
    precision, recall = _ratio(correct, predicted), _ratio(correct, gold)
    return {"precision": precision, "recall": recall, "f1": _ratio(2 * precision * recall, precision + recall)}


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    for name, relations in (("predictions", predictions), ("references", references)):
        if isinstance(relations, str):
            raise TypeError(f"{name} is one string, {relations!r}; give a list with one relation name per pair.")
        wrong = next((relation for relation in relations if not isinstance(relation, str)), None)
        if wrong is not None:
            raise TypeError(f"{name} hold {wrong!r}, a {type(wrong).__name__}; give relation names, not label ids.")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; give one of each per pair.")
    if not len(references):
        raise ValueError("There is nothing to score: predictions and references are empty.")
