"""Posts as callers give them, and the relations that a model finds in them."""

from __future__ import annotations

import base64
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch

from .messages_roc import quote, shorten
from .modeling_decisions_roc import decide_relations
from .processing_entities_roc import check_number_of_pairs
from .processing_images_roc import identify_image

POST_KEYS = ("text", "image", "head", "tail", "entities")
ROW_KEYS = ("id", "relation")  # a row of a data set is a post too; its relation is not read

MAX_CHARACTERS = 100_000  # of a text; a model reads its beginning or what is around the entities, and no post is longer
MAX_PAIRS = 1_000  # of a text, unless a caller allows more; about thirty entities
MAX_DEPTH = 8  # of lists and mappings in what comes from anybody; a post and a relation need three
LONGEST_NAME = 300  # of a file; a string that is longer is meant to be a picture

DATA_URI = re.compile(r"\s*data:[^,]{0,200}?;\s*base64\s*,", re.IGNORECASE)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class PostLimits:
    """What a post may hold that comes from anybody. Its picture is then a base64 string: no path is ever opened.

    Args:
        max_characters: Most characters of its text.
        max_entities: Most entities that it gives.
        max_image_bytes: Most bytes of its picture's file.
        max_pixels: Most pixels of its picture.
        max_other_characters: Most characters of the post's strings and numbers, without its picture.
        max_relations: Most relations that a call gives.
        max_descriptions: Most descriptions of all of these.
        max_relation_characters: Most characters of all of their strings.
        image_formats: Pillow's names of the formats that its picture may have.
    """

    max_characters: int
    max_entities: int
    max_image_bytes: int
    max_pixels: int
    max_other_characters: int = 10_000
    max_relations: int = 500
    max_descriptions: int = 1_000
    max_relation_characters: int = 200_000
    image_formats: Sequence[str] = ("PNG", "JPEG", "WEBP")

    def check_sizes(self, post: Mapping[str, Any], where: str) -> None:
        """Raise a ValueError where anything of a post but its picture is too large, before any of it is read."""
        _check_characters(post.get("text"), where, self.max_characters)
        entities = post.get("entities")
        if isinstance(entities, Sequence) and len(entities) > self.max_entities:
            raise ValueError(
                f"{where}: {len(entities)} entities were given; at most {self.max_entities} are read. Leave some out."
            )
        others = {key: value for key, value in post.items() if key != "image"}
        _check_size(others, self.max_other_characters, f"{where}, without its picture")

    def check_relations(self, relations: Any, none_relation: Any) -> None:
        """Raise a ValueError where relations that were given with a call are too many or too large."""
        if not isinstance(relations, Sequence) or isinstance(relations, (str, bytes)):
            raise ValueError(f"relations is a list of mappings; given a {type(relations).__name__}.")
        if len(relations) > self.max_relations:
            raise ValueError(f"{len(relations)} relations were given; at most {self.max_relations} are ranked.")
        descriptions = (own.get("descriptions") for own in relations if isinstance(own, Mapping))
        count = sum(len(own) for own in descriptions if isinstance(own, Sequence) and not isinstance(own, str))
        if count > self.max_descriptions:
            raise ValueError(f"The relations have {count} descriptions; at most {self.max_descriptions} are read.")
        _check_size([relations, none_relation], self.max_relation_characters, "relations")

    def read_image(self, given: Any, where: str) -> bytes:
        """Measure and decode a picture's base64, and look at the head of the file; no pixel is decoded.

        Raises:
            ValueError: If it is no base64 string, too large, or no picture of an allowed format.
        """
        if not isinstance(given, str):
            raise ValueError(f"{where}: a picture is a base64 string; given a {type(given).__name__}.")
        too_large = f"{where}: the picture has more than {self.max_image_bytes:,} bytes. Scale it first."
        if len(given) > 4 * self.max_image_bytes + 1_000:  # the longest way to write it: each sign percent-encoded
            raise ValueError(too_large)
        try:
            digits = _digits_of_base64(given)
            if len(digits) * 3 // 4 > self.max_image_bytes:
                raise ValueError(too_large)
            data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        except ValueError as error:
            if str(error) == too_large:
                raise
            raise ValueError(f"{where}: this is not base64. Paths and addresses are never opened.") from error
        try:
            identify_image(data, where, formats=self.image_formats, max_pixels=self.max_pixels)
        except ValueError as error:
            if len(given) > LONGEST_NAME:
                raise
            raise ValueError(f"{error} Paths and addresses are never opened.") from error
        return data


