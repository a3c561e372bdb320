"""Mark the entities of a text and tokenise it; no asked-for entity is cut off, and the place of each is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .messages_roc import shorten
from .processing_entities_roc import Entity
from .processing_typing_roc import Span

MARKERS = {"entities": ("[ENT]", "[/ENT]"), "head": ("[HEAD]", "[/HEAD]"), "tail": ("[TAIL]", "[/TAIL]")}
NO_SPAN = (0, 0)  # of a token that is not of the text, as Transformers' offset mappings have it
MAX_NAME_TOKENS = 24  # of an object's type and name: captions are about ten words


@dataclass(frozen=True)
class MarkedText:
    """A text whose entities are to be marked.

    Args:
        text: The text.
        entities: Its entities. An object has no place in the text; if it has a name, that is read behind the text.
        asked: Numbers of the entities that must not be cut off.
        where: The text's name in an error.
    """

    text: str
    entities: Sequence[Entity]
    asked: frozenset[int]
    where: str


@dataclass(frozen=True)
class EncodedText:
    """A marked text as token ids.

    Args:
        input_ids: The token ids, with the tokenizer's special tokens around them.
        positions: For each text entity the place of its opening marker in `input_ids`, 0 if it was cut off; for each
            object its number among the objects.
        name_positions: For each object the place of its name's opening marker, -1 if the name is not read.
        truncated: Whether a part of the text or of an object's name was cut off.
        offsets: For each token its half-open character span in the text, (0, 0) for a token that is not of the text.
            The list is empty where offsets were not asked for.
        marker_mask: For each token, 1 = opening marker, entity type or closing marker.
    """

    input_ids: list[int]
    positions: list[int]
    name_positions: list[int]
    truncated: bool
    offsets: list[Span]
    marker_mask: list[int]


class EntitiesTooFarApart(ValueError):
    """The asked-for entities of a text do not fit into one window.

    Args:
        message: The error message.
        number: The text's number in the batch.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class _Mark(NamedTuple):
    entity: int
    token: str
    prompt: str  # follows an opening marker: the entity's type, and an object's name
    type_prompt: str  # the type alone
    is_opening: bool


class _Frame(NamedTuple):
    """The special tokens around a text, how many tokens fit between them, and whether spans are asked for."""

    before: list[int]
    after: list[int]
    budget: int
    with_offsets: bool


class _Pieces(NamedTuple):
    """The token ids of every piece of the texts, the tokens' spans in it where asked for, and the markers' ids."""

    ids: dict[str, list[int]]
    spans: dict[str, list[Span]]
    markers: dict[str, int]


class _Tokens(NamedTuple):
    """Token ids, which of them are markers, where each entity's markers are, and the tokens' spans in the text."""

    ids: list[int]
    marker_mask: list[int]
    opening: dict[int, int]
    closing: dict[int, int]
    spans: list[Span]
    truncated: bool = False


def encode_marked(
    tokenizer: Any, texts: Sequence[MarkedText], *, max_length: int, with_offsets: bool = False
) -> list[EncodedText]:
    """Mark the entities of texts, `[ENT] type name [/ENT]`, and tokenise them; named objects follow the text likewise.

    The pieces between the markers of all texts go through the tokenizer at once, each with the white space before it:
    where entities end at the end of words, the tokens without markers and types are those of the text.

    Args:
        tokenizer: A tokenizer that has the markers.
        texts: The texts.
        max_length: Most tokens of a text. In a longer one only asked-for entities are marked, and what lies far from
            them is cut off; where even that leaves no room for the names of objects, those are left out.
        with_offsets: Whether to tell each token's span in its text; the tokenizer must be a fast one.

    Returns:
        The texts as token ids.

    Raises:
        EntitiesTooFarApart: If the asked-for entities of a text lie too far apart for `max_length`; the message names
            the last.
    """
    rows = [(list(_parts(text.text, text.entities)), list(_names(text.entities))) for text in texts]
    pieces = _tokenize_pieces(tokenizer, [part for row in rows for parts in row for part in parts], with_offsets)
    before, after = _special_ids(tokenizer)
    frame = _Frame(before, after, max_length - len(before) - len(after), with_offsets)
    encoded = []
    for number, (text, (parts, name_parts)) in enumerate(zip(texts, rows)):
        names = _join(name_parts, pieces, most=MAX_NAME_TOKENS)
        tokens = _join(parts, pieces)
        if len(tokens.ids) + len(names.ids) > frame.budget:
            tokens = _join([part for part in parts if _stays(part, text.asked)], pieces)
        encoded.append(_fit(text, tokens, names, frame, number))
    return encoded


