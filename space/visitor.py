"""Check what a visitor of the Space gives: a text, a picture, entities, and relations of the visitor's own.

Everything here is a plain function of what one request brings; nothing is kept between requests. An entity is called
by its name as the text has it (`Ann #2` where it is there several times), or `box 1` for the first box on the picture.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from roc.inference.posts import NUMBERED, parse_name
from roc.messages_roc import check_unicode
from roc.pipeline_posts_roc import Post, PostLimits, read_post
from roc.processing_images_roc import open_image
from roc.processing_names_roc import SearchedText, find_names
from roc.processing_roc import RocProcessor
from roc.relations_roc import OF_ENTITIES

MAX_CHARACTERS = 1000  # of a text; a post on social media has fewer
MAX_ENTITIES = 6  # that is thirty pairs
LIMITS = PostLimits(
    max_characters=MAX_CHARACTERS,
    max_entities=MAX_ENTITIES,
    max_image_bytes=4_000_000,
    max_pixels=16_000_000,  # decoded, 48 MB
)
MAX_RELATIONS = 100
MAX_DESCRIPTIONS = 6  # of one relation
MAX_NAME_CHARACTERS = 80
MAX_DESCRIPTION_CHARACTERS = 400

ALL_PAIRS = "all pairs"
NOTHING_SELECTED = "Select a name in the text first (on a phone: press long on it), then mark it."
BOX = re.compile(r"box ([1-9]\d?)")


def read_visitors_post(text: str, picture: Mapping[str, Any] | None, entities: Sequence[str], pair: str | None) -> Post:
    """Check a visitor's question.

    Args:
        text: The text.
        picture: `image`, a picture file in base64 or None, and `boxes`, `xyxy` as shares of the picture.
        entities: The visitor's names for the entities.
        pair: One of `pair_labels(entities)`; None for the first.

    Returns:
        The post, its picture RGB and upright.

    Raises:
        ValueError: If anything is missing, too large or unreadable; the message is for the visitor. The model checks
            the boxes.
    """
    check_text(text)
    names = list(dict.fromkeys(name.strip() for name in entities or [] if isinstance(name, str) and name.strip()))
    if len(names) < 2:
        raise ValueError("A relation holds between two entities. Mark two in the text, or draw a box on the picture.")
    LIMITS.check_sizes({"text": text, "entities": names}, "The post")
    given = picture if isinstance(picture, Mapping) and picture.get("image") else {"image": None}
    boxes = given.get("boxes")
    found = find_entities(names, text, boxes if isinstance(boxes, list) else [])
    asked = {"text": text, "image": given["image"], "entities": found}
    post = read_post(asked, None, where="The post", limits=LIMITS)
    image = None if post.image is None else open_image(post.image, "The post")
    return dataclasses.replace(post, image=image, pairs=_asked_pairs(names, pair))


def _asked_pairs(names: Sequence[str], pair: str | None) -> list[tuple[int, int]]:
    pairs = _pairs(names)
    if pair == ALL_PAIRS:
        return list(pairs.values())
    if pair and pair not in pairs:
        raise ValueError(f"{pair!r} is no pair of the entities {', '.join(names)}. Choose one from the list.")
    return [pairs[pair] if pair else (0, 1)]


def check_text(text: Any) -> None:
    """Refuse a text that is missing or too long."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("There is no text yet. Write the post's text, or take an example.")
    check_unicode(text, "The text")
    LIMITS.check_sizes({"text": text}, "The post")


# ---------------------------------------------------------------------------------------------------------------------
# Entities


