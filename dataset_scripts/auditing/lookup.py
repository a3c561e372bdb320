"""The trivial predictor of the audit, and how sure its accuracy is.

It looks up the most frequent answer of what one reading (a number of crops, a file name, ...) has in other rows. Rows
that share a text or a picture are never on both sides, so what it gains over always giving the most frequent answer
is not learnt by heart.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

NUM_FOLDS = 5
# The predictor gives another answer than the most frequent one only where it is ahead by this many standard errors of
# the difference of their counts: else it would follow chance in each small bin, and do worse than nothing. Our choice.
MARGIN = 2.0
CONFIDENCE = 0.95
# Numbers with more values than this are put into bins of like size, of about `ROWS_PER_BIN` rows.
MAX_BINS, ROWS_PER_BIN = 50, 50


@dataclass(frozen=True)
class Score:
    """How well a predictor does, and what it is compared with; all but the p-values are of 1.

    Args:
        num_rows: The rows that were predicted.
        accuracy: Its share of right answers.
        low: Lower end of the accuracy's confidence interval.
        high: Upper end.
        baseline: The accuracy of always giving the most frequent answer.
        p_value: How probable such a gain over the baseline would be if nothing were to gain.
        balanced_accuracy: The mean recall of the answers when each counts alike, however rare; its chance is one over
            the number of answers. None where it is not measured.
        balanced_p_value: The same of it.
        precision: Precision of the answer that was asked about; None where none was, or it is never given.
        recall: Recall of that answer.
    """

    num_rows: int
    accuracy: float
    low: float
    high: float
    baseline: float
    p_value: float
    balanced_accuracy: float | None = None
    balanced_p_value: float = 1.0
    precision: float | None = None
    recall: float | None = None

    @property
    def gain(self) -> float:
        """The accuracy above the baseline."""
        return self.accuracy - self.baseline

    @property
    def errors_removed(self) -> float:
        """The effect size: the share of the baseline's errors that are removed (Goodman and Kruskal's lambda)."""
        return self.gain / (1 - self.baseline) if self.baseline < 1 else 0.0


def encode(values: Iterable[Hashable]) -> np.ndarray:
    """Return an integer array (rows,): values are numbered from the most frequent one, ties as they come."""
    listed = list(values)
    numbers = {value: number for number, (value, _) in enumerate(Counter(listed).most_common())}
    return np.array([numbers[value] for value in listed], dtype=np.int64)


def bin_numbers(numbers: Sequence[float | None]) -> list[Hashable]:
    """Return each number's bin if there are many numbers, else the numbers; None stays None."""
    known = np.array([number for number in numbers if number is not None], dtype=float)
    num_bins = min(MAX_BINS, max(2, len(known) // ROWS_PER_BIN))
    if len(np.unique(known)) <= num_bins:
        return list(numbers)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, num_bins + 1)[1:-1]))
    return [None if number is None else int(np.searchsorted(edges, number, side="right")) for number in numbers]


def folds_of(groups: Sequence[int]) -> np.ndarray:
    """Return the fold of each row, from 0: that of its group, by a hash of the group's number."""
    return np.array([zlib.crc32(str(group).encode()) % NUM_FOLDS for group in groups])


def score_lookup(values: np.ndarray, answers: np.ndarray, groups: np.ndarray, *, asked: int | None = None) -> Score:
    """Cross-validate the lookup of answers by values.

    Args:
        values: Integer array (rows,): what was read of each row.
        answers: Integer array (rows,): what is to be told, 0 the most frequent, as `encode` gives it.
        groups: Integer array (rows,): rows of one group are in one fold.
        asked: The answer whose precision and recall are measured, and with them the balanced accuracy; None for none.
    """
    given, weighed = np.zeros_like(answers), np.zeros_like(answers)
    folds = folds_of(groups.tolist())
    for fold in range(NUM_FOLDS):
        held_out = folds == fold
        counts = count_answers(values[~held_out], answers[~held_out], shape=(values.max() + 1, answers.max() + 1))
        given[held_out] = best_answers(counts)[values[held_out]]
        weighed[held_out] = best_answers(counts, alike=True)[values[held_out]]
    return score_answers(given, answers, groups, weighed=None if asked is None else weighed, asked=asked)


