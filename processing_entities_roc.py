"""Entities as callers give them: names or spans of a text, or boxes in a picture; checked at the border."""

from __future__ import annotations

import itertools
import numbers
import operator
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from .messages_roc import check_unicode, quote, shorten
from .processing_typing_roc import ENTITY_TYPES, type_hint, word_of_type

NO_LABEL = -100  # of a pair without a relation: PyTorch's cross-entropy leaves it out
BOX_ROUNDING = 1e-6  # how far detectors' float32 arithmetic may put a side beyond the picture: it is moved to the edge
MAX_PAIRS = 10_000  # of all entities of one text: a hundred of them; more have to be asked for


@dataclass(frozen=True)
class Entity:
    """An entity as the processor sees it: a span of the text, or a box in the picture.

    Args:
        start: First character of a text entity.
        end: Character after its last.
        type: Its type in words; None to have the entity typer predict it, `""` for an entity without a type.
        bbox: `xyxy` of an object, in [0, 1], origin top left.
        name: An object's name: a detector's label or a caption. The name of a text entity is in the text.
        role: The kind of marker that is put around it.
    """

    start: int | None = None
    end: int | None = None
    type: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    name: str | None = None
    role: Literal["entities", "head", "tail"] = "entities"

    @property
    def is_object(self) -> bool:
        """Whether the entity is a box in the picture."""
        return self.bbox is not None


def check_entity(entity: Any, text: str, where: str, entity_types: Sequence[str] = ENTITY_TYPES) -> Entity:
    """Check an entity that a caller gave, and bring its type into one of `entity_types`.

    Args:
        entity: A mapping with `start` and `end`, or `bbox`, and optionally `type`; `(start, end)`;
            `(start, end, type)`; or an `Entity`. An object's `name` is kept; other keys are ignored.
        text: The text that the offsets point into.
        where: The entity's name in an error.
        entity_types: The types that it may have.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the span is empty, blank or outside the text, the box is inverted, empty or outside [0, 1], or
            the type is unknown.
    """
    start, end, kind, bbox, name = _fields(entity, where)
    if kind is not None and not (isinstance(kind, str) and kind == ""):
        kind = check_type(kind, entity_types, where)
    if bbox is not None:
        if start is not None or end is not None:
            both = f"({quote(start)}, {quote(end)}) and {quote(bbox)}"
            raise ValueError(f"{where}: an entity is a span or a box; both were given: {both}.")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"{where}: name must be a string or None; given {quote(name)}.")
        check_unicode(name or "", f"{where}: name")
        return Entity(type=kind, bbox=check_box(bbox, where), name=name)
    start, end = check_span(start, end, len(text), where)
    if text[start:end].isspace():
        raise ValueError(f"{where}: the span ({start}, {end}) holds only white space of the text {shorten(text)!r}.")
    return Entity(start, end, kind)


def check_type(given: Any, entity_types: Sequence[str], where: str) -> str:
    """Turn a type in upper or lower case, or a tagger's label such as PER, into one of `entity_types`.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is no such type. `where` is put in front of the message.
    """
    if not isinstance(given, str):
        raise TypeError(f"{where}: type must be a string or None; given {quote(given)}.")
    check_unicode(given, f"{where}: type")
    word = word_of_type(given, entity_types)
    if word is None:
        raise ValueError(f"{where}: the entity type {shorten(given)!r} is not known.{type_hint(given, entity_types)}")
    return word


