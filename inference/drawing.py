"""Pictures for people: one prediction with its text, its picture and the ranked relations of its pairs."""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor

from roc.processing_entities_roc import check_entity, check_pairs
from roc.processing_images_roc import open_image
from roc.support.figures import INK, MUTED, check_png, entity_color, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MAX_PAIRS, MAX_RELATIONS, MAX_TEXT_LINES, MAX_DESCRIPTION_LINES = 6, 5, 24, 3
TOWARDS, AWAY = "#dc2626", "#2563eb"  # colour what moved a pair
MISSING = "\N{REPLACEMENT CHARACTER}"  # stands for a character that no font has
DPI = 160
_CHIP = {"pad": 3, "linewidth": 0}
_MAX_TEXT = 5000  # characters; more than its lines hold
_WIDTH, _GAP, _MAX_PICTURE_HEIGHT = 720, 12, 380  # points, 72 per inch
_TEXT_SIZE, _NAME_SIZE, _SMALL_SIZE, _TYPE_SIZE = 14, 11, 9, 8
# Chinese, Japanese, Thai and Lao are written without spaces: a line may end after each letter with its marks.
_LETTERS = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = "\u0300-\u036f\u0e31\u0e33-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb3-\u0ebc\u0ec8-\u0ece\u3001-\u301f\uff01-\uff65"
_WORD = re.compile(rf"\n|[\u0e40-\u0e44]?[{_LETTERS}][{_MARKS}]*|[^\s{_LETTERS}]{{1,30}}[{_MARKS}]*")
_POINT = re.compile("[-.,:;!?/\u2026\u060c\u061b\u061f]")  # the words beside a point decide its place
Placed = tuple[float, float, int, int]  # a word of a line: left and right in points, half-open characters of the text
_TAG = 0xE0100  # invisible marks, which follow the character before them in any order of words


def set_fonts(figure: Figure) -> None:
    """Give a figure's texts fonts that have their characters, and show `$` as it is.

    A warning names the scripts that no font of this machine has.
    """
    from matplotlib.text import Text

    texts = [own for own in figure.findobj(Text) if isinstance(own, Text)]
    fonts, _, missing = _find_fonts({*"".join(own.get_text() for own in texts)})
    for own in texts:
        own.set_fontfamily(fonts[_SMALL_SIZE].get_family())
        if "$" in own.get_text():
            own.set_parse_math(False)
    if missing:
        logger.warning(missing.replace(MISSING, "an empty box"))


def largest_relevance(explanation: Mapping[str, Any]) -> float:
    """Return the largest magnitude among all tokens and patches of an explanation: one scale for text and picture."""
    values = [token["relevance"] for token in explanation["tokens"]] + [*chain(*explanation["patches"] or ())]
    return max(map(abs, values), default=0.0)


def tint(relevance: float, largest: float) -> str:
    """Return the colour of a relevance as `#rrggbbaa`: the hue of its sign, the more opaque the nearer to `largest`."""
    share = min(1.0, abs(relevance) / largest) if largest > 0 else 0.0
    return f"{TOWARDS if relevance > 0 else AWAY}{round(180 * share):02x}"  # a picture stays visible under it


def with_heat(image: Image.Image, patches: Sequence[Sequence[float]], largest: float) -> Image.Image:
    """Return an RGB picture in fainter colours, under the `tint` of each patch (rows of relevances) of a grid on it."""
    heat = Image.new("RGBA", (len(patches[0]), len(patches)))
    heat.putdata([ImageColor.getrgb(tint(value, largest)) for value in chain(*patches)])
    faint = Image.blend(image.convert("L").convert("RGBA"), image.convert("RGBA"), 0.45)
    return Image.alpha_composite(faint, heat.resize(image.size, Image.Resampling.NEAREST)).convert("RGB")


