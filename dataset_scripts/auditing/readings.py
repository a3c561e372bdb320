"""What could be read of a row besides the meaning of its text and picture: the readings that are probed.

A reading that no model should learn from, such as a file name, is an artefact. One that may honestly go with a
relation, such as the length of a name, is a cue: it is worth knowing, but no defect of the data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import PurePath

from roc.dataset_scripts.auditing.lookup import bin_numbers
from roc.dataset_scripts.auditing.rows import AuditedRow
from roc.dataset_scripts.auditing.side_inputs import names_of
from roc.processing_typing_roc import COARSE_TAGS

# Slots of side inputs that are looked at: systems take a few side inputs and fill up with zeros.
MAX_SLOTS = 10
# A word of file names is read if it is in this share of the rows; rarer ones, as a lookup is, are learnt by heart.
MIN_WORD_SHARE = 0.01

WORD = re.compile(r"[^\W\d_]+")  # letters alone
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Reading:
    """One thing that is read of each row.

    Args:
        name: What it is called in tables.
        what: The same in a sentence: what was read.
        values: What was read of each row.
        is_cue: Whether it may honestly go with a relation.
        tells_none_only: Whether it is probed for "none or not" alone.
        tells_relation_only: Whether it is probed for the relation alone.
    """

    name: str
    what: str
    values: Sequence[Hashable]
    is_cue: bool = False
    tells_none_only: bool = False
    tells_relation_only: bool = False


def all_readings(
    rows: Sequence[AuditedRow], side_inputs: Sequence[Sized] | None, *, has_none: bool
) -> Iterator[Reading]:
    """Yield all readings of the rows, in the order of the tables.

    Args:
        rows: The rows.
        side_inputs: Those of each row, or None if there are none.
        has_none: Whether one of the relations means that there is none.
    """
    words = label_words(rows)
    if side_inputs is not None:
        yield from _side_input_readings(side_inputs, words)
    names = [[] if row.picture_name is None else [row.picture_name] for row in rows]
    yield Reading("picture given", "whether a row has a picture", [row.picture is not None for row in rows])
    yield Reading("picture size", "width and height of the picture", [row.picture_size for row in rows])
    yield from _name_readings("picture", names, words)
    yield Reading(
        "types given", "for which of head and tail a type is given", [tuple(map(bool, _types(row))) for row in rows]
    )
    yield from _place_readings(rows)
    yield from _order_readings(rows, has_none=has_none)
    yield from _size_readings(rows)


def label_words(rows: Iterable[AuditedRow]) -> set[str]:
    """Return the words of the relations' names and the common words for entity types, in lower case."""
    relations = {row.relation for row in rows}
    return {word for word in (*COARSE_TAGS, *_words(relations)) if len(word) > 2}


def _side_input_readings(side_inputs: Sequence[Sized], words: set[str]) -> Iterator[Reading]:
    counts = [len(own) for own in side_inputs]
    yield Reading("number of side inputs", "how many side inputs a row has", counts)
    yield Reading("side inputs given", "whether a row has any side input", [count > 0 for count in counts])
    for slot in range(2, min(max(counts), MAX_SLOTS) + 1):
        filled = [count >= slot for count in counts]
        yield Reading(f"slot {slot} of side inputs", f"whether slot {slot} of the side inputs is filled", filled)
    yield from _name_readings("side input", [names_of(own) for own in side_inputs], words)


def _name_readings(what: str, names: Sequence[Sequence[str]], words: set[str]) -> Iterator[Reading]:
    """Yield what can be read of the file names of each row."""
    stems = [[PurePath(name).stem.casefold() for name in own] for own in names]
    found = [_words(own) for own in stems]
    counts = Counter(word for own in found for word in own)
    common = {word for word, count in counts.items() if count >= MIN_WORD_SHARE * len(names)}
    yield Reading(f"words in {what} names", f"the words in the {what}s' file names", _among(found, common))
    about = f"relation and type words in the {what}s' file names"
    yield Reading(f"label words in {what} names", about, _among(found, words))
    prefixes = [_NUMBER.split(own[0], maxsplit=1)[0] if own else None for own in stems]
    yield Reading(f"prefix of {what} names", f"the {what} file name up to its first number", prefixes)
    numbers = [[int(number[:15]) for number in _NUMBER.findall(own[0])] if own else [] for own in stems]
    for place, index in (("first", 0), ("last", -1)):
        values = bin_numbers([own[index] if own else None for own in numbers])
        yield Reading(f"{place} number in {what} names", f"the {place} number in the {what} file name", values)