def check_span(start: Any, end: Any, length: int, where: str, *, unit: str = "character") -> tuple[int, int]:
    """Check a half-open span of a text, and return its offsets as plain integers.

    Args:
        start: Its first offset.
        end: The offset after its last.
        length: The length of the text, in units.
        where: Put in front of every error.
        unit: What the offsets count: `"character"`, `"word"` or `"token"`.

    Raises:
        TypeError: If an offset is no integer.
        ValueError: If the span is empty, reversed or outside the text.
    """
    if not is_int(start) or not is_int(end):
        raise TypeError(
            f"{where}: start and end must be integers, or give a bbox; given start={quote(start)}, end={quote(end)}."
        )
    if not 0 <= start < end <= length:
        problem = "is empty" if start == end else "is reversed" if start > end else "lies outside the text"
        raise ValueError(
            f"{where}: the span ({quote(start)}, {quote(end)}) {problem}. Spans are half-open {unit} offsets with "
            f"0 <= start < end <= {length}, the number of {unit}s of the text."
        )
    return operator.index(start), operator.index(end)


def _fields(entity: Any, where: str) -> tuple[Any, Any, Any, Any, Any]:
    """Read start, end, type, bbox and name of an entity in any of its forms."""
    if isinstance(entity, Entity):
        return entity.start, entity.end, entity.type, entity.bbox, entity.name
    if isinstance(entity, Mapping):
        return entity.get("start"), entity.get("end"), entity.get("type"), entity.get("bbox"), entity.get("name")
    if isinstance(entity, Sequence) and not isinstance(entity, str) and len(entity) in (2, 3):
        return entity[0], entity[1], entity[2] if len(entity) == 3 else None, None, None
    raise TypeError(
        f"{where}: give a mapping with start and end, or bbox; or (start, end[, type]); given {quote(entity)}."
    )


def check_box(bbox: Any, where: str) -> tuple[float, float, float, float]:
    """Check a box in a picture, `(x0, y0, x1, y1)` in [0, 1], origin top left.

    Raises:
        ValueError: If it is not four numbers, or the box is inverted, empty in float32, or outside the picture by more
            than `BOX_ROUNDING`. `where` is put in front of the message.
    """
    try:
        if isinstance(bbox, (str, bytes, Mapping, Set)) or any(isinstance(own, (str, bytes, bool)) for own in bbox):
            raise TypeError("not four numbers in order")
        given = x0, y0, x1, y1 = tuple(map(float, bbox))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: bbox must be four numbers (x0, y0, x1, y1); given {quote(bbox)}.") from error
    if all(-BOX_ROUNDING <= side <= 1 + BOX_ROUNDING for side in given):  # false for NaN
        x0, y0, x1, y1 = (min(max(side, 0.0), 1.0) for side in given)
    inside = all(0 <= side <= 1 for side in (x0, y0, x1, y1))
    if not inside or _float32(x0) >= _float32(x1) or _float32(y0) >= _float32(y1):
        raise ValueError(
            f"{where}: bbox {given} is not a box in the picture. Give (left, top, right, bottom), not "
            "(x, y, width, height), with the origin top left, x0 < x1, y0 < y1, and all in [0, 1]: divide pixels by "
            "the picture's width and height."
        )
    return x0, y0, x1, y1


def _float32(value: float) -> float:
    """Round as tensors and data sets do: two sides that are one there make an empty box."""
    [rounded] = struct.unpack("f", struct.pack("f", value))
    return rounded


def check_has_picture(entities: Sequence[Entity], has_picture: bool, where: str, *, reads_images: bool = True) -> None:
    """Raise a ValueError where an entity is a box, but there is no picture or the model reads none."""
    for number, entity in enumerate(entities):
        if entity.is_object and not reads_images:
            raise ValueError(
                f"{where}: entity {number} is a box in a picture, but this processor's model reads text only. Leave it "
                "out, or load a model with a vision encoder."
            )
        if entity.is_object and not has_picture:
            raise ValueError(
                f"{where}: entity {number} is a box in a picture, but there is no picture. Give the picture, or leave "
                "the box out."
            )


def check_number_of_regions(entities: Sequence[Entity], most: int, where: str) -> None:
    """Raise a ValueError where more than `most` of the entities are objects."""
    count = sum(entity.is_object for entity in entities)
    if count > most:
        raise ValueError(f"{where}: {count} objects were given, but max_regions={most}. Leave out the least relevant.")


