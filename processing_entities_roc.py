"""Entities as callers give them: names or spans of a text, or boxes in a picture; checked at the border."""

from __future__ import annotations

import functools
import itertools
import numbers
import operator
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import regex

from .messages_roc import check_unicode, shorten
from .processing_typing_roc import ENTITY_TYPES, Span, type_hint, word_of_type


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
    if kind not in (None, ""):
        kind = check_type(kind, entity_types, where)
    if bbox is not None:
        if start is not None or end is not None:
            raise ValueError(f"{where}: an entity is a span or a box; both were given: ({start}, {end}) and {bbox}.")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"{where}: name must be a string or None; given {name!r}.")
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
        raise TypeError(f"{where}: type must be a string or None; given {given!r}.")
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
        raise TypeError(f"{where}: start and end must be integers, or give a bbox; given start={start!r}, end={end!r}.")
    if not 0 <= start < end <= length:
        problem = "is empty" if start == end else "is reversed" if start > end else "lies outside the text"
        raise ValueError(
            f"{where}: the span ({start}, {end}) {problem}. Spans are half-open {unit} offsets with "
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
    raise TypeError(f"{where}: give a mapping with start and end, or bbox; or (start, end[, type]); given {entity!r}.")


def check_box(bbox: Any, where: str) -> tuple[float, float, float, float]:
    """Check a box in a picture, `(x0, y0, x1, y1)` in [0, 1], origin top left.

    Raises:
        ValueError: If it is not four numbers, or the box is inverted, empty or outside the picture. `where` is put in
            front of the message.
    """
    try:
        if any(isinstance(value, (str, bytes, bool)) for value in bbox):
            raise TypeError("not a number")
        x0, y0, x1, y1 = map(float, bbox)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: bbox must be four numbers (x0, y0, x1, y1); given {bbox!r}.") from error
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):  # false for NaN too
        raise ValueError(
            f"{where}: bbox {(x0, y0, x1, y1)} is not a box in the picture. Give (left, top, right, bottom), not "
            "(x, y, width, height), with the origin top left, x0 < x1, y0 < y1, and all in [0, 1]: divide pixels by "
            "the picture's width and height."
        )
    return x0, y0, x1, y1


def check_number_of_regions(entities: Sequence[Entity], most: int, where: str) -> None:
    """Raise a ValueError where more than `most` of the entities are objects."""
    count = sum(entity.is_object for entity in entities)
    if count > most:
        raise ValueError(f"{where}: {count} objects were given, but max_regions={most}. Leave out the least relevant.")


def check_pairs(pairs: Any, num_entities: int, where: str) -> tuple[tuple[int, int], ...]:
    """Check the pairs of one text, `(head, tail)` numbers of its entities; None gives every ordered pair.

    Raises:
        TypeError: If a pair is not two integers.
        ValueError: If a pair names an entity that is not there, or one entity twice.
    """
    if pairs is None:
        return tuple(itertools.permutations(range(num_entities), 2))
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise TypeError(f"{where}: pairs must be a list of (head, tail); given {pairs!r}.")
    return tuple(_check_pair(pair, num_entities, where) for pair in pairs)


def _check_pair(pair: Any, num_entities: int, where: str) -> tuple[int, int]:
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_int, pair)):
        raise TypeError(f"{where}: a pair is (head, tail), two numbers of entities; given {pair!r}.")
    head, tail = map(operator.index, pair)
    if head == tail or not (0 <= head < num_entities and 0 <= tail < num_entities):
        raise ValueError(
            f"{where}: the pair ({head}, {tail}) must name two different entities out of {num_entities} "
            "(counted from 0)."
        )
    return head, tail