def _place_readings(rows: Sequence[AuditedRow]) -> Iterator[Reading]:
    """Yield what the ids and the order of the rows could tell: sorted data, or ids of different origin."""
    sizes = Counter(row.split for row in rows)
    places = [row.index / sizes[row.split] for row in rows]
    yield Reading("row number", "the place of a row in its file", bin_numbers(places))
    parts = [_NUMBER.sub("0", row.row_id.removeprefix(row.split)) for row in rows]
    yield Reading("form of the id", "the row's id without its numbers", parts)
    numbers = [_NUMBER.findall(row.row_id) for row in rows]
    own = [int(found[0][:15]) if found else None for found in numbers]
    if not _follows_rows(rows, own):
        yield Reading("number in the id", "the first number in the row's id", bin_numbers(own))


def _follows_rows(rows: Sequence[AuditedRow], numbers: Sequence[int | None]) -> bool:
    """Tell whether numbers grow with the rows, so that they say no more than the row number."""
    pairs = zip(zip(rows, numbers), zip(rows[1:], numbers[1:]))
    return all(
        row.split != following.split or (number is not None and next_number is not None and number <= next_number)
        for (row, number), (following, next_number) in pairs
    )


def _order_readings(rows: Sequence[AuditedRow], *, has_none: bool) -> Iterator[Reading]:
    """Yield the order of head and tail: whether they are related at all has none, what relates them may have one."""
    orders = [_order(row) for row in rows]
    what = "whether the head comes before the tail"
    if has_none:
        yield Reading("order of head and tail", what, orders, tells_none_only=True)
    yield Reading("order of head and tail", what, orders, is_cue=True, tells_relation_only=True)
    kinds = [tuple("object" if own["bbox"] is not None else "text" for own in (row.head, row.tail)) for row in rows]
    yield Reading("kind of pair", "which of head and tail are objects in the picture", kinds, is_cue=True)


def _order(row: AuditedRow) -> str:
    starts = row.head["start"], row.tail["start"]
    if None in starts:
        return "not both in the text"
    return "head first" if starts <= starts[::-1] else "tail first"


def _size_readings(rows: Sequence[AuditedRow]) -> Iterator[Reading]:
    pairs = Counter((row.text, row.picture) for row in rows)
    boxes: dict[Hashable, set[tuple[float, ...]]] = {}
    for row in rows:
        own = [tuple(entity["bbox"]) for entity in (row.head, row.tail) if entity["bbox"] is not None]
        boxes.setdefault((row.text, row.picture), set()).update(own)
    sizes: dict[str, tuple[str, list[float | None]]] = {
        "text length": ("the number of characters of the text", [len(row.text) for row in rows]),
        "head length": ("the number of characters of the head", [_length(row.head) for row in rows]),
        "tail length": ("the number of characters of the tail", [_length(row.tail) for row in rows]),
        "size of the head's box": ("the size of the head's box", [_area(row.head) for row in rows]),
        "size of the tail's box": ("the size of the tail's box", [_area(row.tail) for row in rows]),
        "number of boxes": (
            "how many boxes the pairs of a text have",
            [len(boxes[row.text, row.picture]) for row in rows],
        ),
        "pairs of a text": ("how many pairs are listed of a text", [pairs[row.text, row.picture] for row in rows]),
    }
    for name, (what, values) in sizes.items():
        yield Reading(name, what, bin_numbers(values), is_cue=True)


def _length(entity: dict[str, object]) -> int | None:
    return None if entity["start"] is None else len(str(entity["name"]))


def _area(entity: dict) -> float | None:
    if entity["bbox"] is None:
        return None
    x0, y0, x1, y1 = entity["bbox"]
    return (x1 - x0) * (y1 - y0)


def _types(row: AuditedRow) -> tuple[str | None, str | None]:
    return row.head["type"], row.tail["type"]


def _words(texts: Iterable[str]) -> set[str]:
    return {word.casefold() for text in texts for word in WORD.findall(text)}


def _among(found: Sequence[set[str]], allowed: set[str]) -> list[Hashable]:
    return [tuple(sorted(own & allowed)) for own in found]