def count_answers(values: np.ndarray, answers: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """Count how often each answer goes with each value: an array (values, answers) of that shape."""
    return np.bincount(values * shape[1] + answers, minlength=shape[0] * shape[1]).reshape(shape)


def best_answers(counts: np.ndarray, *, margin: float = MARGIN, alike: bool = False) -> np.ndarray:
    """Return the best answer to each value: an integer array (values,).

    Args:
        counts: What `count_answers` counted.
        margin: How many standard errors an answer must be ahead of the most frequent one, 0.
        alike: Whether an answer counts the more the rarer it is, so that all count alike.
    """
    totals = np.maximum(counts.sum(0), 1)
    weights = totals.sum() / totals if alike else np.ones(len(totals))
    weighed = (counts * weights).round(9)  # so that rounding errors break no ties
    best = weighed.argmax(1)  # ties go to the more frequent answer
    rows = np.arange(len(counts))
    variance = counts[rows, best] * weights[best] ** 2 + counts[:, 0] * weights[0] ** 2
    is_ahead = weighed[rows, best] - weighed[:, 0] >= margin * np.sqrt(variance)
    return np.where(is_ahead, best, 0)


def score_answers(
    given: np.ndarray,
    answers: np.ndarray,
    groups: np.ndarray,
    *,
    weighed: np.ndarray | None = None,
    asked: int | None = None,
) -> Score:
    """Score the answers that a predictor gave.

    Args:
        given: Integer array (rows,): its answers.
        answers: Integer array (rows,): the right ones.
        groups: Integer array (rows,): rows of one group are not independent.
        weighed: Integer array (rows,): its answers where each kind of answer counts alike, or None.
        asked: The answer whose precision and recall are measured, or None.
    """
    groups, counts = np.unique(groups, return_inverse=True)[1], np.bincount(answers)
    right, baseline = given == answers, answers == counts.argmax()
    accuracy = float(right.mean())
    low, high = _interval(accuracy, _by_group(right - accuracy, groups), len(answers))
    others: dict[str, Any] = {}
    if asked is not None:
        said = given == asked
        others["precision"] = float(right[said].mean()) if said.any() else None
        others["recall"] = float(said[answers == asked].mean())
    if weighed is not None:
        weights = 1 / (len(np.unique(answers)) * counts[answers])
        gains = weights * ((weighed == answers).astype(float) - (answers == 0))
        others["balanced_accuracy"] = float((weights * (weighed == answers)).sum())
        others["balanced_p_value"] = _p_value(_by_group(gains, groups))
    return Score(
        num_rows=len(answers),
        accuracy=accuracy,
        low=low,
        high=high,
        baseline=float(baseline.mean()),
        p_value=_p_value(_by_group(right.astype(float) - baseline, groups)),
        **others,
    )


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(groups, weights=values)


def _p_value(gains: np.ndarray) -> float:
    """Return how probable so large a sum is if each group's gain had either sign with equal probability.

    Source: the sign-flip test (Fisher, "The Design of Experiments", 1935, section 21), in the normal approximation.
    """
    spread = math.sqrt(float((gains**2).sum()))
    return NormalDist().cdf(-float(gains.sum()) / spread) if spread > 0 else 1.0


def _interval(accuracy: float, errors: np.ndarray, num_rows: int) -> tuple[float, float]:
    """Return Wilson's interval of an accuracy, for as many independent rows as the groups are worth.

    Args:
        accuracy: The accuracy.
        errors: Float array (groups,): the sum of each group's deviations from it.
        num_rows: The number of rows.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927; the variance
    by groups as in Liang and Zeger, Biometrika 73, 1986.
    """
    variance = float((errors**2).sum()) / num_rows**2
    worth = min(num_rows, accuracy * (1 - accuracy) / variance) if variance > 0 else len(errors)
    return wilson(accuracy, float(worth))


def wilson(share: float, number: float) -> tuple[float, float]:
    """Return Wilson's confidence interval of a share of so many independent rows."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    reach = z / (1 + z**2 / number) * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)
