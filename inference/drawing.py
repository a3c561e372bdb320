"""Pictures for people: one prediction with text, picture and ranked relations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from roc.inference.heat_map import AWAY, TOWARDS, Color, colour_of, opacity, with_heat
from roc.inference.text_layout import Font, load_font, place_characters, shorten, wrap
from roc.support.files import atomic_write

MAX_PAIRS = 6
MAX_RELATIONS = 5
MAX_TEXT_LINES = 24
MAX_DESCRIPTION_LINES = 3

Box = tuple[float, float, float, float]

# Eight hues that stay apart from each other, dark enough for small type on white (contrast at least 3.7 : 1).
ENTITY_COLORS: tuple[Color, ...] = (
    (37, 99, 235),  # blue
    (194, 65, 12),  # orange
    (4, 120, 87),  # green
    (190, 24, 93),  # pink
    (109, 40, 217),  # violet
    (14, 116, 144),  # teal
    (185, 28, 28),  # red
    (77, 124, 15),  # olive
)
_INK, _MUTED, _LINE = (24, 32, 47), (92, 103, 121), (221, 226, 234)
_PAGE, _CARD, _TRACK, _FIRST_BAR, _BAR = (
    (244, 246, 250),
    (255, 255, 255),
    (233, 237, 243),
    (51, 65, 85),
    (148, 163, 184),
)

_WIDTH, _MARGIN, _GAP, _PADDING = 1080, 24, 16, 18  # pixels; fits a 1280 pixel laptop screen unscaled
_MAX_PICTURE_HEIGHT = 560
_TEXT_HEIGHT, _LANE_HEIGHT, _DESCRIPTION_HEIGHT = 32, 22, 19
_CHARACTERS_DRAWN = 5000  # more than MAX_TEXT_LINES can hold, so that a whole book costs no time


def entity_color(index: int) -> Color:
    """Colour of the entity at `index`: the same in the text, on the picture and in the pairs."""
    return ENTITY_COLORS[index % len(ENTITY_COLORS)]


# ---------------------------------------------------------------------------------------------------------------------
# One prediction


def draw_prediction(
    path: str | os.PathLike[str] | None,
    *,
    text: str,
    entities: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    image: Image.Image | None = None,
    title: str | None = None,
    explanation: Mapping[str, Any] | None = None,
) -> Image.Image:
    """Draw one post: its text with coloured entities, its picture with boxes, and the ranked relations of its pairs.

    The first `MAX_PAIRS` pairs are drawn with their first `MAX_RELATIONS` relations, and a line says how many pairs
    are left out; likewise for a text of more than `MAX_TEXT_LINES` lines. Right-to-left words are put in visual order,
    without shaping (Pillow's complex layout isn't part of every build).

    Args:
        path: PNG file to write (whole or not at all), or `None` to write none.
        text: The post.
        entities: Dicts with `name`, `type` (or None), and either `start` and `end` (half-open character offsets into
            `text`) or `bbox` (`xyxy`, normalised to [0, 1], origin top left; parts outside are cut off), or both.
        predictions: Dicts with `head` and `tail` (indices into `entities`) and `relations`, a list of dicts with
            `relation`, `score` and `description` (or None), best first. Bars show scores from 0 to 1. Where
            `relation` is there and None, no relation was decided for: a line says so, and no bar stands out.
        image: The picture, of any size and mode, turned the way the boxes were measured.
        title: A heading.
        explanation: What moved the pair towards its relation, as `inference.explain` gives it: the text's words and
            the picture's patches are coloured by their relevance, on one scale.

    Returns:
        The drawing, RGB.

    Raises:
        ValueError: If a span lies outside the text, a pair names an entity that isn't there, or `path` is no `.png`.
    """
    _check_prediction(path, text, entities, predictions)
    inner = _WIDTH - 2 * _MARGIN
    blocks = [_text_block(text, entities, inner, explanation)]
    if title:
        blocks.insert(0, _title_block(title, inner))
    if explanation is not None:
        blocks.append(_legend_block(explanation, inner))
    details = _detail_blocks(entities, predictions, image, inner, explanation)
    blocks.append(_two_columns(details, inner))
    left_out = len(predictions) - MAX_PAIRS
    if left_out > 0:
        blocks.append(_note_block(f"and {left_out} more pair{'s' * (left_out > 1)}", inner))
    elif not predictions:
        blocks.append(_note_block("no pairs of entities", inner))
    drawing = _stack([block for block in blocks if block.height], _MARGIN)
    if path is not None:
        with atomic_write(path, "wb") as file:
            drawing.save(file, format="PNG")
    return drawing


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


def check_png(path: str | os.PathLike[str] | None) -> None:
    """Refuse a file name that does not end in .png."""
    if path is not None and Path(path).suffix.lower() != ".png":
        raise ValueError(f"{os.fspath(path)!r} is written as PNG; give a file name that ends in .png.")


def _detail_blocks(
    entities: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    image: Image.Image | None,
    width: int,
    explanation: Mapping[str, Any] | None,
) -> list[Image.Image]:
    """The picture and one card per pair, all as wide as one of two columns, or as the page if there is only one."""
    shown = predictions[:MAX_PAIRS]
    alone = len(shown) + (image is not None) < 2
    column = width if alone else (width - _GAP) // 2
    blocks = [] if image is None else [_picture_block(image, entities, column, explanation)]
    return blocks + [_pair_block(pair, entities, column) for pair in shown]


# ---------------------------------------------------------------------------------------------------------------------
# Blocks: each is an RGB picture of the asked width, as high as its content needs


def _title_block(title: str, width: int) -> Image.Image:
    font = load_font(26, bold=True)
    block = Image.new("RGB", (width, 36), _PAGE)
    ImageDraw.Draw(block).text((0, 0), shorten(title, font, width), font=font, fill=_INK)
    return block


def _note_block(note: str, width: int) -> Image.Image:
    block = Image.new("RGB", (width, 22), _PAGE)
    ImageDraw.Draw(block).text((width / 2, 0), note, font=load_font(15), fill=_MUTED, anchor="ma")
    return block


def _legend_block(explanation: Mapping[str, Any], width: int) -> Image.Image:
    """What the colours mean, and how much text and picture add to the score."""
    font = load_font(15)
    block = Image.new("RGB", (width, 24), _PAGE)
    draw = ImageDraw.Draw(block)
    x = 4.0
    for colour, words in ((TOWARDS, f"towards {explanation['relation']}"), (AWAY, "away from it")):
        draw.rectangle((x, 4, x + 14, 18), fill=colour)
        words = shorten(words, font, 420)
        draw.text((x + 22, 11), words, font=font, fill=_INK, anchor="lm")
        x += 22 + font.getlength(words) + 24
    parts = {"text": sum(token["relevance"] for token in explanation["tokens"])}
    if explanation["patches"] is not None:
        parts["picture"] = sum(map(sum, explanation["patches"]))
    added = ", ".join(f"{name} {value:+.2f}" for name, value in parts.items())
    note = f"score {explanation['score']:.2f}; {added}"
    draw.text((width - 4, 11), shorten(note, font, width - x), font=font, fill=_MUTED, anchor="rm")
    return block


@dataclass(frozen=True)
class _Segment:
    """The part of an entity that lies on one line of text, in pixels from the left edge of the block."""

    entity: int
    left: float
    right: float
    tag: str  # the entity's type at its first segment, else ""
    tag_left: float


def _text_block(
    text: str,
    entities: Sequence[Mapping[str, Any]],
    width: int,
    explanation: Mapping[str, Any] | None,
) -> Image.Image:
    """The text; under each line, bars mark its entities, in as many lanes as nested or close entities need.

    With an explanation the tokens' colours are behind the text instead of the entities'.
    """
    font, tag_font = load_font(21), load_font(13)
    lines = wrap(text[:_CHARACTERS_DRAWN], font, width - 2 * _PADDING)[:MAX_TEXT_LINES]
    placed = [place_characters(text, line, font) for line in lines]
    lanes = [
        _lanes(_segments(entities, line, edges, tag_font, width - _PADDING), tag_font)
        for line, (_, edges) in zip(lines, placed, strict=True)
    ]
    left_out = len(text[lines[-1][1] :].strip()) if lines else 0
    height = 2 * _PADDING + sum(_TEXT_HEIGHT + _LANE_HEIGHT * len(lane) for lane in lanes) + 24 * bool(left_out)
    block = _card(width, height)
    y = _PADDING
    for line, (glyphs, edges), lane in zip(lines, placed, lanes, strict=True):
        tints = _entity_tints(lane) if explanation is None else _token_tints(explanation, line, edges)
        _draw_line(block, y, glyphs, font, lane, tag_font, tints)
        y += _TEXT_HEIGHT + _LANE_HEIGHT * len(lane)
    if left_out:
        note = f"… and {left_out:,} more characters"
        ImageDraw.Draw(block).text((_PADDING, y), note, font=load_font(15), fill=_MUTED)
    return block


def _entity_tints(lanes: list[list[_Segment]]) -> list[tuple[float, float, Color]]:
    """Left, right and colour, long ones first: a nested entity's tint lies on top of the one around it."""
    segments = sorted((segment for lane in lanes for segment in lane), key=lambda segment: segment.left - segment.right)
    return [(segment.left - 3, segment.right + 3, _tint(entity_color(segment.entity), 0.16)) for segment in segments]


