"""Pictures for people: one prediction with text, picture and ranked relations."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageColor

from roc.inference.heat_map import AWAY, TOWARDS, color_of, largest_relevance, opacity, with_heat
from roc.inference.text_layout import DPI, Piece, Typesetter, import_extra
from roc.processing_images_roc import open_image
from roc.support.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MAX_PAIRS = 6
MAX_RELATIONS = 5
MAX_TEXT_LINES = 24
MAX_DESCRIPTION_LINES = 3

# Eight hues that stay apart from each other, dark enough for small type on white (contrast at least 4.5 : 1).
ENTITY_COLORS = (
    "#2563eb",  # blue
    "#c2410c",  # orange
    "#047857",  # green
    "#be185d",  # pink
    "#6d28d9",  # violet
    "#0e7490",  # teal
    "#b91c1c",  # red
    "#4d7c0f",  # olive
)
INK, MUTED = "#18202f", "#5c6779"
_PAGE, _CARD, _EDGE, _TRACK, _FIRST_BAR, _BAR = "#f4f6fa", "#ffffff", "#dde2ea", "#e9edf3", "#334155", "#94a3b8"

_WIDTH, _MARGIN, _GAP, _PADDING = 1080, 24, 16, 18  # points
_MAX_PICTURE_HEIGHT = 560
_TEXT_SIZE, _TEXT_HEIGHT, _TAG_SIZE, _LANE_HEIGHT, _DESCRIPTION_HEIGHT = 21, 33, 13, 22, 20
_CHARACTERS_DRAWN, _DESCRIPTION_DRAWN = 5000, 1000  # more than their lines hold, so that a whole book costs no time
_MAX_PIXELS_HIGH = 20_000  # of more than a hundred nested entities; matplotlib draws less than 2 ** 16


def entity_color(index: int) -> str:
    """Colour of the entity at `index`: the same in the text, on the picture and in the pairs."""
    return ENTITY_COLORS[index % len(ENTITY_COLORS)]


def check_png(path: str | os.PathLike[str] | None) -> None:
    """Refuse a file name that does not end in .png."""
    if path is not None and Path(path).suffix.lower() != ".png":
        raise ValueError(f"{os.fspath(path)!r} is written as PNG; give a file name that ends in .png.")


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """A figure (in inches) of its own: without pyplot's global state, a display, or any other thread's.

    Raises:
        ImportError: If matplotlib isn't installed.
    """
    figure = import_extra("matplotlib.figure").Figure(figsize=(width, height), **options)
    import_extra("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", metadata={"Software": None})


# ---------------------------------------------------------------------------------------------------------------------
# One prediction


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

    The first `MAX_PAIRS` pairs are drawn with their first `MAX_RELATIONS` relations, and a line says how many are left
    out; likewise for a text of more than `MAX_TEXT_LINES` lines. Characters that no font of this machine has are
    replaced by a mark, and a line of the drawing and a warning say which scripts they are of.

    Args:
        path: PNG file to write (whole or not at all), or `None` to write none.
        text: The post.
        entities: Dicts with `name`, `type` (or None), and either `start` and `end` (half-open character offsets into
            `text`) or `bbox` (`xyxy`, normalised to [0, 1], origin top left; parts outside are cut off), or both.
        predictions: Dicts with `head` and `tail` (indices into `entities`) and `relations`, a list of dicts with
            `relation`, `score` and `description` (or None), best first. Bars show scores from 0 to 1. Where
            `relation` is there and None, no relation was decided for: a line says so, and no bar stands out.
        image: The picture, of any size and mode, turned the way the boxes were measured.
        explanation: What moved the pair towards its relation, as `inference.posts.explain` gives it: the text's words
            and the picture's patches are coloured by their relevance, on one scale.

    Returns:
        The figure. Marks, boxes, tints and bars carry a `gid` such as `mark 0`, where 0 is the entity's index.

    Raises:
        ValueError: If a span lies outside the text, a pair names an entity that isn't there, or `path` is no `.png`.
        ImportError: If the extra `plots` isn't installed.
    """
    _check_prediction(path, text, entities, predictions)
    page = _Page()
    inner = _WIDTH - 2 * _MARGIN
    rows = [[_text_block(page, text, entities, inner, explanation)]]
    if explanation is not None:
        rows.append([_legend_block(page, explanation, inner)])
    rows.append(_detail_blocks(page, entities, predictions, image, inner, explanation))
    left_out = len(predictions) - MAX_PAIRS
    if left_out > 0:
        rows.append([_note_block(page, f"and {left_out} more pair{'s' * (left_out > 1)}", inner)])
    elif not predictions:
        rows.append([_note_block(page, "no pairs of entities", inner)])
    if note := page.type.missing_note():
        logger.warning(note)
        rows.append([_note_block(page, note, inner)])
    figure = page.arrange(rows)
    if path is not None:
        save_figure(figure, path)
    return figure


