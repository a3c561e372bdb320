"""Mark the entities of a text and tokenise it; no asked-for entity is cut off, and the place of each is known."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from .messages_roc import shorten
from .processing_entities_roc import Entity
from .processing_typing_roc import Span

MARKERS = {"entities": ("[ENT]", "[/ENT]"), "head": ("[HEAD]", "[/HEAD]"), "tail": ("[TAIL]", "[/TAIL]")}
NO_SPAN = (0, 0)  # of a token that is not of the text, as Transformers' offset mappings have it
MAX_NAME_TOKENS = 24  # of an object's type and name: captions are about ten words


@dataclass(frozen=True)
class Sample:
    """A checked text, its picture, its entities and the pairs to encode."""

    text: str
    image: Any  # not decoded yet, or None
    entities: tuple[Entity, ...]  # an object has no place in the text; if it has a name, that is read behind the text
    pairs: tuple[tuple[int, int], ...]  # (head, tail) numbers into `entities`; what they name must not be cut off
    labels: tuple[int, ...] | None  # one per pair
    where: str  # the text's name in an error

    def one_pair_each(self) -> Iterator[Sample]:
        """Repeat the sample once per pair, with only head and tail, each marked in its role (`markers="pair"`)."""
        for number, (head, tail) in enumerate(self.pairs):
            two = (replace(self.entities[head], role="head"), replace(self.entities[tail], role="tail"))
            labels = None if self.labels is None else self.labels[number : number + 1]
            yield replace(self, entities=two, pairs=((0, 1),), labels=labels)

    def halves(self) -> list[Sample]:
        """Split the sample into two with half of the pairs each."""
        middle = len(self.pairs) // 2
        return [
            replace(self, pairs=self.pairs[part], labels=None if self.labels is None else self.labels[part])
            for part in (slice(middle), slice(middle, None))
        ]


class Token(NamedTuple):
    """A token, its half-open character span in the text, and whether it is a marker or an entity's type."""

    id: int
    span: Span = NO_SPAN
    is_marker: bool = False


class EncodedSample(NamedTuple):
    """A sample as tokens, with the tokenizer's special tokens around them."""

    sample: Sample
    tokens: list[Token]
    positions: list[int]  # of each text entity's opening marker, 0 if it was cut off; an object's number among objects
    name_positions: list[int]  # of the opening marker of each object's name, -1 if the name is not read
    truncated: bool  # whether a part of the text or of an object's name was cut off


class _Mark(NamedTuple):
    """An entity's marker. Behind an opening one, its type and an object's name are read."""

    entity: int
    id: int
    is_opening: bool
    type: str = ""
    name: str = ""


class _Marked(NamedTuple):
    """Tokens, the places of each entity's markers among them, and whether any piece was cut."""

    tokens: list[Token]
    opening: dict[int, int]
    closing: dict[int, int]
    truncated: bool = False


def encode_marked(
    tokenizer: Any, samples: Sequence[Sample], *, max_length: int, with_offsets: bool = False
) -> list[EncodedSample]:
    """Mark the entities of texts, `[ENT] type name [/ENT]`, and tokenise them; named objects follow the text likewise.

    The pieces between the markers of all texts go through the tokenizer at once, each with the white space before it:
    where entities end at the end of words, the tokens without markers and types are those of the text.

    In a text of more than `max_length` tokens only asked-for entities are marked, and what lies far from them is cut
    off; where even that leaves no room for the names of objects, those are left out. A sample whose pairs lie too far
    apart is parted until they fit. `with_offsets` needs a fast tokenizer.

    Raises:
        ValueError: If the entities of one pair lie too far apart for `max_length`; the message names the last.
    """
    reader = _reader_of(tokenizer)
    rows = [(list(_parts(own.text, own.entities, tokenizer)), _names(own.entities, tokenizer)) for own in samples]
    strings = [string for row in rows for part in itertools.chain(*row) for string in _strings(part)]
    pieces = _tokenize(reader, list(dict.fromkeys(strings)), with_offsets)
    frame = reader.frame
    budget = max_length - len(frame[0]) - len(frame[1])
    return [
        encoded
        for sample, (parts, names) in zip(samples, rows)
        for encoded in _encode(sample, parts, _join(names, pieces, most=MAX_NAME_TOKENS), pieces, frame, budget)
    ]


