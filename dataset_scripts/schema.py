"""The one schema that every builder writes: a row is one ordered pair of entities, and the relation between them.

An entity is either a span of the text or a box in the picture:

* text entity: `start` and `end` are half-open character offsets into `text`, `bbox` is null;
* object: `start` and `end` are null, `bbox` is (x0, y0, x1, y1), normalised to [0, 1], origin top left.

`type` is null or lower-case words: one of `ENTITY_TYPES`, or what else a model's `entity_types` has. It comes from the
text, the picture or the user, never from the relation label.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from roc.messages_roc import check_unicode, did_you_mean, quote
from roc.processing_entities_roc import check_box, check_span
from roc.processing_typing_roc import COARSE_TAGS, ENTITY_TYPES, word_of_type

Row = dict[str, Any]
Entity = dict[str, Any]

SPLITS = ("train", "val", "test")

ROW_KEYS = ("id", "text", "image", "head", "tail", "relation")
ENTITY_KEYS = ("name", "start", "end", "type", "bbox")


def text_entity(text: str, start: int, end: int, *, entity_type: str | None = None) -> Entity:
    """Make a text entity of the schema, named by the text that its span covers.

    Args:
        text: The row's text.
        start: First character of the span.
        end: One past its last character.
        entity_type: Lower-case words, or None where it is unknown.
    """
    return {"name": text[start:end], "start": start, "end": end, "type": entity_type, "bbox": None}


def object_entity(name: str, bbox: Sequence[float], *, entity_type: str | None = "object") -> Entity:
    """Make an object of the schema: an entity that is seen in the picture.

    Args:
        name: The object's name in output.
        bbox: (x0, y0, x1, y1), normalised to [0, 1], origin top left.
        entity_type: Lower-case words, or None where it is unknown.
    """
    return {"name": name, "start": None, "end": None, "type": entity_type, "bbox": [float(side) for side in bbox]}


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Check that a row obeys the schema.

    Args:
        row: The row. `image` may be anything that `datasets.Image` encodes, or None.
        where: The row's place, such as `train.jsonl:12`; put in front of every error.

    Raises:
        ValueError: If a column is missing, unknown or empty, a span lies outside the text or does not match its name,
            a type is not in lower-case words, a box is not finite, empty or outside [0, 1], or head and tail are one.
        TypeError: If a value has the wrong type.
    """
    where = f"{where} (row {quote(row.get('id'))})"
    check_keys(row, ROW_KEYS, where=where)
    for column in ("id", "text", "relation"):
        _check_string(row[column], where=f"{where}: {column!r}")
    places = {}
    if isinstance(row["image"], str):
        check_unicode(row["image"], f"{where}: 'image'")
    for role in ("head", "tail"):
        places[role] = _check_entity(row[role], row["text"], where=f"{where}: {role!r}")
        if row["image"] is None and row[role]["bbox"] is not None:
            raise ValueError(
                f"{where}: {role!r} is a box in a picture, but the row has no image. Give the row an image, or drop it."
            )
    if places["head"] == places["tail"]:
        raise ValueError(
            f"{where}: 'head' and 'tail' are the same entity, {quote(row['head']['name'])} at {places['head']}. A "
            "relation is between two: give another one, or drop the row."
        )


def check_keys(data: Any, allowed: Sequence[str], *, where: str, optional: Sequence[str] = ()) -> None:
    """Check that `data` is a mapping with the allowed keys and no others, of which some may be left out."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{where} must be an object with the keys {list(allowed)}, got {quote(data)}.")
    for key in data:
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            raise ValueError(f"{where}: unknown key {quote(key)}.{hint} Allowed are {list(allowed)}.")
    if missing := [key for key in allowed if key not in data and key not in optional]:
        raise ValueError(f"{where}: missing {missing}. Its keys are {list(allowed)}.")


def _check_entity(entity: Any, text: str, *, where: str) -> tuple[float, ...]:
    """Check an entity, and return its place: offsets, or a box as a data set keeps it, in float32."""
    check_keys(entity, ENTITY_KEYS, where=where)
    _check_string(entity["name"], where=f"{where}: 'name'")
    _check_type(entity["type"], where=where)
    has_span = entity["start"] is not None or entity["end"] is not None
    if has_span == (entity["bbox"] is not None):
        raise ValueError(
            f"{where} must have either a span ('start' and 'end': an entity in the text) or a 'bbox' (an object in the "
            f"picture), got start={quote(entity['start'])}, end={quote(entity['end'])}, bbox={quote(entity['bbox'])}."
        )
    if has_span:
        start, end = check_span(entity["start"], entity["end"], len(text), where)
        covered = text[start:end]
        if entity["name"] != covered:
            raise ValueError(
                f"{where}: the name {quote(entity['name'])} is not the text of its span [{start}, {end}), "
                f"which is {quote(covered)}. Spans are half-open character offsets into 'text'."
            )
        return start, end
    return tuple(array("f", check_box(entity["bbox"], where)))


def _check_type(entity_type: Any, *, where: str) -> None:
    if entity_type is None:
        return
    _check_string(entity_type, where=f"{where}: 'type'")
    plain = entity_type.lower().strip()
    word = COARSE_TAGS.get(plain, plain) if entity_type == plain else word_of_type(entity_type, ENTITY_TYPES) or plain
    if entity_type != word:
        raise ValueError(
            f"{where}: 'type' must be lower-case words such as 'person', or null, got {quote(entity_type)}. Write "
            f"{quote(word)}."
        )


def _check_string(value: Any, *, where: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a string, got {quote(value)}.")
    if not value.strip():
        raise ValueError(f"{where} must not be empty.")
    check_unicode(value, where)