def _check_prediction(
    path: str | os.PathLike[str] | None,
    text: str,
    entities: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
) -> None:
    check_png(path)
    for index, entity in enumerate(entities):
        start, end = entity.get("start"), entity.get("end")
        if start is not None and end is not None and not 0 <= start <= end <= len(text):
            raise ValueError(
                f"Entity {index} ({entity['name']!r}) spans characters {start} to {end} of a text of {len(text)} "
                "characters; give half-open character offsets into the text, not token positions."
            )
    for index, pair in enumerate(predictions):
        for side in ("head", "tail"):
            if not 0 <= pair[side] < len(entities):
                raise ValueError(
                    f"Pair {index} has the {side} {pair[side]}, but there are {len(entities)} entities; "
                    "heads and tails are indices into entities, from 0."
                )


# ---------------------------------------------------------------------------------------------------------------------
# Page and blocks: all in points, from the top left


class _Page:
    """A figure as high as the blocks on it need; artists lie over each other in the order in which they were added."""

    def __init__(self) -> None:
        self.type = Typesetter()
        self.figure = new_figure(_WIDTH / 72, 1, dpi=DPI, facecolor=_PAGE)
        self.downwards = import_extra("matplotlib.transforms").Affine2D()
        self.order = itertools.count(1)

    def arrange(self, rows: list[list[_Block]]) -> Figure:
        """Put rows of blocks one under the other; the blocks of one row go under the shorter of two columns."""
        y = float(_MARGIN)
        for row in filter(None, rows):
            ends = [y, y]
            for block in row:
                column = 0 if ends[0] <= ends[1] else 1
                block.offset.translate(_MARGIN + column * (block.width + _GAP), ends[column])
                ends[column] += block.height + _GAP
            y = max(ends)
        height = y - _GAP + _MARGIN
        self.downwards.scale(1 / 72, -1 / 72).translate(0, height / 72)
        self.figure.set_size_inches(_WIDTH / 72, height / 72)
        self.figure.set_dpi(min(DPI, _MAX_PIXELS_HIGH / (height / 72)))
        return self.figure


class _Block:
    """A part of the page, drawn from its own top left corner; the page moves it to its place when its height is known.

    Args:
        page: The page.
        width: In points.
        height: In points; of a card, `close` says it.
    """

    def __init__(self, page: _Page, width: float, height: float = 0) -> None:
        from matplotlib.transforms import Affine2D

        self.page, self.type, self.width, self.height = page, page.type, width, height
        self.offset = Affine2D()
        self.transform = self.offset + page.downwards + page.figure.dpi_scale_trans

    def close(self, height: float) -> _Block:
        """End a card: lay it under what was drawn."""
        self.height = height
        self.box(0, 0, self.width, height, _CARD, "card", 10, edgecolor=_EDGE, linewidth=1, zorder=0)
        return self

    def text(
        self, x: float, baseline: float, text: str, size: float, color: str = INK, bold: bool = False, **style: Any
    ) -> float:
        """Write one line, which is sure to fit; returns how wide it is."""
        given: dict[str, Any] = {"parse_math": False, "transform": self.transform, "zorder": next(self.page.order)}
        font, shown = self.type.font(size, bold), self.type.shown(text)
        self.page.figure.text(x, baseline, shown, color=color, fontproperties=font, **given, **style)
        return self.type.width(text, size, bold)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Any, gid: str, radius: float = 0, **style: Any
    ) -> None:
        """Draw a filled rectangle, with round corners where there is a radius."""
        from matplotlib.patches import FancyBboxPatch

        shape = f"round,pad=0,rounding_size={min(radius, (x1 - x0) / 2, (y1 - y0) / 2)}"
        patch = FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, boxstyle=shape, transform=self.transform, linewidth=0)
        patch.set(facecolor=fill, gid=gid, **{"zorder": next(self.page.order), **style})
        self.page.figure.add_artist(patch)