def check_number_of_pairs(num_entities: int, where: str, most: int | None = None) -> None:
    """Raise a ValueError where all ordered pairs of so many entities are more than `most` (`MAX_PAIRS` for None)."""
    pairs, allowed = num_entities * (num_entities - 1), MAX_PAIRS if most is None else most
    if pairs > allowed:
        raise ValueError(
            f"{where}: {num_entities} entities make {pairs} pairs, but at most {allowed} are ranked (max_pairs). Name "
            "the entities or pairs that you ask about."
        )


def check_pairs(pairs: Any, num_entities: int, where: str) -> tuple[tuple[int, int], ...]:
    """Check the pairs of one text, `(head, tail)` numbers of its entities; None gives every ordered pair.

    Raises:
        TypeError: If a pair is not two integers.
        ValueError: If a pair names an entity that is not there, or one entity twice, or all pairs are more than
            `MAX_PAIRS`.
    """
    if pairs is None:
        check_number_of_pairs(num_entities, where)
        return tuple(itertools.permutations(range(num_entities), 2))
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise TypeError(f"{where}: pairs must be a list of (head, tail); given {quote(pairs)}.")
    return tuple(_check_pair(pair, num_entities, where) for pair in pairs)


def _check_pair(pair: Any, num_entities: int, where: str) -> tuple[int, int]:
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_int, pair)):
        raise TypeError(f"{where}: a pair is (head, tail), two numbers of entities; given {quote(pair)}.")
    head, tail = map(operator.index, pair)
    if head == tail or not (0 <= head < num_entities and 0 <= tail < num_entities):
        raise ValueError(
            f"{where}: the pair ({quote(head)}, {quote(tail)}) must name two different entities out of {num_entities} "
            "(counted from 0)."
        )
    return head, tail


def check_labels(labels: Any, num_pairs: int, where: str) -> tuple[int, ...] | None:
    if labels is None:
        return None
    if not isinstance(labels, Sequence) or not all(is_int(label) for label in labels):
        raise TypeError(f"{where}: labels must be a list of whole numbers, one per pair; given {quote(labels)}.")
    if len(labels) != num_pairs:
        raise ValueError(f"{where}: {len(labels)} labels were given for {num_pairs} pairs.")
    if not all(0 <= label < 2**31 or label == NO_LABEL for label in labels):
        raise ValueError(f"{where}: labels are indices of relations, or {NO_LABEL} for none; given {quote(labels)}.")
    return tuple(labels)


def join_words(words: Any, entities: Sequence[Any], where: str) -> tuple[str, list[Any]]:
    """Join words by single spaces to a text, and turn half-open word offsets of entities into character offsets.

    Raises:
        TypeError: If `words` is not a list of strings, or an offset is no integer.
        ValueError: If an offset is not that of a word.
    """
    if not isinstance(words, Sequence) or isinstance(words, str) or not all(isinstance(w, str) for w in words):
        raise TypeError(f"{where}: with is_split_into_words a text is a list of words; given {quote(words)}.")
    starts = [0, *itertools.accumulate(len(word) + 1 for word in words)]
    converted = []
    for j, entity in enumerate(entities):
        start, end, kind, bbox, name = _fields(entity, f"{where}, entity {j}")
        if bbox is None:
            start, end = check_span(start, end, len(words), f"{where}, entity {j}", unit="word")
            start, end = starts[start], starts[end] - 1
        converted.append({"start": start, "end": end, "type": kind, "bbox": bbox, "name": name})
    return " ".join(words), converted


def is_int(value: Any) -> TypeGuard[int]:
    """Whether it is an integer, one of NumPy or a tensor of one number included, but not a bool."""
    if type(value) is int:
        return True
    if getattr(value, "shape", None) == () and "int" in str(getattr(value, "dtype", "")):
        return True
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
