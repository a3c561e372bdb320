"""Text for drawings: fonts that have its characters, lines, and where each character lands."""

from __future__ import annotations

import importlib
import logging
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

DPI = 108  # pixels per inch of drawings; all measures are in points, 72 per inch
MISSING = "\N{REPLACEMENT CHARACTER}"  # stands for a character that no font has
_MAX_MARKS = 3  # more accents on one letter would reach into the lines above
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # written without spaces
_ATOM = re.compile(rf"[{_CJK}][\u3001-\u301f\uff01-\uff65]*|[^\s{_CJK}]+")  # what a line break leaves whole
_POINTS = "-.,:;!?/\u2026\u060c\u061b\u061f"
_WORD = re.compile(rf"[{_POINTS}]|[^{_POINTS}\s]+")  # what matplotlib itself orders from left to right
_TAG, _MAX_TAGS = 0xE0100, 240  # invisible marks, which follow the character before them in any order of words


def import_extra(name: str) -> ModuleType:
    """Import a module that the extra `plots` installs.

    Raises:
        ImportError: If it is not installed; the message says what to type.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = {"bidi": "python-bidi"}.get(name, name.partition(".")[0])
        raise ImportError(f"Drawings need {package}: type `pip install 'roc[plots]'`.") from error


@dataclass(frozen=True)
class Piece:
    """A stretch of one line that is drawn at once: half-open characters of the text, and its edges in points."""

    start: int
    end: int
    left: float
    right: float
    is_right_to_left: bool


class Typesetter:
    """Measures, breaks and places text in fonts that have its characters.

    matplotlib shapes and orders the letters of a word; the order of words of both directions is python-bidi's.

    Attributes:
        missing: The characters seen so far that no font of this machine has.

    Raises:
        ImportError: If matplotlib or python-bidi isn't installed.
    """

    def __init__(self) -> None:
        self._renderer = import_extra("matplotlib.backends.backend_agg").RendererAgg(1, 1, DPI)
        self._bidi = import_extra("bidi")
        self._widths: dict[tuple[str, float, bool], float] = {}
        self._known: set[str] = set()
        self._families = ["DejaVu Sans"]  # comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic, symbols
        self.missing: set[str] = set()

    def font(self, size: float, bold: bool = False) -> FontProperties:
        """The fonts for all text shown so far, in one size."""
        return _properties(self._families, bold, size)

    def shown(self, text: str) -> str:
        """What is drawn for a text: a mark for what no font has, nothing for control characters."""
        if unknown := {character for character in text if _is_visible(character)} - self._known:
            self._find_fonts(unknown)
        glyphs, marks = [], 0
        for character in text:
            marks = marks + 1 if unicodedata.combining(character) else 0
            if character in self.missing:
                glyphs.append("" if unicodedata.category(character) == "Mn" else MISSING)
            elif character.isspace():
                glyphs.append(" ")
            elif character in self._known and marks <= _MAX_MARKS:
                glyphs.append(character)
        return "".join(glyphs)

    def _find_fonts(self, characters: set[str]) -> None:
        self._known |= characters
        for family in self._families:
            characters = characters - _covered(family, characters)
        for family in _installed_families() if characters else ():
            if covered := _covered(family, characters):
                self._families = [*self._families, family]
                characters = characters - covered
        self.missing |= characters

    def missing_note(self) -> str:
        """Words for what no font on this machine has, empty where nothing is missing."""
        scripts = ", ".join(sorted({_script(character) for character in self.missing}))
        return f"No font here for: {scripts} (shown as {MISSING}). Install the Noto fonts to see them." * bool(scripts)

    def width(self, text: str, size: float, bold: bool = False) -> float:
        """Width of one line in points."""
        key = (text, size, bold)
        if key not in self._widths:
            shown = self.shown(text)
            pixels = self._renderer.get_text_width_height_descent(shown, self.font(size, bold), False)[0]
            self._widths[key] = pixels * 72 / DPI
        return self._widths[key]

    def shorten(self, text: str, size: float, width: float, bold: bool = False) -> str:
        """What is drawn for a text on one line: it ends in an ellipsis if it is too long for the width."""
        line = " ".join(text[:500].split())
        if self.width(line, size, bold) <= width:
            return self.shown(line)
        return self.shown(line[: self._fitting(line, size, width - self.width("…", size, bold), bold)]).rstrip() + "…"

    def _fitting(self, text: str, size: float, width: float, bold: bool = False) -> int:
        """How many leading characters fit into a width, accents together with their letters; at least one."""
        lengths = range(1, min(500, len(text)))
        count = bisect_right(lengths, width, key=lambda count: self.width(text[:count], size, bold))
        while count > 1 and unicodedata.category(text[count]).startswith("M"):
            count -= 1
        return max(1, count)

    def wrap(self, text: str, size: float, width: float) -> list[tuple[int, int]]:
        """Break a text into half-open character spans: at spaces, newlines, CJK characters, and inside long words."""
        lines, offset = [], 0
        for paragraph in text.split("\n"):
            lines += [(offset + start, offset + end) for start, end in self._wrap_paragraph(paragraph, size, width)]
            offset += len(paragraph) + 1
        return lines

    def _wrap_paragraph(self, text: str, size: float, width: float) -> Iterator[tuple[int, int]]:
        start, end, used = 0, 0, 0.0
        for atom in _ATOM.finditer(text):
            used += self.width(text[end : atom.start()], size) + self.width(atom[0], size)
            if used > width and end > start:
                yield start, end
                start, used = atom.start(), self.width(atom[0], size)
            while used > width and start + 1 < atom.end():
                cut = start + self._fitting(text[start : atom.end()], size, width)
                yield start, cut
                start, used = cut, self.width(text[cut : atom.end()], size)
            end = atom.end()
        yield start, end

    def place(self, text: str, line: tuple[int, int], size: float, width: float) -> list[Piece]:
        """Arrange one line: a line with right-to-left words in pieces of a word, and at the right if it begins so."""
        start, end = line
        if not any(unicodedata.bidirectional(character) in {"R", "AL"} for character in text[start:end]):
            return [Piece(start, end, 0.0, self.width(text[start:end], size), False)]
        text = re.sub("[\ud800-\udfff]", MISSING, text)  # python-bidi takes no halves of surrogate pairs
        is_right_to_left = self._bidi.get_base_level(text[text.rfind("\n", 0, start) + 1 : end]) == 1
        pieces, left = [], 0.0
        for word, has_space in self._in_visual_order(text[start:end], "R" if is_right_to_left else "L"):
            left += self.width(" ", size) * has_space
            right, is_word_turned = left + self.width(word[0], size), self._bidi.get_base_level(word[0]) == 1
            pieces.append(Piece(start + word.start(), start + word.end(), left, right, is_word_turned))
            left = right
        shift = width - left if is_right_to_left else 0.0
        return [replace(piece, left=piece.left + shift, right=piece.right + shift) for piece in pieces]

    def _in_visual_order(self, line: str, direction: str) -> Iterator[tuple[re.Match[str], bool]]:
        """The words of a line from left to right, and whether there is a space at the left of each."""
        words = list(_WORD.finditer(line))[:_MAX_TAGS]
        for number, word in reversed(list(enumerate(words))):
            line = line[: word.start() + 1] + chr(_TAG + number) + line[word.start() + 1 :]
        has_space = False
        for character in self._bidi.get_display(line, base_dir=direction):
            if 0 <= ord(character) - _TAG < len(words):
                yield words[ord(character) - _TAG], has_space
                has_space = False
            has_space |= character.isspace()

    def extent(
        self, text: str, pieces: Sequence[Piece], span: Mapping[str, Any], size: float
    ) -> tuple[float, float] | None:
        """Left and right edge of the part of a span that lies in the pieces of a line; None where no part does."""
        edges: list[float] = []
        for piece in pieces:
            first, last = max(span["start"], piece.start), min(span["end"], piece.end)
            if first < last:
                before, until = (self.width(text[piece.start : offset], size) for offset in (first, last))
                turned = (piece.right - until, piece.right - before)
                edges += turned if piece.is_right_to_left else (piece.left + before, piece.left + until)
        return (min(edges), max(edges)) if edges else None


# ---------------------------------------------------------------------------------------------------------------------
# Fonts


def _covered(family: str, characters: set[str]) -> set[str]:
    """The characters that a family has in both weights that drawings use."""
    from matplotlib.font_manager import findfont, get_font

    for bold in (False, True):
        font = get_font(findfont(_properties([family], bold)))
        characters = {character for character in characters if font.get_char_index(ord(character))}
    return characters


def _properties(families: list[str], bold: bool, size: float | None = None) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=families, size=size, weight="bold" if bold else "normal")


@cache
def _installed_families() -> list[str]:
    """Families that may have what DejaVu Sans lacks, Noto Sans and others without serifs first."""
    from matplotlib import font_manager

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it regrets each family without a bold face
    fonts = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in fonts.ttflist}:
        try:
            fonts.addfont(path)  # installed since matplotlib made its list
        except (RuntimeError, NotImplementedError, OSError):  # bitmaps, or damaged
            continue
    # Last Resort has a box for every character; coloured glyphs have no outlines, so that nothing would be drawn.
    names = {entry.name for entry in fonts.ttflist if not re.search("Last Resort|Color|DejaVu|Twemoji", entry.name)}
    return sorted(names, key=lambda name: (not name.startswith("Noto Sans"), "Sans" not in name, name))


def _is_visible(character: str) -> bool:
    """Whether a font must have a character: not spaces, controls and variation selectors.

    Joiners are kept, because they shape the letters beside them.
    """
    is_selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    is_control = unicodedata.category(character) in {"Cc", "Cf"} and character not in "\u200c\u200d"
    return not (is_selector or is_control or character.isspace())


def _script(character: str) -> str:
    """The script of a character in words, as far as its Unicode name says it."""
    if unicodedata.category(character)[0] not in "LM":
        return "some emoji or symbols"
    word = unicodedata.name(character, f"U+{ord(character):04X}").partition(" ")[0]
    return word if word == "CJK" or word.startswith("U+") else word.capitalize()
