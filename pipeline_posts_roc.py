"""Posts as callers give them, and the relations that a model finds in them."""

from __future__ import annotations

import base64
import binascii
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .messages_roc import shorten
from .modeling_decisions_roc import decide_relations

POST_KEYS = ("text", "image", "head", "tail", "entities")
ROW_KEYS = ("id", "relation")  # a row of a data set is a post too; its relation is not read

DATA_URI = re.compile(r"\Adata:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Post:
    """One post as `RocProcessor` takes it, which looks at pictures, spans and boxes.

    Args:
        text: The text.
        image: A PIL image, the bytes of a picture file, or None.
        entities: Its entities, as the processor takes them.
        pairs: (head, tail) numbers into `entities`.
        where: What to call it in an error.
    """

    text: str
    image: Any
    entities: Sequence[Any]
    pairs: Sequence[tuple[int, int]]
    where: str


def read_post(given: Any, processor: Any, *, where: str, allow_paths: bool = False) -> Post:
    """Check a post that a caller gave.

    Args:
        given: A mapping of `text`, optionally `image`, and `head` and `tail` (one pair), or `entities` (all ordered
            pairs), or neither: named-entity recognition then finds the entities. A row of a data set is one too.
        processor: The model's `RocProcessor`, which finds entities.
        where: What to call the post in an error.
        allow_paths: See `read_image`.

    Returns:
        The post. It has no pairs where it has fewer than two entities.

    Raises:
        TypeError: If the post, its text, its picture's path or its list of entities has the wrong type.
        ValueError: If a key is unknown or missing, a name is not in the text, or a string is not a picture.
        ImportError: If what finds entities is not installed.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: a post is a mapping with the keys {POST_KEYS}; given a {type(given).__name__}.")
    _check_keys(given, where)
    text = given["text"]
    if not isinstance(text, str):
        raise TypeError(f"{where}: text must be a string; given {shorten(repr(text))}.")
    image = read_image(given.get("image"), where, allow_paths=allow_paths)
    if given.get("head") is not None:
        pair = [_with_span(given[role], text, f"{where}, {role}") for role in ("head", "tail")]
        return Post(text, image, pair, ((0, 1),), where)
    entities = given.get("entities")
    if entities is None:
        [entities] = processor.find_entities([text])
    elif not isinstance(entities, Sequence) or isinstance(entities, str):
        raise TypeError(f"{where}: entities must be a list; given {shorten(repr(entities))}.")
    found = [_with_span(entity, text, f"{where}, entity {j}") for j, entity in enumerate(entities)]
    return Post(text, image, found, tuple(itertools.permutations(range(len(found)), 2)), where)


def _check_keys(given: Mapping[str, Any], where: str) -> None:
    unknown = [key for key in given if key not in POST_KEYS + ROW_KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown keys {unknown}; a post has the keys {POST_KEYS}.")
    if "text" not in given:
        raise ValueError(f"{where}: a post needs a text; given the keys {[*given]}.")
    if (given.get("head") is None) != (given.get("tail") is None):
        raise ValueError(f"{where}: give both head and tail, or neither for all pairs.")
    if given.get("head") is not None and given.get("entities") is not None:
        raise ValueError(f"{where}: give head and tail for one pair, or entities for all pairs, but not both.")


def _with_span(given: Any, text: str, where: str) -> Any:
    """The entity, in place of a name where it is in the text."""
    if not isinstance(given, str):
        return given
    start = find_name(given, text)
    if start < 0:
        raise ValueError(
            f"{where}: {shorten(given)!r} does not occur in the text {shorten(text)!r}. Give a name as it is written "
            "there, a mapping with start and end in characters, or one with the bbox of an object in the picture."
        )
    return {"start": start, "end": start + len(given)}


def find_name(name: str, text: str) -> int:
    """Where a name first occurs in a text, or -1: as a whole word in scripts with upper and lower case.

    The others (Chinese, Japanese, Thai) are mostly written without spaces between words.
    """
    if not name or len(name) > len(text):
        return -1
    if name.lower() == name.upper():
        return text.find(name)
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    return found.start() if found else -1


def read_image(given: Any, where: str, *, allow_paths: bool = False) -> Any:
    """A picture as `RocProcessor` takes it, out of what a caller gave. An address is never fetched.

    Args:
        given: A PIL image, the bytes of a picture file, the same in base64 (a data URI too), or None.
        where: What to call the post in an error.
        allow_paths: Whether a string or path may also name a file; never for strings of people whom you do not know.

    Returns:
        A PIL image, bytes that have not been looked at, or None.

    Raises:
        TypeError: If a path is given without `allow_paths`.
        ValueError: If there is no file at a path, or a string is an address, or no base64.
    """
    if not isinstance(given, (str, os.PathLike)):
        return given
    if isinstance(given, str) and ADDRESS.match(given):
        raise ValueError(f"{where}: {shorten(given)!r} is an address: none is fetched. Give the picture itself.")
    if allow_paths and _is_file(given):
        return Path(given).read_bytes()
    if not isinstance(given, str):
        if allow_paths:
            raise ValueError(f"{where}: there is no file {given!r}.")
        raise TypeError(f"{where}: paths are opened with allow_paths=True only; given {given!r}.")
    try:
        return base64.b64decode(DATA_URI.sub("", given), validate=True)
    except (binascii.Error, ValueError) as error:
        refused = "no file and not base64" if allow_paths else "not base64 (a path needs allow_paths=True)"
        raise ValueError(f"{where}: as a picture a string holds its bytes; {shorten(given)!r} is {refused}.") from error


def _is_file(given: str | os.PathLike[str]) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a path, or with a character that no path has: base64, perhaps
        return False


@torch.no_grad()
def rank_posts(model: Any, processor: Any, posts: Sequence[Post], *, top_k: int) -> tuple[list[dict[str, Any]], bool]:
    """Rank the relations of posts, all in one pass through the model.

    Args:
        model: A `RocModel`.
        processor: Its `RocProcessor`.
        posts: The posts.
        top_k: Relations per pair.

    Returns:
        For each post `text`, `entities` (name, start, end, type, bbox) and `predictions`: per pair `head` and `tail`
        (numbers into `entities`), `relation` (what `decide_relations` gives: a name, or None for a pair that
        stays below the threshold) and `relations` as `RocModel.rank_relations` gives them. Then whether text was cut
        off.

    Raises:
        ValueError: If `top_k` is below 1, the model has no relations, or as `RocProcessor`.
        TypeError: As `RocProcessor`.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k} is out of range: give a number >= 1.")
    where = [post.where for post in posts]
    typed = processor.type_entities([post.text for post in posts], [post.entities for post in posts], where=where)
    asked = [(post, entities) for post, entities in zip(posts, typed) if post.pairs]
    ranked, truncated = _rank(model, processor, asked, top_k) if asked else (iter(()), False)
    results = [
        {
            "text": post.text,
            "entities": [_described(entity, post.text, number) for number, entity in enumerate(entities)],
            "predictions": [{"head": head, "tail": tail, **next(ranked)} for head, tail in post.pairs],
        }
        for post, entities in zip(posts, typed)
    ]
    return results, truncated


def _rank(model: Any, processor: Any, asked: Sequence[tuple[Post, Any]], top_k: int) -> tuple[Any, bool]:
    """For all pairs of all posts, in order, `relation` and `relations`."""
    batch = processor(
        text=[post.text for post, _ in asked],
        images=[post.image for post, _ in asked],
        entities=[entities for _, entities in asked],
        pairs=[post.pairs for post, _ in asked],
        where=[post.where for post, _ in asked],
    ).to(model.device)
    output = model(**batch)
    logits = output.logits[batch["pair_mask"].bool()]
    decided = decide_relations(logits, model.config, temperature=model.temperature).tolist()
    ranked = model.rank_relations(output, batch["pair_mask"], top_k=top_k)
    names = model.config.relation_names
    rows = ({"relation": names[n] if n >= 0 else None, "relations": own} for n, own in zip(decided, ranked))
    return rows, bool(batch["truncated"].any())


def _described(entity: Any, text: str, number: int) -> dict[str, Any]:
    name = entity.name or f"object {number}" if entity.is_object else text[entity.start : entity.end]
    bbox = None if entity.bbox is None else list(entity.bbox)
    return {"name": name, "start": entity.start, "end": entity.end, "type": entity.type or None, "bbox": bbox}