def draw_prediction(
    path: str | os.PathLike[str] | None,
    *,
    text: str,
    entities: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    image: Image.Image | None = None,
    explanation: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw one post: its text with coloured entities, its picture with boxes, and the ranked relations of its pairs.

    It says how much it leaves out, a warning names the scripts that no font of this machine has, and the figure's
    artists carry a `gid` such as `mark 0`, where 0 is an entity's index.

    Args:
        path: PNG file to write (whole or not at all), or `None` to write none.
        text: The post.
        entities: Dicts with `name`, `type` (or None), and `start` and `end` (half-open character offsets into `text`)
            or `bbox` (`xyxy`, normalised to [0, 1], origin top left).
        predictions: Dicts with `head` and `tail` (indices into `entities`), `relations`, a list of dicts with
            `relation`, `score` (in [0, 1]) and `description` (or None), best first; and `relation`, None if none holds.
        image: The picture, of any size and mode, turned the way the boxes were measured.
        explanation: What moved the pair, as `inference.posts.explain_post` gives it: it colours words and patches.

    Raises:
        ValueError: If a span, a box or a pair's entity is not there, or `path` does not end in `.png`.
        ImportError: If the extra `plots` isn't installed.
    """
    check_png(path)
    for index, entity in enumerate(entities):
        check_entity({**entity, "type": None, "name": None}, text, f"Entity {index} ({entity['name']!r})")
    check_pairs([(pair["head"], pair["tail"]) for pair in predictions], len(entities), "The drawing")
    page = _Page(text, entities, predictions, explanation)
    page.add([page.draw_text])
    pictures = [] if image is None else [partial(page.draw_picture, open_image(image, "the picture"))]
    page.add(pictures + [partial(page.draw_pair, pair) for pair in predictions[:MAX_PAIRS]])
    if page.missing:
        logger.warning(page.missing)
    for note in filter(None, [_more(len(predictions) - MAX_PAIRS, "pair"), page.missing]):
        page.bottom = _GAP + page.write(note, _GAP, page.bottom, _WIDTH - 2 * _GAP)
    page.axes.set(xlim=(0, _WIDTH), ylim=(page.bottom, 0))
    page.figure.set_size_inches(_WIDTH / 72, page.bottom / 72)
    if path is not None:
        save_figure(page.figure, path)
    return page.figure


def _more(number: int, what: str) -> str:
    return f"and {number:,} more {what}{'s' * (number > 1)}" * (number > 0)


class _Page:
    """A page in points from the top left; a part of it draws at a left and upper edge and returns its lower edge."""

    def __init__(self, text: str, entities: Any, predictions: Any, explanation: Mapping[str, Any] | None) -> None:
        self.figure = new_figure(_WIDTH / 72, 1, dpi=DPI, facecolor="#f4f6fa")
        self.axes = self.figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
        self.text, self.entities, self.explanation, self.bottom = text, entities, explanation or {}, float(_GAP)
        self.spans = {i: (own["start"], own["end"]) for i, own in enumerate(entities) if own.get("bbox") is None}
        self.patches, self.tokens = self.explanation.get("patches"), self.explanation.get("tokens", ())
        self.largest = largest_relevance(explanation) if explanation else 0.0
        written = json.dumps([entities, predictions, explanation], ensure_ascii=False)  # controls are escaped in it
        self.fonts, self.table, self.missing = _find_fonts({*text[:_MAX_TEXT], *written, *map(chr, range(32)), *"…→"})

    def add(self, parts: Sequence[Callable[[float, float, float], float]]) -> None:
        """Put parts on cards in two columns, each under the shorter one; a single part is as wide as the page."""
        columns = [self.bottom] * min(2, len(parts))
        for part in parts:
            top, width = min(columns), (_WIDTH - _GAP) / len(columns) - _GAP
            left = _GAP + columns.index(top) * (width + _GAP)
            bottom = part(left + _GAP, top + _GAP, width - 2 * _GAP) + _GAP
            self._box(left, top, left + width, bottom, "card", facecolor="white", zorder=-1)
            columns[columns.index(top)] = bottom + _GAP
        self.bottom = max(columns, default=self.bottom)

    def draw_text(self, left: float, top: float, width: float) -> float:
        """Write the post's text with its entities, and what the colours of an explanation mean."""
        y = self.write(self.text, left, top, width, MAX_TEXT_LINES, _TEXT_SIZE)
        if not self.explanation:
            return y
        added = f"text {sum(token['relevance'] for token in self.tokens):+.2f}"
        added += f", picture {sum(map(sum, self.patches)):+.2f}" if self.patches else ""
        note = f"Red: towards {self.explanation['relation']}. Blue: away from it."
        return self.write(f"{note} Score {self.explanation['score']:.2f}: {added}", left, y, width)

    def draw_picture(self, image: Image.Image, left: float, top: float, width: float) -> float:
        """Draw the picture with the relevance of its patches and a named box for each object."""
        scale = min(width / image.width, _MAX_PICTURE_HEIGHT / image.height)
        wide, high = image.width * scale, image.height * scale
        boxes = {index: own["bbox"] for index, own in enumerate(self.entities) if own.get("bbox") is not None}
        x, y, taken = left + (width - wide) / 2, top + 16 * bool(boxes), list[tuple[float, float, float]]()
        shown = with_heat(image, self.patches, self.largest) if self.patches else image
        self.axes.imshow(shown, extent=(x, x + wide, y + high, y), aspect="auto", gid="picture")
        for index, box in boxes.items():
            color, (x0, y0, x1, y1) = entity_color(index), np.multiply(box, [wide, high] * 2) + [x, y] * 2
            self._box(x0, y0, x1, y1, f"box {index}", fill=False, edgecolor=color, linewidth=2)
            name = self.shorten(self.entities[index]["name"], _SMALL_SIZE, width / 2)
            start = min(x0, left + width - self.width(name, _SMALL_SIZE) - 8)
            above = _free(taken, start, start + self.width(name, _SMALL_SIZE) + 8, y0 - 16, 16)
            self._text(
                start + 4,
                above + 11,
                name,
                _SMALL_SIZE,
                "white",
                gid=f"label {index}",
                bbox={**_CHIP, "color": color},
            )
        return max([y + high, *(above + 16 for _, _, above in taken)])

    def draw_pair(self, pair: Mapping[str, Any], left: float, top: float, width: float) -> float:
        """Write both names, draw a bar for each relation, and describe the best one."""
        x, y, relations = left + 4, top + 26, pair["relations"][:MAX_RELATIONS]
        for side, arrow in (("head", "→"), ("tail", "")):
            name = self.shorten(self.entities[pair[side]]["name"], _NAME_SIZE, width / 2 - 24)
            color, gid = entity_color(pair[side]), f"{side} {pair[side]}"
            self._text(x, top + 12, name, _NAME_SIZE, color, gid=gid, bbox={**_CHIP, "color": _light(color)})
            x += self.width(name, _NAME_SIZE) + 32
            self._text(x - 22, top + 12, arrow, _NAME_SIZE, MUTED)
        is_decided = bool(relations) and pair.get("relation", "") is not None
        y = y if is_decided else self.write("no relation", left, y, width)
        rows = [y + 6 + 15 * number for number in range(len(relations))]
        for row, relation in zip(rows, relations):
            self._text(left, row + 3, self.shorten(relation["relation"], _SMALL_SIZE, 0.46 * width), _SMALL_SIZE)
        lengths = [(0.5 * width - 24) * min(1.0, max(0.0, own["score"])) for own in relations]
        bars = self.axes.barh(rows, lengths, 8, left + 0.5 * width, color="#94a3b8", gid="bar")
        self.axes.bar_label(bars, [f"{own['score']:.2f}" for own in relations], padding=3, fontsize=_SMALL_SIZE)
        y += 15 * len(rows) + 2
        if is_decided:
            bars[0].set(facecolor=INK, gid="best bar")
            y = self.write(relations[0].get("description") or "", left, y, width, MAX_DESCRIPTION_LINES)
        return self.write(_more(len(pair["relations"]) - MAX_RELATIONS, "relation"), left, y, width)

    def write(self, text: str, left: float, top: float, width: float, limit: int = 9, size: int = _SMALL_SIZE) -> float:
        """Write the first lines of a text and say how much is left out; entities are marked in the post's text."""
        is_post = size == _TEXT_SIZE
        shown = text[:_MAX_TEXT].translate(self.table)
        for number, line in enumerate(self._lines(shown, size, width)):
            if number == limit:
                left_out = len(text) - min((start for _, _, start, _ in line), default=0)
                return self.write(f"… {_more(left_out, 'character')}", left, top, width)
            for x, _, start, end in line:
                self._text(left + x, top + 1.1 * size, shown[start:end], size, INK if is_post else MUTED)
            top = self._mark(line, left, top, width) if is_post else top + 1.5 * size
        return top

    def _mark(self, line: Sequence[Placed], left: float, top: float, width: float) -> float:
        """Colour the words of a line, and draw bars below its entities with their types; returns the lower edge."""
        for x0, x1, first, last in line:
            if own := [token["relevance"] for token in self.tokens if first < token["end"] and token["start"] < last]:
                self._box(left + x0, top, left + x1, top + 18, "tint", facecolor=tint(sum(own), self.largest))
        taken: list[tuple[float, float, float]] = []
        for index, (start, end) in sorted(self.spans.items(), key=lambda item: item[1][0] - item[1][1]):
            for is_inside, run in groupby(line, lambda piece: start < piece[3] and piece[2] < end):  # noqa: B023
                if is_inside:
                    pieces, color = list(run), entity_color(index)
                    x0, x1 = left + pieces[0][0], left + pieces[-1][1]
                    if not self.explanation:
                        self._box(x0 - 1, top, x1 + 1, top + 18, "tint", facecolor=_light(color))
                    kind = self.shorten(self.entities[index].get("type") or "", _TYPE_SIZE, width / 4)
                    begin = min(x0, left + width - self.width(kind, _TYPE_SIZE))
                    y = _free(taken, begin, max(x1, begin + self.width(kind, _TYPE_SIZE)) + 4, top + 19, 13)
                    self._box(x0, y, x1, y + 1.5, f"mark {index}", facecolor=color)
                    self._text(begin, y + 9.5, kind, _TYPE_SIZE, color)
        return max([top + 10, *(y for _, _, y in taken)]) + 14

    def _lines(self, text: str, size: int, room: float) -> Iterator[list[Placed]]:
        """Break a text into lines that fit; words are cut beside points and, in the post's text, where entities end."""
        edges = set(chain(*(point.span() for point in _POINT.finditer(text))))
        edges.update(*(self.spans.values() if size == _TEXT_SIZE else ()))
        line, used = list[tuple[int, int]](), 0.0
        for word in _WORD.finditer(text + "\n" * bool(text)):
            start, end = word.span()
            spaced = (" " * text[start - 1 : start].isspace() + word[0]).rstrip("\n")
            used += self.width(spaced, size)
            if word[0] == "\n" or (line and used > room):
                yield self._in_order(text, line, size, room)
                line, used = [], self.width(spaced, size)
            if word[0] != "\n":
                line.extend(pairwise(sorted({start, end} | edges.intersection(range(start, end)))))

    def _in_order(self, text: str, line: Sequence[tuple[int, int]], size: int, room: float) -> list[Placed]:
        """Place the words of a line from left to right, as the Unicode bidirectional algorithm orders them."""
        from bidi import get_base_level, get_display

        spaces = [" " * text[start - 1 : start].isspace() for start, _ in line]
        tagged = [text[start] + chr(_TAG + number) + text[start + 1 : end] for number, (start, end) in enumerate(line)]
        is_right, placed, x = get_base_level(text) == 1, list[Placed](), 0.0
        for character in get_display("".join(map("".join, zip(spaces, tagged))).strip(), base_dir="LR"[is_right]):
            x += self.width(" ", size) * (character == " ")
            if 0 <= (number := ord(character) - _TAG) < len(line):
                start, end = line[number]
                placed.append((x, x := x + self.width(text[start:end], size), start, end))
        shift = (room - x) * is_right
        return [(left + shift, right + shift, start, end) for left, right, start, end in placed]

    def width(self, text: str, size: int) -> float:
        """Return the width of one line in points."""
        from matplotlib.backends.backend_agg import RendererAgg

        return RendererAgg(1, 1, DPI).get_text_width_height_descent(text, self.fonts[size], False)[0] * 72 / DPI

    def shorten(self, text: str, size: int, room: float) -> str:
        """Return a text on one line, with an ellipsis in place of its end if it is wider than the room."""
        line = " ".join(text[:200].translate(self.table).split())
        while len(line) > 1 and (width := self.width(line, size)) > room:
            line = line[: min(len(line) - 2, int(len(line) * room / width))] + "…"
        return line

    def _text(self, x: float, y: float, text: str, size: int, color: str = INK, **style: Any) -> None:
        self.axes.text(x, y, text, color=color, fontproperties=self.fonts[size], parse_math=False, **style)

    def _box(self, x0: float, y0: float, x1: float, y1: float, gid: str, **style: Any) -> None:
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, gid=gid, **{"linewidth": 0, **style}))