def _token_tints(
    explanation: Mapping[str, Any], line: tuple[int, int], edges: list[tuple[float, float]]
) -> list[tuple[float, float, Color]]:
    """Left, right and colour of each token on one line, by its relevance."""
    largest, tints = _largest_relevance(explanation), []
    for token in explanation["tokens"]:
        if extent := _extent(token, line, edges):
            tints.append((*extent, _tint(colour_of(token["relevance"]), opacity(token["relevance"], largest))))
    return tints


def _extent(
    span: Mapping[str, Any], line: tuple[int, int], edges: list[tuple[float, float]]
) -> tuple[float, float] | None:
    """Left and right edge in the block of the part of a span that lies on one line; None where no part does."""
    first, last = max(span["start"], line[0]), min(span["end"], line[1])
    if first >= last:
        return None
    covered = edges[first - line[0] : last - line[0]]
    return _PADDING + min(edge[0] for edge in covered), _PADDING + max(edge[1] for edge in covered)


def _largest_relevance(explanation: Mapping[str, Any]) -> float:
    tokens = [token["relevance"] for token in explanation["tokens"]]
    return max(map(abs, itertools.chain(tokens, *(explanation["patches"] or ()))), default=0.0)


def _draw_line(
    block: Image.Image,
    y: int,
    glyphs: str,
    font: Font,
    lanes: list[list[_Segment]],
    tag_font: Font,
    tints: Sequence[tuple[float, float, Color]],
) -> None:
    for left, right, tint in tints:
        _rounded(block, (left, y, right, y + 30), fill=tint, radius=5)
    draw = ImageDraw.Draw(block)
    draw.text((_PADDING, y + 2), glyphs, font=font, fill=_INK)
    for number, lane in enumerate(lanes):
        top = y + _TEXT_HEIGHT - 1 + _LANE_HEIGHT * number
        for segment in lane:
            color = entity_color(segment.entity)
            draw.rectangle((segment.left, top, max(segment.right, segment.left + 2), top + 2), fill=color)
            draw.text((segment.tag_left, top + 4), segment.tag, font=tag_font, fill=color)


