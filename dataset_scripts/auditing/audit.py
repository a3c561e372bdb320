"""The audit: every reading is probed with the trivial predictor, and gets a verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from roc.dataset_scripts.auditing.duplicates import count_repeats, most_frequent_relation, probe_copies
from roc.dataset_scripts.auditing.lookup import Score, encode, score_lookup, wilson
from roc.dataset_scripts.auditing.readings import Reading, all_readings
from roc.dataset_scripts.auditing.rows import AuditedRow, find_none_relation, group_rows
from roc.messages_roc import quote
from roc.processing_typing_roc import COARSE_TAGS

Tells = Literal["relation", "none or not", "type in the label"]
Verdict = Literal["LEAKS", "cue", "clean"]

# Our choice. A reading tells something if the predictor that sees nothing else is right on two rows of a hundred more
# than the most frequent answer, or tells "none or not" at 60 % where both count alike (a coin: 50 %) ...
MIN_GAIN = 0.02
MIN_BALANCED_ACCURACY = 0.6
# ... and chance would do so in one audit of a hundred: each p-value is compared with this over the number of tests.
MAX_P_VALUE = 0.01

# Types found in the text differ from the label's own type words now and then: taggers reach an F1 of 92 to 93 on news
# (spaCy's models on OntoNotes), and far less on tweets. Types that agree more often than this were not found.
MAX_TYPE_AGREEMENT = 0.95


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Args:
        probe: Its name.
        what: What was read, for a sentence.
        tells: What it was asked to tell.
        score: How well it did.
        usual: The most frequent answer, for a sentence.
        is_cue: Whether it may honestly tell it.
        verdict: `"LEAKS"`, `"cue"` (it tells it, and may honestly do so) or `"clean"`.
        extra: A further sentence, or nothing.
    """

    probe: str
    what: str
    tells: Tells
    score: Score
    usual: str
    is_cue: bool = False
    verdict: Verdict = "clean"
    extra: str = ""


@dataclass(frozen=True)
class Audit:
    """What is known of a data set after its audit.

    Args:
        rows: The number of rows of each split.
        none_relation: The relation that means "none", or None where there is none.
        grouped_by: What the rows of a group share, which were never on both sides of the cross-validation.
        num_groups: The number of those groups.
        findings: One for each probe, in the order of the readings.
        unread: The readings that are the same for all rows, so that nothing could be probed.
        repeats: What `count_repeats` returns.
        max_p_value: The largest p-value that counts.
    """

    rows: dict[str, int]
    none_relation: str | None
    grouped_by: str
    num_groups: int
    findings: list[Finding]
    unread: list[str]
    repeats: dict[str, Any]
    max_p_value: float

    def found(self, verdict: Verdict) -> list[Finding]:
        """Return the findings with a verdict, the largest gain first."""
        found = [own for own in self.findings if own.verdict == verdict]
        return sorted(found, key=lambda own: own.score.gain, reverse=True)


def audit_rows(
    rows: Sequence[AuditedRow], *, side_inputs: Sequence[Sized] | None = None, none_relation: str | None = None
) -> Audit:
    """Probe everything that could be read of the rows.

    Args:
        rows: The rows of one or several splits; each split's in its order.
        side_inputs: The side inputs of each row, or None if there are none.
        none_relation: The relation that means "none"; None to find it by its usual names.

    Raises:
        ValueError: If the rows have one relation only, are too few, or `none_relation` does not occur.
    """
    relations = encode(row.relation for row in rows)
    if len(np.unique(relations)) < 2:
        raise ValueError(
            f"All {len(rows)} rows have the relation {quote(rows[0].relation) if rows else None}, so nothing can tell "
            "it from others. Give rows with at least two relations."
        )
    none = find_none_relation(rows, none_relation)
    grouped_by, numbers = group_rows(rows)
    groups = np.array(numbers)
    readings = list(all_readings(rows, side_inputs, has_none=none is not None))
    varied = [reading for reading in readings if len(set(reading.values)) > 1]
    findings = [finding for reading in _with_progress(varied) for finding in _probe(reading, rows, none, groups)]
    for copy in probe_copies(rows, groups):
        extra = f"{copy.num_shared:,} of the {copy.num_rows:,} rows of the other splits have such a training row."
        findings.append(Finding(copy.name, copy.what, "relation", copy.score, copy.usual, copy.is_cue, extra=extra))
    findings += _probe_types(rows, groups)
    num_tests = sum(1 + (own.score.balanced_accuracy is not None) for own in findings)
    limit = MAX_P_VALUE / max(1, num_tests)
    judged = [_judge(finding, limit) for finding in findings]
    return Audit(
        rows={split: sum(row.split == split for row in rows) for split in dict.fromkeys(row.split for row in rows)},
        none_relation=none,
        grouped_by=grouped_by,
        num_groups=int(groups.max()) + 1,
        findings=judged,
        unread=[reading.name for reading in readings if len(set(reading.values)) < 2],
        repeats=count_repeats(rows),
        max_p_value=limit,
    )