def _light(color: str) -> str:
    """Return a tint of a colour, on which dark letters can be read."""
    return "#" + "".join(f"{255 - (255 - channel) * 4 // 25:02x}" for channel in ImageColor.getrgb(color))


def _free(taken: list[tuple[float, float, float]], left: float, right: float, top: float, height: float) -> float:
    """Take the first place at or below `top` where nothing is."""
    while any(left < end and start < right and abs(top - other) < height for start, end, other in taken):
        top += 1
    taken.append((left, right, top))
    return top


def _find_fonts(characters: set[str]) -> tuple[dict[int, Any], dict[int, str], str]:
    """Return fonts by size that have the characters, what is drawn instead of some of them, and a note on those."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    characters -= {*"\n\u200c\u200d"}  # the joiners shape the letters beside them
    hidden = {own for own in characters if own.isspace() or unicodedata.category(own) in ("Cc", "Cf")}
    missing, families = characters - hidden, list[str]()
    for family in _families():
        faces = [get_font(findfont(FontProperties(family, weight=weight))) for weight in ("normal", "bold")]
        if covered := {own for own in missing if all(face.get_char_index(ord(own)) for face in faces)}:
            families, missing = [*families, family], missing - covered
        if not missing:
            break
    fonts = {size: FontProperties(families, size=size) for size in (_TEXT_SIZE, _SMALL_SIZE, _TYPE_SIZE)}
    fonts[_NAME_SIZE] = FontProperties(families, size=_NAME_SIZE, weight="bold")
    table = {ord(own): " " if own.isspace() else "\u200b" for own in hidden}
    letters = {own for own in missing if unicodedata.category(own)[0] in "LM"}
    scripts = sorted({unicodedata.name(own).split()[0].capitalize() for own in letters})
    scripts += ["some emoji or symbols"] * (missing > letters)
    note = f"No font here for: {', '.join(scripts)} (shown as {MISSING}). Install the Noto fonts." * bool(missing)
    return fonts, table | dict.fromkeys(map(ord, missing), MISSING), note


def _families() -> Iterator[str]:
    """Generate installed families: DejaVu Sans comes with matplotlib; then those that may have what it lacks."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    yield "DejaVu Sans"
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it regrets each family without a bold face
    for path in set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}:
        with suppress(RuntimeError, NotImplementedError, OSError):  # bitmaps, or damaged
            fontManager.addfont(path)  # installed since matplotlib made its list
    # Last Resort has a box for every character; coloured glyphs have no outlines, so that nothing would be drawn.
    names = {own.name for own in fontManager.ttflist if not re.search("Last Resort|Color|DejaVu|Twemoji", own.name)}
    yield from sorted(names, key=lambda name: (not name.startswith("Noto Sans"), "Sans" not in name, name))