def _fit(text: MarkedText, tokens: _Tokens, names: _Tokens, frame: _Frame, number: int) -> EncodedText:
    """Put a window of the text's tokens into the frame, and behind it the names of all objects or of none."""
    truncated = len(tokens.ids) + len(names.ids) > frame.budget or names.truncated
    if _asked_length(tokens) + len(names.ids) > frame.budget:
        names = _Tokens([], [], {}, {}, [])
    room = frame.budget - len(names.ids)
    start = _window_start(text, tokens, room, number) if len(tokens.ids) > room else 0
    window = tokens.ids[start : start + room]
    shift = len(frame.before) + len(window)
    objects = [i for i, entity in enumerate(text.entities) if entity.is_object]
    input_ids = [*frame.before, *window, *names.ids, *frame.after]
    offsets: list[Span] = []
    if frame.with_offsets:
        offsets = [*[NO_SPAN] * len(frame.before), *tokens.spans[start : start + room]]
        offsets += [NO_SPAN] * (len(input_ids) - len(offsets))
    return EncodedText(
        input_ids=input_ids,
        positions=_positions(text, tokens.opening, len(frame.before) - start),
        name_positions=[names.opening[i] + shift if i in names.opening else -1 for i in objects],
        truncated=truncated,
        offsets=offsets,
        marker_mask=[
            *[0] * len(frame.before),
            *tokens.marker_mask[start : start + room],
            *names.marker_mask,
            *[0] * len(frame.after),
        ],
    )


def tokenize_plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids without special tokens around or inside: "[ENT]" in somebody's text is text, never a marker."""
    return _tokenize(tokenizer, texts)["input_ids"]


def _tokenize(tokenizer: Any, texts: Sequence[str], **options: Any) -> Mapping[str, list[Any]]:
    if not texts:
        return {"input_ids": [], "offset_mapping": []}
    options |= {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, **options)


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
            marks.append(((start, 1, -end, number), _Mark(number, opening, prompt, prompt, True)))
            marks.append(((end, 0, -start, -number), _Mark(number, closing, "", "", False)))
    last = 0
    for (place, *_), mark in sorted(marks):
        if place > last:
            yield text[last:place]
        yield mark
        last = place
    if last < len(text):
        yield text[last:]


def _without_space(text: str, offset: int) -> int:
    """Move an offset before the white space that stands there: it belongs to what comes after."""
    while offset and text[offset - 1].isspace():
        offset -= 1
    return offset


def _stays(part: str | _Mark, asked: frozenset[int]) -> bool:
    return isinstance(part, str) or part.entity in asked


def _names(entities: Sequence[Entity]) -> Iterator[_Mark]:
    """Yield the marks of named objects, each with the object's type and name."""
    for number, entity in enumerate(entities):
        if entity.is_object and entity.name:
            opening, closing = MARKERS[entity.role]
            type_prompt = f" {entity.type}" if entity.type else ""
            yield _Mark(number, opening, f"{type_prompt} {entity.name}", type_prompt, True)
            yield _Mark(number, closing, "", "", False)


def _tokenize_pieces(tokenizer: Any, parts: Sequence[str | _Mark], with_offsets: bool) -> _Pieces:
    texts = [(part,) if isinstance(part, str) else (part.prompt, part.type_prompt) for part in parts]
    strings = list(dict.fromkeys(string for own in texts for string in own))
    encoded = _tokenize(tokenizer, strings, return_offsets_mapping=with_offsets)
    spans = dict(zip(strings, encoded["offset_mapping"])) if with_offsets else {}
    markers = {token: tokenizer.convert_tokens_to_ids(token) for pair in MARKERS.values() for token in pair}
    return _Pieces(dict(zip(strings, encoded["input_ids"])), spans, markers)


def _join(parts: Sequence[str | _Mark], pieces: _Pieces, *, most: int | None = None) -> _Tokens:
    """Join the parts in order, each cut to `most` tokens."""
    tokens, truncated, offset = _Tokens([], [], {}, {}, []), False, 0
    for part in parts:
        if isinstance(part, str):
            ids, num_marker_tokens = pieces.ids[part], 0
            spans = [(offset + start, offset + end) for start, end in pieces.spans.get(part, ())]
            offset += len(part)
        else:
            ids, num_marker_tokens = pieces.ids[part.prompt], 1 + len(pieces.ids[part.type_prompt])
            (tokens.opening if part.is_opening else tokens.closing)[part.entity] = len(tokens.ids)
            tokens.ids.append(pieces.markers[part.token])
            spans = [NO_SPAN] * (1 + len(ids)) if pieces.spans else []
        tokens.spans.extend(spans)
        truncated |= most is not None and len(ids) > most
        tokens.ids.extend(ids[:most])
        added = range(len(tokens.ids) - len(tokens.marker_mask))
        tokens.marker_mask.extend(int(number < num_marker_tokens) for number in added)
    return tokens._replace(truncated=truncated)


def _asked_length(tokens: _Tokens) -> int:
    """Count the tokens from the first marker to the last, which must stay together."""
    return max(tokens.closing.values()) + 1 - min(tokens.opening.values()) if tokens.opening else 0


def _window_start(text: MarkedText, tokens: _Tokens, budget: int, text_number: int) -> int:
    """Find the first token of a window of `budget` tokens that holds all marked entities, centred on them."""
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
    """Compute `EncodedText.positions`; a text token's place in `input_ids` is its number plus `shift`."""
    regions = iter(range(len(text.entities)))
    return [
        next(regions) if entity.is_object else opening.get(number, -shift) + shift
        for number, entity in enumerate(text.entities)
    ]


def _special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Find the special tokens that the tokenizer puts before and after a text."""
    [inner] = tokenize_plain(tokenizer, ["a"])
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]