def find_entities(names: Sequence[str], text: str, boxes: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Find the entities that a visitor calls `Ann`, `Ann #2` or `box 1`.

    Returns:
        For each `start` and `end`, half-open character offsets; or `bbox` and `name`.

    Raises:
        ValueError: If one is neither in the text nor among the boxes, or has several places in the text.
    """
    given = [_box_of(name, text, boxes) or parse_name(name, text) for name in names]
    otherwise = "mark it in the text again, or remove it"
    return find_names(given, text, ["The entity"] * len(given), otherwise=otherwise, numbered="{name} #{number}")


def _box_of(name: str, text: str, boxes: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    box = BOX.fullmatch(name)
    if box and int(box[1]) <= len(boxes) and boxes[int(box[1]) - 1] is not None:
        return {"bbox": boxes[int(box[1]) - 1], "name": name}
    if box and name not in text:
        raise ValueError(f"There is no {name} on the picture any more. Draw it again, or remove it from the entities.")
    return None


def name_of_selection(text: str, start: int, end: int) -> str:
    """Name the words that a visitor selected.

    Args:
        text: The text.
        start: First selected character.
        end: Character after the last. A word that is selected in part counts whole.

    Returns:
        The name, numbered if it has several places in the text, or reads like a numbered one or a box itself.
    """
    start = max(0, start)
    selected = text[start:end]
    start += len(selected) - len(selected.lstrip())
    end = start + len(selected.strip())
    if start >= end:
        raise ValueError(NOTHING_SELECTED)
    searched = SearchedText(text)
    while searched.is_inside_word(start):
        start -= 1
    while searched.is_inside_word(end):
        end += 1
    places = [*searched.places(text[start:end])]
    chosen = max(places, key=lambda own: min(own[1], end) - max(own[0], start), default=None)
    if chosen is None:  # nothing that anybody sees
        raise ValueError(NOTHING_SELECTED)
    name, number = text[slice(*chosen)], places.index(chosen) + 1
    is_ambiguous = len(places) > 1 or NUMBERED.fullmatch(name) or BOX.fullmatch(name)
    return f"{name} #{number}" if is_ambiguous else name


def suggest_entities(text: str, processor: RocProcessor) -> list[str]:
    """Name the entities that named-entity recognition finds in a text, at most `MAX_ENTITIES`."""
    check_text(text)
    [found] = processor.find_entities([text])
    if not found:
        raise ValueError("No names were found in the text. Select them there and mark them.")
    names = [name_of_selection(text, entity["start"], entity["end"]) for entity in found]
    return list(dict.fromkeys(names))[:MAX_ENTITIES]


def with_boxes(entities: Sequence[str], num_boxes: int) -> list[str]:
    """List the entities after boxes were drawn or removed: those of the text, then `box 1` to `box num_boxes`."""
    kept = [name for name in entities if not BOX.fullmatch(name)]
    return kept + [f"box {number}" for number in range(1, min(num_boxes, MAX_ENTITIES) + 1)]


def pair_labels(entities: Sequence[str]) -> list[str]:
    """List the pairs that a visitor may ask about: each ordered pair, and all of them."""
    labels = list(_pairs(entities))
    return [*labels, ALL_PAIRS] if labels else []


def _pairs(entities: Sequence[str]) -> dict[str, tuple[int, int]]:
    numbers = itertools.permutations(range(len(entities)), 2)
    return {f"{entities[head]} → {entities[tail]}": (head, tail) for head, tail in numbers}


# ---------------------------------------------------------------------------------------------------------------------
# Relations


def rows_of_relations(relations: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Turn relations into rows for the editor: `name`, and `descriptions` with one description per line."""
    return [{"name": own["name"], "descriptions": "\n".join(own["descriptions"])} for own in relations]


def relations_of_rows(rows: Any, known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check the relations that a visitor edited.

    Args:
        rows: What `rows_of_relations` gives, edited. A row without name and descriptions is left out.
        known: The model's relations. A row that has the name of one gets what it says of head and tail.

    Returns:
        Relations as `RocModel.set_relations` takes them.

    Raises:
        ValueError: If anything is missing or too large; the message is for the visitor. The model checks the rest.
    """
    entities = {own["name"]: {key: own[key] for key in OF_ENTITIES if key in own} for own in known}
    given = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    texts = [[str(row.get(key) or "").strip() for key in ("name", "descriptions")] for row in given]
    relations = [_relation(*own) for own in texts if any(own)]
    if not relations:
        raise ValueError("There is no relation. Add one with a name and a description, or restore the model's own.")
    most = max(MAX_RELATIONS, len(known))
    if len(relations) > most:
        raise ValueError(f"There are {len(relations)} relations; at most {most} are read. Remove some.")
    return [{**relation, **entities.get(relation["name"], {})} for relation in relations]


def _relation(name: str, lines: str) -> dict[str, Any]:
    descriptions = [line.strip() for line in lines.splitlines() if line.strip()]
    if not name:
        raise ValueError(f"A relation has no name: the one described as {descriptions[0][:60]!r}. Name it.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"A relation's name has {len(name)} characters; at most {MAX_NAME_CHARACTERS} are read.")
    if not descriptions:
        raise ValueError(f"The relation {name!r} has no description. Say in a sentence what holds between the two.")
    if len(descriptions) > MAX_DESCRIPTIONS:
        raise ValueError(f"{name!r} has {len(descriptions)} descriptions; at most {MAX_DESCRIPTIONS} are read.")
    if len(longest := max(descriptions, key=len)) > MAX_DESCRIPTION_CHARACTERS:
        raise ValueError(
            f"A description of {name!r} has {len(longest)} characters; at most {MAX_DESCRIPTION_CHARACTERS} are read."
        )
    return {"name": name, "descriptions": descriptions}