def _segments(
    entities: Sequence[Mapping[str, Any]],
    line: tuple[int, int],
    edges: list[tuple[float, float]],
    tag_font: Font,
    right_limit: int,
) -> list[_Segment]:
    """The entities' parts on one line, with a type tag where an entity begins."""
    segments = []
    for index, entity in enumerate(entities):
        if entity.get("start") is None or entity.get("end") is None:
            continue
        extent = _extent(entity, line, edges)
        if extent is None:
            continue
        left, right = extent
        begins = entity["start"] >= line[0]
        tag = shorten(entity.get("type") or "", tag_font, 160) if begins else ""
        tag_left = max(_PADDING, min(left, right_limit - tag_font.getlength(tag)))
        segments.append(_Segment(index, left, right, tag, tag_left))
    return segments


def _lanes(segments: list[_Segment], tag_font: Font) -> list[list[_Segment]]:
    """Spread segments over the fewest lanes (greedily) in which neither bars nor tags touch each other."""
    lanes: list[list[_Segment]] = []
    ends: list[float] = []
    for segment in sorted(segments, key=lambda segment: (min(segment.left, segment.tag_left), -segment.right)):
        begin = min(segment.left, segment.tag_left)
        end = max(segment.right, segment.tag_left + tag_font.getlength(segment.tag)) + 6
        lane = next((i for i, taken in enumerate(ends) if taken <= begin), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            ends.append(0.0)
        lanes[lane].append(segment)
        ends[lane] = end
    return lanes


def _picture_block(
    image: Image.Image,
    entities: Sequence[Mapping[str, Any]],
    width: int,
    explanation: Mapping[str, Any] | None,
) -> Image.Image:
    """The picture, scaled to the column with its aspect kept: a labelled box for each object, patches by relevance."""
    available = width - 2 * _PADDING
    scale = min(available / image.width, _MAX_PICTURE_HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    block = _card(width, size[1] + 2 * _PADDING)
    left, top = (width - size[0]) // 2, _PADDING
    scaled = _on_white(image).resize(size, Image.Resampling.LANCZOS)
    if explanation is not None and explanation["patches"] is not None:
        scaled = with_heat(scaled, explanation["patches"], _largest_relevance(explanation))
    block.paste(scaled, (left, top))
    boxes = [(index, entity) for index, entity in enumerate(entities) if entity.get("bbox") is not None]
    for index, entity in boxes:
        box = _box_in_pixels(entity["bbox"], (left, top), size)
        ImageDraw.Draw(block).rectangle(box, outline=entity_color(index), width=3)
    # Labels last, so that no other box runs through them.
    for index, entity in boxes:
        _draw_box_label(block, _box_in_pixels(entity["bbox"], (left, top), size), entity["name"], entity_color(index))
    return block


def _box_in_pixels(bbox: Sequence[float], origin: tuple[int, int], size: tuple[int, int]) -> Box:
    """Turn a normalised `xyxy` box, cut to [0, 1], into corner pixels of the card."""
    x0, y0, x1, y1 = (min(1.0, max(0.0, float(value))) for value in bbox)
    (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
    last = (size[0] - 1, size[1] - 1)
    return (
        origin[0] + round(x0 * last[0]),
        origin[1] + round(y0 * last[1]),
        origin[0] + round(x1 * last[0]),
        origin[1] + round(y1 * last[1]),
    )


def _draw_box_label(block: Image.Image, box: Box, name: str, color: Color) -> None:
    """Write a name above its box, or inside where the card's edge leaves no room above."""
    font, height = load_font(14, bold=True), 21
    label = shorten(name, font, block.width // 2)
    width = font.getlength(label) + 12
    left = max(2, min(box[0], block.width - width - 2))
    top = box[1] - height if box[1] - height >= 2 else box[1]
    ImageDraw.Draw(block).rectangle((left, top, left + width, top + height), fill=color)
    ImageDraw.Draw(block).text((left + 6, top + height / 2), label, font=font, fill=_CARD, anchor="lm")


def _pair_block(pair: Mapping[str, Any], entities: Sequence[Mapping[str, Any]], width: int) -> Image.Image:
    """The two names, then each relation with its bar, score and description."""
    font, small = load_font(16), load_font(14)
    inner = width - 2 * _PADDING
    rows = [
        (relation, _description_lines(relation.get("description"), small, inner))
        for relation in pair["relations"][:MAX_RELATIONS]
    ]
    is_none = not rows or pair.get("relation", rows) is None
    heights = [34 + _DESCRIPTION_HEIGHT * len(lines) for _, lines in rows]
    if is_none:
        heights.insert(0, 20)
    height = 2 * _PADDING + 44 + sum(heights) + 14 * (len(heights) - 1)
    block = _card(width, height)
    _draw_names(block, entities, pair)
    y = _PADDING + 44
    if is_none:
        ImageDraw.Draw(block).text((_PADDING, y - 4), "no relation", font=font, fill=_MUTED)
        y += 34
    for rank, (relation, lines) in enumerate(rows):
        _draw_relation(block, y, relation, best=rank == 0 and not is_none)
        y += 34
        for line in lines:
            ImageDraw.Draw(block).text((_PADDING, y), line, font=small, fill=_MUTED)
            y += _DESCRIPTION_HEIGHT
        y += 14
    return block


def _draw_names(block: Image.Image, entities: Sequence[Mapping[str, Any]], pair: Mapping[str, Any]) -> None:
    """Head and tail as coloured chips with an arrow between; each gets half of the line at most."""
    font, arrow = load_font(16, bold=True), 40
    room = (block.width - 2 * _PADDING - arrow) / 2 - 20
    x = float(_PADDING)
    for side in ("head", "tail"):
        index = pair[side]
        name = shorten(entities[index]["name"], font, room)
        right = x + font.getlength(name) + 20
        color = entity_color(index)
        _rounded(block, (x, _PADDING, right, _PADDING + 30), fill=_tint(color, 0.16), radius=15)
        draw = ImageDraw.Draw(block)
        draw.text((x + 10, _PADDING + 15), name, font=font, fill=color, anchor="lm")
        if side == "head":
            y = _PADDING + 15
            draw.line((right + 8, y, right + arrow - 10, y), fill=_MUTED, width=2)
            tip = right + arrow - 7
            draw.polygon([(tip, y), (tip - 8, y - 5), (tip - 8, y + 5)], fill=_MUTED)
        x = right + arrow


def _draw_relation(block: Image.Image, y: int, relation: Mapping[str, Any], *, best: bool) -> None:
    """Name and score on one line, the bar under them; the best relation is the dark one."""
    font = load_font(16, bold=best)
    left, right = _PADDING, block.width - _PADDING
    score = f"{relation['score']:.2f}"
    name = shorten(relation["relation"], font, right - left - font.getlength(score) - 16)
    draw = ImageDraw.Draw(block)
    draw.text((left, y), name, font=font, fill=_INK)
    draw.text((right, y), score, font=font, fill=_INK, anchor="ra")
    _rounded(block, (left, y + 22, right, y + 29), fill=_TRACK, radius=3)
    # A NaN compares false with everything and so draws no bar.
    part = min(1.0, relation["score"]) if relation["score"] > 0 else 0.0
    if part:
        end = left + max(6.0, part * (right - left))
        _rounded(block, (left, y + 22, end, y + 29), fill=_FIRST_BAR if best else _BAR, radius=3)


def _description_lines(description: str | None, font: Font, width: int) -> list[str]:
    text = " ".join((description or "").split())[:_CHARACTERS_DRAWN]
    spans = wrap(text, font, width) if text else []
    lines = [text[start:end] for start, end in spans[:MAX_DESCRIPTION_LINES]]
    if len(spans) > MAX_DESCRIPTION_LINES:
        lines[-1] = shorten(text[spans[MAX_DESCRIPTION_LINES - 1][0] :], font, width)
    return lines


def _two_columns(blocks: list[Image.Image], width: int) -> Image.Image:
    """Put each block under the shorter of two columns, in order; a block of full width stands alone."""
    if not blocks:
        return Image.new("RGB", (width, 0), _PAGE)
    heights, places = [0, 0], []
    for block in blocks:
        column = 0 if heights[0] <= heights[1] else 1
        places.append((column * (block.width + _GAP), heights[column]))
        heights[column] += block.height + _GAP
    page = Image.new("RGB", (width, max(heights) - _GAP), _PAGE)
    for block, place in zip(blocks, places, strict=True):
        page.paste(block, place)
    return page


def _stack(blocks: list[Image.Image], margin: int) -> Image.Image:
    """One block under the other on a page with margins."""
    height = sum(block.height for block in blocks) + _GAP * (len(blocks) - 1)
    page = Image.new("RGB", (_WIDTH, height + 2 * margin), _PAGE)
    y = margin
    for block in blocks:
        page.paste(block, (margin, y))
        y += block.height + _GAP
    return page


# ---------------------------------------------------------------------------------------------------------------------
# Shapes


def _card(width: int, height: int) -> Image.Image:
    card = Image.new("RGB", (width, height), _PAGE)
    _rounded(card, (0, 0, width, height), fill=_LINE, radius=10)
    _rounded(card, (1, 1, width - 1, height - 1), fill=_CARD, radius=9)
    return card


def _rounded(image: Image.Image, box: Box, *, fill: Color, radius: int) -> None:
    """Fill a rounded rectangle with smooth corners: Pillow's own have jagged ones."""
    x0, y0, x1, y1 = (round(value) for value in box)
    size = (max(1, x1 - x0), max(1, y1 - y0))
    scale = 4
    mask = Image.new("L", (size[0] * scale, size[1] * scale))
    corner = (size[0] * scale - 1, size[1] * scale - 1)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *corner), radius=radius * scale, fill=255)
    image.paste(fill, (x0, y0), mask.resize(size, Image.Resampling.LANCZOS))


def _tint(color: Color, strength: float) -> Color:
    red, green, blue = (round(255 + (channel - 255) * strength) for channel in color)
    return red, green, blue


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, with white behind transparent pixels."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")
