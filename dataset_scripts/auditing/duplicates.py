"""Rows that are there more than once: within a split, across splits, and with contradictory relations."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roc.dataset_scripts.auditing.lookup import Score, best_answers, count_answers, encode, score_answers
from roc.dataset_scripts.auditing.readings import WORD
from roc.dataset_scripts.auditing.rows import AuditedRow
from roc.dataset_scripts.schema import Entity

# Links, mentions and digits differ between copies of a post, and so do punctuation, case and a leading "RT".
_LINK_OR_MENTION = re.compile(r"https?\s*:\s*/\s*/\s*\S+|@\s?\w+")


@dataclass(frozen=True)
class CopyProbe:
    """What the training rows tell about the rows of the other splits that share something with them.

    Args:
        name: What it is called in tables.
        what: What is read, for a sentence.
        is_cue: Whether it may honestly go with a relation.
        num_rows: The rows of the other splits.
        num_shared: Those that share it with a training row.
        score: That of a lookup that is trained on the training rows and answers the others; rows that share nothing
            get the most frequent relation of the training rows.
        usual: The most frequent relation of the other splits.
    """

    name: str
    what: str
    is_cue: bool
    num_rows: int
    num_shared: int
    score: Score
    usual: str


def near_text(text: str) -> str:
    """Return the words of a text alone, so that copies of a post have one form; the text itself where none are left."""
    words = WORD.findall(_LINK_OR_MENTION.sub(" ", text).casefold())
    return " ".join(words[1:] if words[:1] == ["rt"] else words) or text


def probe_copies(rows: Sequence[AuditedRow], groups: np.ndarray) -> list[CopyProbe]:
    """Look up the rows of the other splits among the training rows; empty unless there are both."""
    is_train = np.array([row.split == "train" for row in rows])
    if is_train.all() or not is_train.any():
        return []
    keys: dict[str, tuple[str, bool, Callable[[AuditedRow], Hashable]]] = {
        "text in train": ("the relation of training rows with the same text", False, lambda row: row.text),
        "near text in train": (
            "the relation of training rows with the same words (links, mentions, digits and punctuation apart)",
            False,
            lambda row: near_text(row.text),
        ),
        "text and pair in train": (
            "the relation of training rows with the same words, head and tail",
            False,
            lambda row: (near_text(row.text), *_names(row)),
        ),
        "pair in train": ("the relation of training rows with the same names of head and tail", True, _names),
    }
    return [
        _probe(name, what, is_cue, list(map(key, rows)), rows, is_train, groups)
        for name, (what, is_cue, key) in keys.items()
    ]


def _probe(
    name: str,
    what: str,
    is_cue: bool,
    keys: Sequence[Hashable],
    rows: Sequence[AuditedRow],
    is_train: np.ndarray,
    groups: np.ndarray,
) -> CopyProbe:
    values, answers = encode(keys), encode(row.relation for row in rows)
    shape = (int(values.max()) + 1, int(answers.max()) + 1)
    counts = count_answers(values[is_train], answers[is_train], shape=shape)
    # One row decides, as it does for a model that has learnt it by heart.
    given = best_answers(counts, margin=0)[values[~is_train]]
    num_shared = int((counts.sum(1) > 0)[values[~is_train]].sum())
    score = score_answers(given, answers[~is_train], groups[~is_train])
    usual = most_frequent_relation([row for row in rows if row.split != "train"])
    return CopyProbe(name, what, is_cue, int((~is_train).sum()), num_shared, score, usual)


def most_frequent_relation(rows: Sequence[AuditedRow]) -> str:
    """Return the relation that most of the rows have; of several, the one that comes first."""
    return Counter(row.relation for row in rows).most_common(1)[0][0]


def count_repeats(rows: Sequence[AuditedRow]) -> dict[str, Any]:
    """Count the rows that repeat another's text, picture and pair, whatever their split.

    Returns:
        `repeated_rows`, those beyond the first of each kind, and `contradictory_pairs`, the number of pairs of one
        text and picture that are there with several relations; `contradictory_rows` are their rows, and
        `first_contradiction` the ids of two of them, or None.
    """
    by_pair: dict[Hashable, list[AuditedRow]] = defaultdict(list)
    for row in rows:
        by_pair[row.text, row.picture, _place(row.head), _place(row.tail)].append(row)
    contradictory = [own for own in by_pair.values() if len({row.relation for row in own}) > 1]
    first = contradictory[0] if contradictory else []
    other = next((row.row_id for row in first if row.relation != first[0].relation), None)
    return {
        "repeated_rows": len(rows) - len(by_pair),
        "contradictory_pairs": len(contradictory),
        "contradictory_rows": sum(map(len, contradictory)),
        "first_contradiction": [first[0].row_id, other] if first else None,
    }


def _names(row: AuditedRow) -> tuple[str, str]:
    return row.head["name"].casefold(), row.tail["name"].casefold()


def _place(entity: Entity) -> Hashable:
    return entity["start"], entity["end"], None if entity["bbox"] is None else tuple(entity["bbox"])
