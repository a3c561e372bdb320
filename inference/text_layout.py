"""Text for drawings: fonts, lines, and where each character lands."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

# Glyph by glyph from left to right, so that each character offset has one place on its line.
_LAYOUT = ImageFont.Layout.BASIC


@cache
def load_font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans where matplotlib brings it along (Cyrillic, Greek, Hebrew, symbols), else Pillow's own font."""
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        file = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / name
        if file.is_file():
            return ImageFont.truetype(str(file), size, layout_engine=_LAYOUT)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # as always when a size is given
    return font.font_variant(layout_engine=_LAYOUT)


def wrap(text: str, font: Font, width: float) -> list[tuple[int, int]]:
    """Break a text at spaces and newlines (and inside longer words) into half-open character spans of lines."""
    lines, offset = [], 0
    for paragraph in text.split("\n"):
        lines += [(offset + start, offset + end) for start, end in _wrap_paragraph(paragraph, font, width)]
        offset += len(paragraph) + 1
    return lines


def _wrap_paragraph(text: str, font: Font, width: float) -> list[tuple[int, int]]:
    lines, start, end = [], 0, 0
    for word in re.finditer(r"\S+", text):
        if font.getlength(text[start : word.end()]) <= width:
            end = word.end()
            continue
        if end > start:
            lines.append((start, end))
            start = word.start()
        while font.getlength(text[start : word.end()]) > width:
            cut = start + _fitting(text[start : word.end()], font, width)
            lines.append((start, cut))
            start = cut
        end = word.end()
    return [*lines, (start, end)]


def _fitting(text: str, font: Font, width: float) -> int:
    """How many leading characters fit into a width; at least one."""
    count = 1
    while count < len(text) and font.getlength(text[: count + 1]) <= width:
        count += 1
    return count


def place_characters(text: str, line: tuple[int, int], font: Font) -> tuple[str, list[tuple[float, float]]]:
    """Arrange one line for drawing.

    Returns:
        The glyphs from left to right, and for each character of `text[line[0]:line[1]]` its left and right edge in
        pixels from the start of the line.
    """
    characters = text[line[0] : line[1]]
    glyphs, edges = "", [(0.0, 0.0)] * len(characters)
    for i in visual_order(characters):
        left = font.getlength(glyphs)
        glyphs += _glyph(characters[i])
        edges[i] = (left, font.getlength(glyphs))
    return glyphs, edges


def visual_order(characters: str) -> list[int]:
    """Indices from left to right: runs of right-to-left characters, with the neutral ones between, are turned round.

    Source:
        A small part of the Unicode bidirectional algorithm (UAX 9): one level, left-to-right paragraphs.
    """
    order, i = list(range(len(characters))), 0
    directions = [unicodedata.bidirectional(character) for character in characters]
    while i < len(characters):
        if directions[i] not in {"R", "AL"}:
            i += 1
            continue
        end = j = i + 1
        while j < len(characters) and directions[j] not in {"L", "EN", "AN"}:
            end = j + 1 if directions[j] in {"R", "AL"} else end
            j += 1
        order[i:end] = reversed(order[i:end])
        i = end
    return order


def _glyph(character: str) -> str:
    """What is drawn for a character: nothing for controls, joiners and variation selectors (fonts show boxes)."""
    if character.isspace():
        return " "
    invisible = unicodedata.category(character) in {"Cc", "Cf", "Cs"} or "\ufe00" <= character <= "\ufe0f"
    return "" if invisible else character


def shorten(text: str, font: Font, width: float) -> str:
    """One line of text, in visual order, ended by an ellipsis if it is too long for the width."""
    characters = " ".join(text[:500].split())
    line = "".join(_glyph(characters[i]) for i in visual_order(characters))
    if font.getlength(line) <= width:
        return line
    return line[: _fitting(line, font, width - font.getlength("…"))].rstrip() + "…"