def _note_block(page: _Page, note: str, width: float) -> _Block:
    lines = page.type.wrap(note, 15, width)
    block = _Block(page, width, 22 * len(lines))
    for number, (start, end) in enumerate(lines):
        block.text(width / 2, 15 + 22 * number, note[start:end], 15, MUTED, ha="center")
    return block


def _legend_block(page: _Page, explanation: Mapping[str, Any], width: float) -> _Block:
    """What the colours mean, and how much text and picture add to the score."""
    block, x = _Block(page, width, 24), 4.0
    for color, words in ((TOWARDS, f"towards {explanation['relation']}"), (AWAY, "away from it")):
        block.box(x, 5, x + 14, 19, color, "legend", 3)
        x += 46 + block.text(x + 22, 17, page.type.shorten(words, 15, 420), 15)
    note = f"score {explanation['score']:.2f}; text {sum(token['relevance'] for token in explanation['tokens']):+.2f}"
    if explanation["patches"] is not None:
        note += f", picture {sum(map(sum, explanation['patches'])):+.2f}"
    block.text(width - 4, 17, note, 15, MUTED, ha="right")
    return block


# ---------------------------------------------------------------------------------------------------------------------
# The text


@dataclass(frozen=True)
class _Mark:
    """The bar under the part of an entity that lies on one line, with its type where the entity begins."""

    entity: int
    left: float
    right: float
    tag: str
    begin: float  # of bar and tag together; where the tag begins
    end: float


def _text_block(
    page: _Page,
    text: str,
    entities: Sequence[Mapping[str, Any]],
    width: float,
    explanation: Mapping[str, Any] | None,
) -> _Block:
    """The text; under each line, bars mark its entities, in as many lanes as nested or close entities need.

    With an explanation the tokens' colours are behind the text instead of the entities'.
    """
    block, inner, y = _Block(page, width), width - 2 * _PADDING, float(_PADDING)
    lines = page.type.wrap(text[:_CHARACTERS_DRAWN], _TEXT_SIZE, inner)[:MAX_TEXT_LINES]
    for line in lines:
        pieces = page.type.place(text, line, _TEXT_SIZE, inner)
        marks = _marks(page.type, text, pieces, entities, inner)
        for left, right, color in _tints(page.type, text, pieces, marks, explanation):
            block.box(_PADDING + left, y, _PADDING + right, y + 30, color, "tint", 5)
        for piece in pieces:
            block.text(_PADDING + piece.left, y + 22, text[piece.start : piece.end], _TEXT_SIZE)
        y += _TEXT_HEIGHT
        for lane in _lanes(marks):
            for mark in lane:
                color, left, right = entity_color(mark.entity), mark.left, max(mark.left + 2, mark.right)
                block.box(_PADDING + left, y - 1, _PADDING + right, y + 1.5, color, f"mark {mark.entity}")
                block.text(_PADDING + mark.begin, y + 14, mark.tag, _TAG_SIZE, color)
            y += _LANE_HEIGHT
    if left_out := len(text[lines[-1][1] :].strip()) if lines else 0:
        y += 24
        block.text(_PADDING, y - 9, f"… and {left_out:,} more characters", 15, MUTED)
    return block.close(y + _PADDING)


def _marks(
    type: Typesetter, text: str, pieces: Sequence[Piece], entities: Sequence[Mapping[str, Any]], width: float
) -> list[_Mark]:
    marks = []
    for index, entity in enumerate(entities):
        is_in_text = entity.get("start") is not None and entity.get("end") is not None
        if is_in_text and (extent := type.extent(text, pieces, entity, _TEXT_SIZE)):
            begins = any(piece.start <= entity["start"] < piece.end for piece in pieces)
            tag = type.shorten(entity.get("type") or "", _TAG_SIZE, 160) if begins else ""
            begin = max(0.0, min(extent[0], width - type.width(tag, _TAG_SIZE)))
            marks.append(
                _Mark(index, extent[0], extent[1], tag, begin, max(extent[1], begin + type.width(tag, _TAG_SIZE)))
            )
    return sorted(marks, key=lambda mark: mark.left - mark.right)