def _encode(
    sample: Sample,
    parts: Sequence[str | _Mark],
    names: _Marked,
    pieces: Mapping[str, list[Token]],
    frame: tuple[list[Token], list[Token]],
    budget: int,
) -> list[EncodedSample]:
    """Put a window of the text's tokens into the frame, and behind it the names of all objects or of none."""
    text = _join(parts, pieces)
    asked = frozenset().union(*sample.pairs)
    if len(text.tokens) + len(names.tokens) > budget:
        text = _join([part for part in parts if isinstance(part, str) or part.entity in asked], pieces)
    truncated = len(text.tokens) + len(names.tokens) > budget or names.truncated
    shown = names if _asked_length(text) + len(names.tokens) <= budget else _Marked([], {}, {})
    room = budget - len(shown.tokens)
    if _asked_length(text) > room:
        if len(sample.pairs) < 2:
            raise ValueError(_too_far_apart(sample, text, room))
        return [row for half in sample.halves() for row in _encode(half, parts, names, pieces, frame, budget)]
    start = _window_start(text, room)
    before, after = frame
    tokens = [*before, *text.tokens[start : start + room]]
    places = {number: len(before) + place - start for number, place in text.opening.items()}
    name_places = {number: len(tokens) + place for number, place in shown.opening.items()}
    regions = itertools.count()
    return [
        EncodedSample(
            sample,
            [*tokens, *shown.tokens, *after],
            [next(regions) if own.is_object else places.get(i, 0) for i, own in enumerate(sample.entities)],
            [name_places.get(i, -1) for i, own in enumerate(sample.entities) if own.is_object],
            truncated,
        )
    ]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts, with the tokenizer's special tokens around each."""
    reader = _reader_of(tokenizer)
    pieces = _tokenize(reader, texts)
    before, after = ([token.id for token in part] for part in reader.frame)
    return [[*before, *(token.id for token in pieces[text]), *after] for text in texts]


class _Reader(NamedTuple):
    """A tokenizer of our own: one that others use as well has flags that any call may change meanwhile."""

    tokenizer: Any
    control_ids: frozenset[int]  # of special tokens and markers, which no text may hold
    unknown_id: int | None  # what stands in their place, if there is such a token
    frame: tuple[list[Token], list[Token]]  # the special tokens before and after a text


_readers: WeakKeyDictionary[Any, tuple[Any, _Reader]] = WeakKeyDictionary()
_making_readers = threading.Lock()


def _reader_of(tokenizer: Any) -> _Reader:
    """Copy a tokenizer, once as long as it has the same tokens; any number of threads may use the copy."""
    state = (len(tokenizer), *tokenizer.all_special_ids)
    with _making_readers:
        known, reader = _readers.get(tokenizer, (None, None))
        if reader is None or known != state:
            reader = _new_reader(copy.deepcopy(tokenizer))
            _readers[tokenizer] = state, reader
        return reader


def _new_reader(tokenizer: Any) -> _Reader:
    kinds = ("bos", "eos", "sep", "pad", "cls", "mask")
    control = {getattr(tokenizer, f"{kind}_token_id") for kind in kinds} - {None}
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id not in control else None
    vocabulary = tokenizer.get_vocab()
    markers = {vocabulary[marker] for pair in MARKERS.values() for marker in pair if marker in vocabulary}
    control |= markers.union(tokenizer.all_special_ids) - {unknown}
    unframed = _Reader(tokenizer, frozenset(control), unknown, ([], []))
    inner = [token.id for token in _tokenize(unframed, ["a"])["a"]]
    whole = tokenizer("a", split_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    return unframed._replace(frame=([*map(Token, whole[:start])], [*map(Token, whole[start + len(inner) :])]))


def _tokenize(reader: _Reader, texts: Sequence[str], with_offsets: bool = False) -> dict[str, list[Token]]:
    """Tokenise texts without special tokens around or inside: "[ENT]" in a user's text is text, never a marker."""
    if not texts:
        return {}
    encoded = reader.tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        verbose=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=with_offsets,
    )
    spans = encoded["offset_mapping"] if with_offsets else [[NO_SPAN] * len(ids) for ids in encoded["input_ids"]]
    return {text: _as_text(reader, map(Token, ids, own)) for text, ids, own in zip(texts, encoded["input_ids"], spans)}


