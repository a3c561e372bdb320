"""Entities marked in a text, and its tokens: no asked-for entity is cut off, and the place of each is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .entities_roc import Entity, shorten

MARKERS = {"entities": ("[ENT]", "[/ENT]"), "head": ("[HEAD]", "[/HEAD]"), "tail": ("[TAIL]", "[/TAIL]")}
MAX_NAME_TOKENS = 24  # of an object's type and name: captions are about ten words


@dataclass(frozen=True)
class MarkedText:
    """A text whose entities are to be marked.

    Args:
        text: The text.
        entities: Its entities; objects have no place in the text, but those with a name have it read behind the text.
        asked: Numbers of the entities that must not be cut off.
        where: What to call it in an error.
    """

    text: str
    entities: Sequence[Entity]
    asked: frozenset[int]
    where: str


@dataclass(frozen=True)
class EncodedText:
    """A marked text as token ids.

    Args:
        input_ids: With the tokenizer's special tokens around.
        positions: For each entity its opening marker's place in `input_ids`, or its number among the objects; 0 for
            one that was cut off, which nobody asked for.
        name_positions: For each object the opening marker's place of its name, -1 for one whose name is not read.
        truncated: Whether a part of the text or of an object's name was cut off.
    """

    input_ids: list[int]
    positions: list[int]
    name_positions: list[int]
    truncated: bool


class EntitiesTooFarApart(ValueError):
    """The asked-for entities of a text do not fit into one window.

    Args:
        message: What is wrong and what to do.
        number: Which of the texts it is.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class _Mark(NamedTuple):
    entity: int
    token: str
    prompt: str  # the entity's type, after an opening marker
    is_opening: bool


class _Tokens(NamedTuple):
    """Token ids, and at which of them each entity's opening and closing marker is."""

    ids: list[int]
    opening: dict[int, int]
    closing: dict[int, int]
    truncated: bool = False


def encode_marked(tokenizer: Any, texts: Sequence[MarkedText], *, max_length: int) -> list[EncodedText]:
    """Mark the entities of texts, `[ENT] type name [/ENT]`, and tokenise them; named objects follow the text likewise.

    The pieces between the markers of all texts go through the tokenizer at once, each with the white space before it:
    where entities end at the end of words, the tokens without markers and types are those of the text.

    Args:
        tokenizer: A tokenizer that has the markers.
        texts: The texts.
        max_length: Most tokens of a text. In a longer one only asked-for entities are marked, and what lies far from
            them is cut off; where even that leaves no room for the names of objects, those are left out.

    Returns:
        The texts as token ids.

    Raises:
        EntitiesTooFarApart: If the asked-for entities of a text lie too far apart for `max_length`; the message names
            the last.
    """
    rows = [(list(_parts(text.text, text.entities)), list(_names(text.entities))) for text in texts]
    strings = {part if isinstance(part, str) else part.prompt: None for row in rows for parts in row for part in parts}
    ids_of = dict(zip(strings, tokenize_plain(tokenizer, list(strings))))
    marker_ids = {token: tokenizer.convert_tokens_to_ids(token) for pair in MARKERS.values() for token in pair}
    before, after = _special_ids(tokenizer)
    budget = max_length - len(before) - len(after)
    encoded = []
    for number, (text, (parts, name_parts)) in enumerate(zip(texts, rows)):
        names = _join(name_parts, ids_of, marker_ids, most=MAX_NAME_TOKENS)
        tokens = _join(parts, ids_of, marker_ids)
        if len(tokens.ids) + len(names.ids) > budget:
            tokens = _join([part for part in parts if _stays(part, text.asked)], ids_of, marker_ids)
        encoded.append(_fit(text, tokens, names, before, after, budget, number))
    return encoded


def _fit(
    text: MarkedText, tokens: _Tokens, names: _Tokens, before: list[int], after: list[int], budget: int, number: int
) -> EncodedText:
    """A window of the text's tokens and all names' in `budget` tokens, or no name's."""
    truncated = len(tokens.ids) + len(names.ids) > budget or names.truncated
    if _asked_length(tokens) + len(names.ids) > budget:
        names = _Tokens([], {}, {})
    room = budget - len(names.ids)
    start = _window_start(text, tokens, room, number) if len(tokens.ids) > room else 0
    window = tokens.ids[start : start + room]
    shift = len(before) + len(window)
    objects = [i for i, entity in enumerate(text.entities) if entity.is_object]
    return EncodedText(
        input_ids=[*before, *window, *names.ids, *after],
        positions=_positions(text, tokens.opening, len(before) - start),
        name_positions=[names.opening[i] + shift if i in names.opening else -1 for i in objects],
        truncated=truncated,
    )


