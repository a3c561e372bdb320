"""Where names stand in a text: as whole words of any script, however their characters are encoded."""

from __future__ import annotations

import functools
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from .messages_roc import quote, shorten
from .processing_entities_roc import is_int
from .processing_typing_roc import Span

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
            raise ValueError(f"{where} occurrence={quote(occurrence)} goes with a name, without start and bbox.")
        return None
    if occurrence is not None and not is_int(occurrence):
        raise TypeError(f"{where} occurrence must be a whole number; given {quote(occurrence)}.")
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
        problem = f"was given {chosen.count(None)} time(s)" if bad is None else f"has no occurrence {quote(bad)}"
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