def join_words(words: Any, entities: Sequence[Any], where: str) -> tuple[str, list[Any]]:
    """Join words by single spaces to a text, and turn half-open word offsets of entities into character offsets.

    Raises:
        TypeError: If `words` is not a list of strings, or an offset is no integer.
        ValueError: If an offset is not that of a word.
    """
    if not isinstance(words, Sequence) or isinstance(words, str) or not all(isinstance(w, str) for w in words):
        raise TypeError(f"{where}: with is_split_into_words a text is a list of words; given {words!r}.")
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
    """Whether it is an integer, NumPy's included, but not a bool."""
    return type(value) is int or (isinstance(value, numbers.Integral) and not isinstance(value, bool))


# ---------------------------------------------------------------------------------------------------------------------
# Names in a text

MAX_NAME_CHARACTERS = 300  # the time that a search takes grows with this
_MAX_LISTED = 5  # places of a name in an error
_VARIATION_SELECTORS = {0xFE0E: None, 0xFE0F: None}  # they choose the text or the emoji of one character
_UNSEEN = r"\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"  # soft hyphens, marks of direction
_JOINED = r"\p{GCB=EX}\p{GCB=SM}\p{GCB=ZWJ}\p{GCB=L}\p{GCB=V}\p{GCB=T}"  # what makes one character of several
_PIECE = rf"""
  (?P<space> \s [\s{_UNSEEN}]* )
| (?P<unseen> [{_UNSEEN}]+ )
| (?P<plain> (?: [^\s\p{{RI}}{_UNSEEN}{_JOINED}] (?! [{_JOINED}] ) )+ )
| \p{{RI}} | \X  # an own branch for regional indicators, of which \X would count all that stand before
"""

_LETTER = r"[\p{L}\p{M}\p{N}_]"
_NUMERAL = r"[\p{N}\p{Nt=Nu}]"  # Chinese ones too
_WITHIN_NUMBER = r"[.,:/'\u2019_\u066b\u066c\u2044\u00a0\u2009\u202f]"  # with what groups digits
_POINT = r"[\s\p{Pc}.:'\u00b7\u2018\u2019\u2027\uff07\uff0e\uff1a]"  # that Unicode keeps within words
_BORDER = rf"""
(?! (?<= {_NUMERAL} ) {_WITHIN_NUMBER}? {_NUMERAL} | (?<= {_NUMERAL} {_WITHIN_NUMBER} ) {_NUMERAL} )  # 13.5
(?! (?<= (?: ^ | [^\w.] ) \. ) \p{{Nd}} )  # .5
(?! (?<= (?<! {_LETTER} ) \p{{L}} ) \. \p{{L}} (?! {_LETTER} ) )  # U.S
(?! (?<= (?<! {_LETTER} ) \p{{L}} \. ) \p{{L}} (?! {_LETTER} ) )
(?: \b
  | (?<= {_POINT} ) (?! \p{{M}} ) | (?= {_POINT} )
  | (?<= [\p{{Cased}}\p{{N}}] \p{{M}}{{0,8}} ) (?= [\p{{Lo}}--\p{{Latin}}] )
  | (?<= [\p{{Lo}}--\p{{Latin}}] \p{{M}}{{0,8}} ) (?= [\p{{Cased}}\p{{N}}] )
)
"""


@functools.cache
def _pattern(source: str) -> Any:
    return regex.compile(source, regex.VERSION1 | regex.WORD | regex.VERBOSE)