def tokenize_plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids without special tokens around or inside: "[ENT]" in somebody's text is text, never a marker."""
    if not texts:
        return []
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, **options)["input_ids"]


def _parts(text: str, entities: Sequence[Entity]) -> Iterator[str | _Mark]:
    """Cut the text at the entities' borders: pieces and marks, in order.

    At one place closing marks come before opening ones, longer entities open first, and what opened last closes first:
    nested spans nest. Spans that cross keep both borders.
    """
    marks: list[tuple[tuple[int, ...], _Mark]] = []
    for number, entity in enumerate(entities):
        if entity.start is not None and entity.end is not None:
            start, end = _without_space(text, entity.start), _without_space(text, entity.end)
            opening, closing = MARKERS[entity.role]
            prompt = f" {entity.type}" if entity.type else ""
            marks.append(((start, 1, -end, number), _Mark(number, opening, prompt, True)))
            marks.append(((end, 0, -start, -number), _Mark(number, closing, "", False)))
    last = 0
    for (place, *_), mark in sorted(marks):
        if place > last:
            yield text[last:place]
        yield mark
        last = place
    if last < len(text):
        yield text[last:]


def _without_space(text: str, offset: int) -> int:
    """The end of what stands before `offset`: the white space between belongs to what comes after."""
    while offset and text[offset - 1].isspace():
        offset -= 1
    return offset


def _stays(part: str | _Mark, asked: frozenset[int]) -> bool:
    return isinstance(part, str) or part.entity in asked


def _names(entities: Sequence[Entity]) -> Iterator[_Mark]:
    """The marks of named objects, each with the object's type and name."""
    for number, entity in enumerate(entities):
        if entity.is_object and entity.name:
            opening, closing = MARKERS[entity.role]
            yield _Mark(number, opening, f" {entity.type} {entity.name}" if entity.type else f" {entity.name}", True)
            yield _Mark(number, closing, "", False)


def _join(
    parts: Sequence[str | _Mark],
    ids_of: Mapping[str, list[int]],
    marker_ids: Mapping[str, int],
    *,
    most: int | None = None,
) -> _Tokens:
    """The parts in order, each with at most `most` tokens."""
    ids: list[int] = []
    opening: dict[int, int] = {}
    closing: dict[int, int] = {}
    truncated = False
    for part in parts:
        piece = ids_of[part if isinstance(part, str) else part.prompt]
        truncated |= most is not None and len(piece) > most
        if not isinstance(part, str):
            (opening if part.is_opening else closing)[part.entity] = len(ids)
            ids.append(marker_ids[part.token])
        ids.extend(piece[:most])
    return _Tokens(ids, opening, closing, truncated)


def _asked_length(tokens: _Tokens) -> int:
    """From the first marker to the last: tokens that must stay together."""
    return max(tokens.closing.values()) + 1 - min(tokens.opening.values()) if tokens.opening else 0


def _window_start(text: MarkedText, tokens: _Tokens, budget: int, text_number: int) -> int:
    """First token of a window of `budget` tokens that holds all marked entities, centred on them."""
    if not tokens.opening:
        return 0
    first, length = min(tokens.opening.values()), _asked_length(tokens)
    if length > budget:
        number = max(tokens.closing, key=tokens.closing.__getitem__)
        entity = text.entities[number]
        raise EntitiesTooFarApart(
            f"{text.where}: entity {number} {shorten(text.text[entity.start : entity.end])!r} (characters "
            f"{entity.start}-{entity.end}) does not fit: the asked-for entities span {length} tokens, but "
            f"max_length leaves {budget}. Ask for pairs that lie closer together, or raise max_length.",
            text_number,
        )
    return min(max(0, first - (budget - length) // 2), len(tokens.ids) - budget)


def _positions(text: MarkedText, opening: Mapping[int, int], shift: int) -> list[int]:
    """See `EncodedText`; `shift` leads from the text's tokens to `input_ids`."""
    regions = iter(range(len(text.entities)))
    return [
        next(regions) if entity.is_object else opening.get(number, -shift) + shift
        for number, entity in enumerate(text.entities)
    ]


def _special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    [inner] = tokenize_plain(tokenizer, ["a"])
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]