def _lanes(marks: Sequence[_Mark]) -> list[list[_Mark]]:
    """Spread marks over the fewest lanes (greedily) in which neither bars nor tags touch each other."""
    lanes: list[list[_Mark]] = []
    for mark in sorted(marks, key=lambda mark: (mark.begin, -mark.right)):
        lane = next((lane for lane in lanes if lane[-1].end + 6 <= mark.begin), None)
        if lane is None:
            lanes.append(lane := [])
        lane.append(mark)
    return lanes


def _tints(
    type: Typesetter,
    text: str,
    pieces: Sequence[Piece],
    marks: Sequence[_Mark],
    explanation: Mapping[str, Any] | None,
) -> Iterator[tuple[float, float, Any]]:
    """Left, right and colour: of entities (a nested one's lies on that of the one around it), or of tokens."""
    if explanation is None:
        yield from ((mark.left - 2, mark.right + 2, _light(entity_color(mark.entity))) for mark in marks)
        return
    largest = largest_relevance(explanation)
    for token in explanation["tokens"]:
        if extent := type.extent(text, pieces, token, _TEXT_SIZE):
            yield *extent, (color_of(token["relevance"]), opacity(token["relevance"], largest))


def _light(color: str) -> tuple[float, ...]:
    """A tint of a colour, for the ground behind text."""
    return tuple(1 - 0.16 * (1 - channel / 255) for channel in ImageColor.getrgb(color))


# ---------------------------------------------------------------------------------------------------------------------
# The picture and the pairs


def _detail_blocks(
    page: _Page,
    entities: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    image: Image.Image | None,
    width: float,
    explanation: Mapping[str, Any] | None,
) -> list[_Block]:
    """The picture and one card per pair, all as wide as one of two columns, or as the page if there is only one."""
    shown = predictions[:MAX_PAIRS]
    alone = len(shown) + (image is not None) < 2
    column = width if alone else (width - _GAP) / 2
    blocks = [] if image is None else [_picture_block(page, image, entities, column, explanation)]
    return blocks + [_pair_block(page, pair, entities, column) for pair in shown]


def _picture_block(
    page: _Page,
    image: Image.Image,
    entities: Sequence[Mapping[str, Any]],
    width: float,
    explanation: Mapping[str, Any] | None,
) -> _Block:
    """The picture with a named box for each object, its patches coloured by relevance."""
    from matplotlib.image import BboxImage
    from matplotlib.transforms import Bbox, TransformedBbox

    image = open_image(image, "the picture")
    scale = min((width - 2 * _PADDING) / image.width, _MAX_PICTURE_HEIGHT / image.height)
    wide, high = max(1.0, image.width * scale), max(1.0, image.height * scale)
    left, top = (width - wide) / 2, float(_PADDING)
    block = _Block(page, width)
    pixels = image.resize((round(wide * DPI / 72), round(high * DPI / 72)), Image.Resampling.LANCZOS)
    if explanation is not None and explanation["patches"] is not None:
        pixels = with_heat(pixels, explanation["patches"], largest_relevance(explanation))
    place = TransformedBbox(Bbox([[left, top], [left + wide, top + high]]), block.transform)
    page.figure.add_artist(BboxImage(place, data=pixels, origin="upper", zorder=next(page.order), gid="picture"))
    corners = []
    for index, entity in enumerate(entities):
        if entity.get("bbox") is not None:
            x0, y0, x1, y1 = (min(1.0, max(0.0, float(value))) for value in entity["bbox"])
            (x0, x1), (y0, y1) = (
                sorted((left + x0 * wide, left + x1 * wide)),
                sorted((top + y0 * high, top + y1 * high)),
            )
            block.box(x0, y0, x1, y1, "none", f"box {index}", edgecolor=entity_color(index), linewidth=3)
            corners.append((index, entity["name"], x0, y0))
    _label_boxes(block, corners, top + high)  # last, so that no box runs through a name
    return block.close(top + high + _PADDING)