def _with_progress(readings: list[Reading]) -> Iterator[Reading]:
    yield from tqdm(readings, desc="probing", disable=None)


def _probe(reading: Reading, rows: Sequence[AuditedRow], none: str | None, groups: np.ndarray) -> Iterator[Finding]:
    values = encode(reading.values)
    if not reading.tells_none_only:
        answers = encode(row.relation for row in rows)
        score = score_lookup(values, answers, groups)
        yield Finding(reading.name, reading.what, "relation", score, most_frequent_relation(rows), reading.is_cue)
    if none is not None and not reading.tells_relation_only:
        is_none = [row.relation == none for row in rows]
        answers = encode(is_none)
        asked = int(answers[is_none.index(True)])
        score = score_lookup(values, answers, groups, asked=asked)
        usual = none if asked == 0 else "a relation"
        yield Finding(reading.name, reading.what, "none or not", score, usual, reading.is_cue)


def _probe_types(rows: Sequence[AuditedRow], groups: np.ndarray) -> Iterator[Finding]:
    """Compare types with those that the labels name, such as `/per/org/member_of` or `org:members`."""
    agree, own_groups = [], []
    for row, group in zip(rows, groups.tolist()):
        for entity, stated in zip((row.head, row.tail), types_in_label(row.relation)):
            if stated is not None and entity["type"] is not None and entity["bbox"] is None:
                agree.append(entity["type"] == stated)
                own_groups.append(group)
    if not agree:
        return
    differing = {group for group, own in zip(own_groups, agree) if not own}
    num_groups, share = len(set(own_groups)), sum(agree) / len(agree)
    low, high = wilson(share, num_groups)
    p_value = _binomial_tail(num_groups - len(differing), num_groups, MAX_TYPE_AGREEMENT)
    score = Score(len(agree), share, low, high, baseline=MAX_TYPE_AGREEMENT, p_value=p_value)
    usual = "what a tagger finds"
    yield Finding("types of the label", "the type of head and tail", "type in the label", score, usual)


def types_in_label(label: str) -> tuple[str | None, str | None]:
    """Return the types of head and tail that a label names before its own name; None where it names none."""
    parts = re.split("[/:]", label.strip("/"))[:-1][:2]
    head, tail = (*(COARSE_TAGS.get(part.strip().casefold()) for part in parts), None, None)[:2]
    return head, tail


def _binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return how probable at least so many successes are."""

    def log_probability(number: int) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(number + 1) - math.lgamma(trials - number + 1)
        return ways + number * math.log(probability) + (trials - number) * math.log(1 - probability)

    return min(1.0, math.fsum(math.exp(log_probability(number)) for number in range(successes, trials + 1)))


def _judge(finding: Finding, max_p_value: float) -> Finding:
    score = finding.score
    gains = score.gain >= MIN_GAIN and score.p_value <= max_p_value
    balanced = score.balanced_accuracy is not None and score.balanced_accuracy >= MIN_BALANCED_ACCURACY
    if not gains and not (balanced and score.balanced_p_value <= max_p_value):
        return finding
    return replace(finding, verdict="cue" if finding.is_cue else "LEAKS")