class SearchedText:
    """A text in which names are looked for, as whole words in any script.

    Words end where Unicode's segmentation (UAX #29) ends them, and besides at `_`, at an apostrophe, colon or full
    stop (but not within `U.S.A`), and between letters that have upper and lower case, or digits, and those that have
    not: `Paris` is in `in_Paris`, `Paris's` and `在Paris的`. A number is never found within a longer one, such as 3.5
    in 13.5, nor half of what is shown as one character. A Hangul word may go on behind a name, with its particles.

    Names are equal that Unicode calls canonically equivalent (NFC and NFD), or that differ in the kind or amount of
    white space between words, or in characters that nobody sees, such as soft hyphens. Upper and lower case differ.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._folded, self._starts, self._ends = _fold(text)

    def places(self, name: str) -> Iterator[Span]:
        """Find a name: half-open character spans, from left to right."""
        sought = _folded_name(name)
        place = self._folded.find(sought) if sought else -1
        while place >= 0:
            end = place + len(sought)
            before, first = self._ends[place - 1] if place else 0, self._starts[place]
            last, after = self._ends[end - 1], self._starts[end]
            # `before` to `first`, and `last` to `after`, are characters that nobody sees
            if first >= 0 and after >= 0 and self._may_begin(before, first) and self._may_end(last, after):
                yield first, last
            place = self._folded.find(sought, place + 1)

    def is_inside_word(self, offset: int) -> bool:
        """Tell whether an offset has one word, number or character on both of its sides."""
        if not 0 < offset < len(self.text):
            return False
        around = self.text[offset - 1 : offset + 1]
        if " " in around:
            return False
        if not around.isascii():
            if offset in self._middles_of_flags:
                return True
            if _pattern(r"\p{RI}").match(self.text, offset):  # \b would count all that stand before
                return False
        return not _pattern(_BORDER).match(self.text, offset)

    def _may_begin(self, before: int, first: int) -> bool:
        return not (self.is_inside_word(first) and self.is_inside_word(before))

    def _may_end(self, last: int, after: int) -> bool:
        goes_on = _pattern(r"(?<=\p{Hangul})(?=\p{Hangul})").match(self.text, last)
        return bool(goes_on) or not (self.is_inside_word(last) and self.is_inside_word(after))

    @functools.cached_property
    def _middles_of_flags(self) -> frozenset[int]:
        pairs = _pattern(r"\p{RI}\p{M}*\p{RI}").finditer(self.text)
        return frozenset(pair.end() - 1 for pair in pairs)


def _fold(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """Write a text so that names that are equal look alike.

    Returns:
        The folded text; where each of its characters begins in the text, -1 for the second and further ones that came
        of one, and the text's length behind the last; and where each of them ends in the text.
    """
    if text.isascii() and not _pattern(r"\s\s|[\s--[\ ]]").search(text):
        return text, range(len(text) + 1), range(1, len(text) + 1)
    folded: list[str] = []
    starts, ends = array("q"), array("q")
    for piece in _pattern(_PIECE).finditer(text):
        (start, end), kind, part = piece.span(), piece.lastgroup, piece[0]
        if kind == "unseen":
            continue
        if kind == "plain" and unicodedata.is_normalized("NFC", part):
            starts.extend(range(start, end))
            ends.extend(range(start + 1, end + 1))
            folded.append(part)
            continue
        if kind == "space":
            units = [(start, end, " ")]
        elif kind == "plain":
            units = [(start + i, start + i + 1, unicodedata.normalize("NFC", own)) for i, own in enumerate(part)]
        else:  # the time that normalising takes is quadratic in the number of marks
            shown = part.translate(_VARIATION_SELECTORS) or part
            units = [(start, end, unicodedata.normalize("NFC", shown) if len(part) <= 32 else part)]
        for first, last, own in units:
            starts.extend([first, *[-1] * (len(own) - 1)])
            ends.extend([last] * len(own))
            folded.append(own)
    starts.append(len(text))
    return "".join(folded), starts, ends


def _folded_name(name: str) -> str:
    return _fold(name)[0].strip()


@dataclass(frozen=True)
class _Name:
    name: str
    occurrence: int | None
    type: Any


def find_names(entities: Sequence[Any], text: str, where: Sequence[str], *, otherwise: str, numbered: str) -> list[Any]:
    """Give those of a text's entities that are names their `start` and `end`, half-open character offsets.

    An entity is a name where it is a string, or a mapping of `name`, and optionally `occurrence` and `type`, without
    `start`, `end` and `bbox`. `occurrence` counts the name's places in the text from 1. A name without it must occur
    as often as it is given, and gets its places in their order: a name of both head and tail stands for two places.

    Args:
        entities: The entities; those that are not names stay as they are.
        text: The text.
        where: The name of each entity in an error.
        otherwise: What to do instead of giving a name, for the error.
        numbered: How to ask for one of several places, for the error: a format of `name` and `number`.

    Raises:
        TypeError: If an occurrence is no whole number.
        ValueError: If a name is not in the text, occurs more or less often than it is given, or has no such
            occurrence, or if an entity has both an occurrence and a place.
    """
    names = [_name(entity, own) for entity, own in zip(entities, where, strict=True)]
    alike: dict[str, list[int]] = {}  # the numbers of the entities that have the same name
    for number, name in enumerate(names):
        if name is not None:
            alike.setdefault(_folded_name(name.name), []).append(number)
    if not alike:
        return list(entities)
    found, searched = list(entities), SearchedText(text)
    for numbers_of_name in alike.values():
        own = [name for number in numbers_of_name if (name := names[number])]
        spans = _spans_of_name(own, searched, where[numbers_of_name[0]], otherwise=otherwise, numbered=numbered)
        for number, name, (start, end) in zip(numbers_of_name, own, spans):
            found[number] = {"start": start, "end": end} | ({} if name.type is None else {"type": name.type})
    return found


def _name(entity: Any, where: str) -> _Name | None:
    if isinstance(entity, str):
        entity = {"name": entity}
    if not isinstance(entity, Mapping):
        return None
    occurrence, name = entity.get("occurrence"), entity.get("name")
    if not isinstance(name, str) or any(entity.get(key) is not None for key in ("start", "end", "bbox")):
        if occurrence is not None:
            raise ValueError(
                f"{where} occurrence={shorten(repr(occurrence))} goes with a name, without start and bbox."
            )
        return None
    if occurrence is not None and not is_int(occurrence):
        raise TypeError(f"{where} occurrence must be a whole number; given {shorten(repr(occurrence))}.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"{where} a name has at most {MAX_NAME_CHARACTERS} characters; given {len(name):,}: {shorten(name)!r}. "
            "Give start and end."
        )
    return _Name(name, occurrence, entity.get("type"))


def _spans_of_name(
    given: Sequence[_Name], searched: SearchedText, where: str, *, otherwise: str, numbered: str
) -> list[Span]:
    """Find the places that are meant where the same name was given once or several times."""
    name, places = shorten(given[0].name), list(searched.places(given[0].name))
    if not places:
        raise ValueError(
            f"{where} {name!r} does not occur in the text {shorten(searched.text)!r}, or only inside a longer word. "
            f"Give a name as it is written there, or {otherwise}."
        )
    chosen = [own.occurrence for own in given]
    free = [place for number, place in enumerate(places, 1) if number not in chosen]
    bad = next((number for number in chosen if number is not None and not 1 <= number <= len(places)), None)
    if bad is not None or (None in chosen and len(free) != chosen.count(None)):
        problem = f"was given {chosen.count(None)} time(s)" if bad is None else f"has no occurrence {bad}"
        raise ValueError(
            f"{where} {name!r} {problem}, but occurs {len(places)} time(s): {_listed(places, searched.text)}. Say which"
            f" is meant, such as {numbered.format(name=name, number=len(places))}, or {otherwise}."
        )
    queue = iter(free)
    return [next(queue) if number is None else places[number - 1] for number in chosen]


def _listed(places: Sequence[Span], text: str) -> str:
    shown = [
        f"{number} at characters {start}-{end} ({text[max(0, start - 12) : start + 20]!r})"
        for number, (start, end) in enumerate(places[:_MAX_LISTED], 1)
    ]
    return ", ".join(shown) + f" and {len(places) - _MAX_LISTED} more" * (len(places) > _MAX_LISTED)