@dataclass(frozen=True)
class Post:
    """One post as `RocProcessor` takes it, which looks at pictures, spans and boxes."""

    text: str
    image: Any  # a PIL image, the bytes of a picture file, or None
    entities: Sequence[Any]
    pairs: Sequence[tuple[int, int]]  # (head, tail) numbers into `entities`
    where: str  # its name in an error


def read_post(
    given: Any,
    processor: Any,
    *,
    where: str,
    allow_paths: bool = False,
    limits: PostLimits | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Post:
    """Check a post that a caller gave. It has no pairs where it has fewer than two entities.

    Args:
        given: A mapping of `text`, optionally `image`, and `head` and `tail` (one pair), or `entities` (all ordered
            pairs), or neither: named-entity recognition then finds the entities. A row of a data set is a post too.
        processor: The model's `RocProcessor`, which finds entities.
        where: The post's name in an error.
        allow_paths: See `read_image`.
        limits: What the post may hold; None for a post of the caller's own, whose text has `MAX_CHARACTERS` at most.
        max_pairs: The most pairs that it may have.

    Raises:
        TypeError: If the post, its text, its picture's path or its list of entities has the wrong type.
        ValueError: If a key is unknown or missing, a name is not in the text, a string is not a picture, or the post
            is beyond `limits` or `max_pairs`.
        ImportError: If what finds entities is not installed.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: a post is a mapping with the keys {POST_KEYS}; given a {type(given).__name__}.")
    _check_keys(given, where)
    text, entities = given["text"], given.get("entities")
    _check_characters(text, where, MAX_CHARACTERS)
    if limits is not None:
        limits.check_sizes(given, where)
    if not isinstance(text, str):
        raise TypeError(f"{where}: text must be a string; given {quote(text)}.")
    if entities is not None and (not isinstance(entities, Sequence) or isinstance(entities, str)):
        raise TypeError(f"{where}: entities must be a list; given {quote(entities)}.")
    is_one_pair = given.get("head") is not None
    check_number_of_pairs(len(entities or ()), where, max_pairs)
    if is_one_pair and max_pairs < 1:
        raise ValueError(f"{where}: head and tail are a pair, but at most {max_pairs} are ranked (max_pairs).")
    image = read_image(given.get("image"), where, allow_paths=allow_paths, limits=limits)
    if is_one_pair:
        pair = [_with_span(given[role], text, f"{where}, {role}") for role in ("head", "tail")]
        return Post(text, image, pair, ((0, 1),), where)
    if entities is None:
        [entities] = processor.find_entities([text])
        check_number_of_pairs(len(entities), where, max_pairs)
    found = [_with_span(entity, text, f"{where}, entity {j}") for j, entity in enumerate(entities)]
    return Post(text, image, found, tuple(itertools.permutations(range(len(found)), 2)), where)


def _check_characters(text: Any, where: str, most: int) -> None:
    if isinstance(text, str) and len(text) > most:
        raise ValueError(f"{where}: its text has {len(text):,} characters; at most {most:,} are read. Shorten it.")


def _check_size(value: Any, most: int, what: str) -> None:
    """Raise a ValueError where lists and mappings hold more than `most` characters, or lie too deep in each other.

    A number or other value counts as one character. Nothing is written out, and counting ends at the limit.
    """
    size, waiting = 0, [(value, 0)]
    while waiting and size <= most:
        own, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{what}: lists and mappings lie more than {MAX_DEPTH} deep in each other.")
        size += len(own) if isinstance(own, (str, bytes)) else own.bit_length() // 3 if isinstance(own, int) else 1
        if isinstance(own, Mapping):
            size += len(own)
            waiting += [(part, depth + 1) for entry in itertools.islice(own.items(), most) for part in entry]
        elif isinstance(own, (list, tuple)):
            size += len(own)
            waiting += [(part, depth + 1) for part in itertools.islice(own, most)]
    if size > most:
        raise ValueError(f"{what}: there are more than {most:,} characters. Shorten it.")


def _check_keys(given: Mapping[str, Any], where: str) -> None:
    unknown = [key for key in given if key not in POST_KEYS + ROW_KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown keys {quote(unknown)}; a post has the keys {POST_KEYS}.")
    if "text" not in given:
        raise ValueError(f"{where}: a post needs a text; given the keys {quote([*given])}.")
    if (given.get("head") is None) != (given.get("tail") is None):
        raise ValueError(f"{where}: give both head and tail, or neither for all pairs.")
    if given.get("head") is not None and given.get("entities") is not None:
        raise ValueError(f"{where}: give head and tail for one pair, or entities for all pairs, but not both.")


def _with_span(given: Any, text: str, where: str) -> Any:
    """Give an entity its place in the text where only its name was given."""
    otherwise = "a mapping with start and end in characters, or one with the bbox of an object in the picture"
    return span_of_name(given, text, f"{where}:", otherwise) if isinstance(given, str) else given


def span_of_name(name: str, text: str, where: str, otherwise: str) -> dict[str, int]:
    """Find the `start` and `end` of the first of a name's `occurrences` in a text, as half-open character offsets.

    Raises:
        ValueError: If there is none. The message begins with `where` and says what may be given `otherwise`.
    """
    start = next(occurrences(name, text), -1)
    if start < 0:
        raise ValueError(
            f"{where} {shorten(name)!r} does not occur in the text {shorten(text)!r}, or only inside a longer word. "
            f"Give a name as it is written there, {otherwise}."
        )
    return {"start": start, "end": start + len(name)}


def occurrences(name: str, text: str) -> Iterator[int]:
    """Find where a name begins in a text: everywhere but inside a longer word or number.

    A name may begin or end with a sign of its own (`C++`, `#Ann`), which needs no border around it. Nor do scripts
    without upper and lower case, such as Chinese or Thai, most of which write no spaces between words.
    """
    start = text.find(name) if name else -1
    while start >= 0:
        if not (is_inside_word(text, start) or is_inside_word(text, start + len(name))):
            yield start
        start = text.find(name, start + 1)


def is_inside_word(text: str, offset: int) -> bool:
    """Tell whether the characters on both sides of an offset belong to one word: letters with a case, digits or `_`."""
    return 0 < offset < len(text) and all(
        character == "_" or character.isdigit() or character.lower() != character.upper()
        for character in text[offset - 1 : offset + 1]
    )


def read_image(given: Any, where: str, *, allow_paths: bool = False, limits: PostLimits | None = None) -> Any:
    """Read a picture as callers give it, without decoding it. An address is never fetched.

    Args:
        given: A PIL image, the bytes of a picture file, the same in base64 (a data URI too), or None.
        where: The post's name in an error.
        allow_paths: Whether a string or path may also name a file; never for strings of people whom you do not know.
        limits: What the picture may be; it must then be in base64.

    Raises:
        TypeError: If a path is given without `allow_paths`.
        ValueError: If there is no file at a path, a string is an address or no base64, or the picture is beyond
            `limits`.
    """
    if limits is not None and given is not None:
        return limits.read_image(given, f"{where}, image")
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
        data = _bytes_of_base64(given)
        if len(given) <= LONGEST_NAME:
            identify_image(data, where)  # the name of a file may be base64 too
        return data
    except ValueError as error:
        refused = "no file and not base64" if allow_paths else "not base64 (a path needs allow_paths=True)"
        raise ValueError(f"{where}: as a picture a string holds its bytes; {shorten(given)!r} is {refused}.") from error


def _bytes_of_base64(given: str) -> bytes:
    digits = _digits_of_base64(given)
    return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)


def _digits_of_base64(given: str) -> str:
    """Bring base64 as people write it into the one form that Python decodes strictly, without padding.

    Lines may be wrapped, the padding may be missing, `-` and `_` may stand for `+` and `/`, and it may be a data URI,
    percent-encoded too. Blanks are taken between blocks of one length only: elsewhere, a blank may be a `+` that a
    web form has decoded, and another picture would come out.

    Raises:
        ValueError: If it is none of these. What else is wrong in it the decoder finds.
    """
    head = DATA_URI.match(given)
    digits = unquote(given[head.end() :]) if head else given
    blocks = "".join(line.strip() for line in digits.splitlines()).split() or [""]
    if any(len(own) % 4 or len(own) != len(blocks[0]) for own in blocks[:-1]) or len(blocks[-1]) > len(blocks[0]):
        raise ValueError("blanks")
    digits = "".join(blocks)
    padding = len(digits) - len(digits.rstrip("="))
    if padding and (padding > 2 or len(digits) % 4):
        raise ValueError("padding")
    if "-" in digits or "_" in digits:
        if "+" in digits or "/" in digits:
            raise ValueError("two alphabets")
        digits = digits.replace("-", "+").replace("_", "/")
    return digits.rstrip("=")


def _is_file(given: str | os.PathLike[str]) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a path, or with a character that no path has: base64, perhaps
        return False


@torch.no_grad()
def rank_posts(model: Any, processor: Any, posts: Sequence[Post], *, top_k: int) -> tuple[list[dict[str, Any]], bool]:
    """Rank the `top_k` relations of each pair of posts, all in one pass through a `RocModel`.

    Returns:
        A mapping per post of `text`, `entities` (name, start, end, type, bbox) and `predictions`: per pair `head` and
        `tail` (numbers into `entities`), `relation` (what `decide_relations` gives: a name, or None for a pair that
        stays below the threshold) and `relations` as `RocModel.rank_relations` gives them. The second value tells
        whether text was cut off.

    Raises:
        ValueError: If `top_k` is below 1, the model has no relations, or as `RocProcessor`.
        TypeError: As `RocProcessor`.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k} is out of range: give a number >= 1.")
    where = [post.where for post in posts]
    typed = processor.type_entities([post.text for post in posts], [post.entities for post in posts], where=where)
    for post, entities in zip(posts, typed):
        processor.check_has_picture(entities, post.image, post.where)
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
    """Yield `relation` and `relations` of all pairs of all posts, in order; tell also whether text was cut off."""
    columns = zip(*((post.text, post.image, entities, post.pairs, post.where) for post, entities in asked))
    names = ("text", "images", "entities", "pairs", "where")
    batch = processor(**dict(zip(names, map(list, columns)))).to(model.device)
    output = model(**batch)
    logits = output.logits[batch["pair_mask"].bool()]
    decided = decide_relations(logits, model.config, temperature=model.temperature).tolist()
    ranked = model.rank_relations(output, batch["pair_mask"], top_k=top_k)
    known = model.config.relation_names
    rows = ({"relation": known[n] if n >= 0 else None, "relations": own} for n, own in zip(decided, ranked))
    return rows, bool(batch["truncated"].any())


def _described(entity: Any, text: str, number: int) -> dict[str, Any]:
    name = entity.name or f"object {number}" if entity.is_object else text[entity.start : entity.end]
    bbox = None if entity.bbox is None else list(entity.bbox)
    return {"name": name, "start": entity.start, "end": entity.end, "type": entity.type or None, "bbox": bbox}