def _as_text(reader: _Reader, tokens: Iterable[Token]) -> list[Token]:
    """Put the unknown token, or nothing, where a text spells a special token and the vocabulary has that as a word."""
    unknown_id = reader.unknown_id
    if unknown_id is None:
        return [token for token in tokens if token.id not in reader.control_ids]
    return [token._replace(id=unknown_id) if token.id in reader.control_ids else token for token in tokens]


def _parts(text: str, entities: Sequence[Entity], tokenizer: Any) -> Iterator[str | _Mark]:
    """Cut the text at the entities' borders: pieces and marks, in order.

    At one place closing marks come before opening ones, longer entities open first, and what opened last closes first:
    nested spans nest. Spans that cross keep both borders.
    """
    marks: list[tuple[tuple[int, ...], _Mark]] = []
    for number, entity in enumerate(entities):
        if entity.start is not None and entity.end is not None:
            # White space before a border belongs to what comes after it.
            start, end = len(text[: entity.start].rstrip()), len(text[: entity.end].rstrip())
            opening, closing = _marks(number, entity, tokenizer)
            marks += [((start, 1, -end, number), opening), ((end, 0, -start, -number), closing)]
    last = 0
    for (place, *_), mark in sorted(marks):
        if place > last:
            yield text[last:place]
        yield mark
        last = place
    if last < len(text):
        yield text[last:]


def _names(entities: Sequence[Entity], tokenizer: Any) -> list[_Mark]:
    named = [(number, entity) for number, entity in enumerate(entities) if entity.is_object and entity.name]
    return [mark for number, entity in named for mark in _marks(number, entity, tokenizer)]


def _marks(number: int, entity: Entity, tokenizer: Any) -> tuple[_Mark, _Mark]:
    opening, closing = tokenizer.convert_tokens_to_ids([*MARKERS[entity.role]])
    kind, name = (f" {words}" if words else "" for words in (entity.type, entity.name))
    return _Mark(number, opening, True, kind, name), _Mark(number, closing, False)


def _strings(part: str | _Mark) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else (part.type, part.type + part.name)


def _join(parts: Sequence[str | _Mark], pieces: Mapping[str, list[Token]], *, most: int | None = None) -> _Marked:
    """Join the parts in order, with at most `most` tokens behind a marker."""
    tokens: list[Token] = []
    opening: dict[int, int] = {}
    closing: dict[int, int] = {}
    truncated, offset = False, 0
    for part in parts:
        if isinstance(part, str):
            tokens += [Token(id, (offset + start, offset + end)) for id, (start, end), _ in pieces[part]]
            offset += len(part)
        else:
            (opening if part.is_opening else closing)[part.entity] = len(tokens)
            behind, num_type_tokens = pieces[part.type + part.name], len(pieces[part.type])
            tokens.append(Token(part.id, is_marker=True))
            tokens += [Token(token.id, is_marker=i < num_type_tokens) for i, token in enumerate(behind[:most])]
            truncated |= most is not None and len(behind) > most
    return _Marked(tokens, opening, closing, truncated)


def _asked_length(text: _Marked) -> int:
    """Count the tokens from the first marker to the last, which must stay together."""
    return max(text.closing.values()) + 1 - min(text.opening.values()) if text.opening else 0


def _window_start(text: _Marked, room: int) -> int:
    """Find the first token of a window of at most `room` tokens, centred on the marked entities."""
    if not text.opening:
        return 0
    start = min(text.opening.values()) - (room - _asked_length(text)) // 2
    return max(0, min(start, len(text.tokens) - room))


def _too_far_apart(sample: Sample, text: _Marked, room: int) -> str:
    number = max(text.closing, key=text.closing.__getitem__)
    start, end = sample.entities[number].start, sample.entities[number].end
    return (
        f"{sample.where}: entity {number} {shorten(sample.text[start:end])!r} (characters {start}-{end}) does not fit: "
        f"the asked-for entities span {_asked_length(text)} tokens, but max_length leaves {room}. Ask for pairs that "
        "lie closer together, or raise max_length."
    )