def _label_boxes(block: _Block, corners: Sequence[tuple[int, str, float, float]], bottom: float) -> None:
    """Write each name above its box, or lower where the card's edge or another name leaves no room there."""
    high, taken = 21.0, list[tuple[float, float, float]]()
    for index, name, x, y in corners:
        name = block.type.shorten(name, 14, block.width / 2, bold=True)
        wide = block.type.width(name, 14, bold=True) + 12
        left = max(_PADDING / 2, min(x, block.width - wide - _PADDING / 2))
        beside = [other_top for start, end, other_top in taken if left < end and start < left + wide]
        tops = (y + high * step for step in range(-1, int(bottom / high)))
        free = (top for top in tops if 2 <= top < bottom and all(abs(top - other) >= high for other in beside))
        top = next(free, max(2.0, y - high))
        taken.append((left, left + wide, top))
        block.box(left, top, left + wide, top + high, entity_color(index), f"label {index}")
        block.text(left + 6, top + 15.5, name, 14, _CARD, bold=True)


def _pair_block(page: _Page, pair: Mapping[str, Any], entities: Sequence[Mapping[str, Any]], width: float) -> _Block:
    """The two names, then each relation with its bar, score and description."""
    block, relations, y = _Block(page, width), pair["relations"], _PADDING + 44.0
    _draw_names(block, entities, pair)
    is_none = not relations or pair.get("relation", relations) is None
    if is_none:
        block.text(_PADDING, y + 12, "no relation", 16, MUTED)
        y += 34
    for rank, relation in enumerate(relations[:MAX_RELATIONS]):
        y = 14 + _draw_relation(block, y, relation, best=rank == 0 and not is_none)
    if left_out := len(relations[MAX_RELATIONS:]):
        block.text(_PADDING, y + 8, f"and {left_out} more relation{'s' * (left_out > 1)}", 14, MUTED)
        y += 26
    return block.close(y - 14 + _PADDING)


def _draw_names(block: _Block, entities: Sequence[Mapping[str, Any]], pair: Mapping[str, Any]) -> None:
    """Head and tail as coloured chips with an arrow between; each gets half of the line at most."""
    x, top, arrow = float(_PADDING), _PADDING, 40
    for side in ("head", "tail"):
        color = entity_color(pair[side])
        name = block.type.shorten(entities[pair[side]]["name"], 16, (block.width - 2 * x - arrow) / 2 - 20, bold=True)
        right = x + block.type.width(name, 16, bold=True) + 20
        block.box(x, top, right, top + 30, _light(color), f"{side} {pair[side]}", 15)
        block.text(x + 10, top + 21, name, 16, color, bold=True)
        if side == "head":
            block.text(right + arrow / 2, top + 21, "→", 20, MUTED, ha="center")
        x = right + arrow


def _draw_relation(block: _Block, y: float, relation: Mapping[str, Any], *, best: bool) -> float:
    """Name and score on one line, the bar under them, the description; the best relation is the dark one.

    Returns:
        The lower edge.
    """
    left, right, type = float(_PADDING), block.width - _PADDING, block.type
    room = right - left - 16 - block.text(right, y + 15, f"{relation['score']:.2f}", 16, bold=best, ha="right")
    block.text(left, y + 15, type.shorten(relation["relation"], 16, room, bold=best), 16, bold=best)
    block.box(left, y + 22, right, y + 29, _TRACK, "track", 3.5)
    if relation["score"] > 0:  # a NaN compares false with everything and so draws no bar
        end = left + max(7.0, min(1.0, relation["score"]) * (right - left))
        color, gid = (_FIRST_BAR, "best bar") if best else (_BAR, "bar")
        block.box(left, y + 22, end, y + 29, color, gid, 3.5)
    y += 34
    text = " ".join((relation.get("description") or "").split())[:_DESCRIPTION_DRAWN]
    lines = type.wrap(text, 14, right - left) if text else []
    if len(lines) > MAX_DESCRIPTION_LINES:
        lines[MAX_DESCRIPTION_LINES - 1 :] = [(lines[MAX_DESCRIPTION_LINES - 1][0], len(text))]
    for start, end_of_line in lines:
        y += _DESCRIPTION_HEIGHT
        block.text(left, y - 5, type.shorten(text[start:end_of_line], 14, right - left), 14, MUTED)
    return y
