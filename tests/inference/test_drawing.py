"""Drawings show what they claim at the right place, survive hard inputs, and are written whole or not at all."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixels import extent, longest_run, where

from roc.inference import drawing, text_layout
from roc.inference.drawing import ENTITY_COLORS, MAX_PAIRS, draw_prediction, entity_color
from roc.inference.heat_map import with_heat

TEXT = "Ann and her brother Bob in Paris , France ."
GRAY = (120, 120, 120)


def text_entity(text: str, name: str, entity_type: str | None = "person") -> dict[str, Any]:
    start = text.index(name)
    return {"name": name, "start": start, "end": start + len(name), "type": entity_type, "bbox": None}


def object_entity(bbox: list[float], name: str = "[OBJ0]") -> dict[str, Any]:
    return {"name": name, "start": None, "end": None, "type": "object", "bbox": bbox}


def pair(head: int, tail: int, *scores: float) -> dict[str, Any]:
    relations = [{"relation": f"relation {i}", "score": s, "description": "They belong."} for i, s in enumerate(scores)]
    return {"head": head, "tail": tail, "relations": relations}


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text_layout.load_font.cache_clear()
    yield
    text_layout.load_font.cache_clear()


# ---------------------------------------------------------------------------------------------------------------------
# One prediction


def test_a_prediction_is_drawn_and_the_same_picture_is_written(tmp_path: Path):
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    path = tmp_path / "new_folder" / "prediction.png"
    drawn = draw_prediction(path, text=TEXT, entities=entities, predictions=[pair(0, 1, 0.9, 0.2)], title="Siblings")
    assert drawn.mode == "RGB"
    assert drawn.width == 1080
    assert 250 < drawn.height < 600
    assert np.asarray(drawn).std() > 10
    with Image.open(path) as written:
        written.load()
        np.testing.assert_array_equal(np.asarray(written), np.asarray(drawn))
    assert [file.name for file in path.parent.iterdir()] == ["prediction.png"]


def test_a_failed_drawing_leaves_the_older_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "prediction.png"
    path.write_bytes(b"older")

    def break_off(self: Image.Image, file: Any, **options: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", break_off)
    with pytest.raises(OSError, match="disk full"):
        draw_prediction(path, text=TEXT, entities=[], predictions=[])
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_each_entity_is_marked_in_its_own_color():
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob"), text_entity(TEXT, "Paris", "location")]
    drawn = draw_prediction(None, text=TEXT, entities=entities, predictions=[])
    places = [extent(where(drawn, entity_color(index))) for index in range(3)]
    assert places[0][2] < places[1][0] < places[1][2] < places[2][0]
    assert not where(drawn, entity_color(3)).any()


def test_colors_differ_and_are_readable_on_white():
    assert len(set(ENTITY_COLORS)) == len(ENTITY_COLORS)
    for color in ENTITY_COLORS:
        # Relative luminance and contrast of WCAG 2; 4.5 : 1 is its limit for small text.
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 4.5


def test_nested_and_overlapping_entities_get_bars_of_their_own():
    names = ["Paris , France", "Paris", "France", "Bob in Paris"]
    entities = [text_entity(TEXT, name, None) for name in names]
    drawn = draw_prediction(None, text=TEXT, entities=entities, predictions=[])
    bars = [extent(where(drawn, entity_color(index))) for index in range(4)]
    left, top, right, bottom = range(4)
    assert bars[0][left] == bars[1][left]
    assert bars[0][right] == pytest.approx(bars[2][right], abs=1)
    assert bars[3][left] < bars[1][left]
    assert bars[3][right] == pytest.approx(bars[1][right], abs=1)
    # Bars that share a stretch of the line lie at different heights.
    for one, other in [(0, 1), (0, 2), (0, 3), (1, 3)]:
        assert bars[one][bottom] < bars[other][top] or bars[other][bottom] < bars[one][top]


def test_close_type_tags_do_not_run_into_each_other():
    text = "A B"
    entities = [text_entity(text, "A", "organization"), text_entity(text, "B", "organization")]
    drawn = draw_prediction(None, text=text, entities=entities, predictions=[])
    first, second = (extent(where(drawn, entity_color(index))) for index in range(2))
    assert first[3] < second[1] or second[3] < first[1] or first[2] < second[0]


@pytest.mark.parametrize("size", [(400, 300), (30, 900), (1200, 40), (3, 3)])
def test_the_picture_keeps_its_aspect_and_its_box_lies_at_the_right_place(size: tuple[int, int]):
    image = Image.new("RGB", size, GRAY)
    bbox = [0.25, 0.5, 0.75, 1.0]
    plain = draw_prediction(None, text=TEXT, entities=[], predictions=[], image=image)
    left, top, right, bottom = extent(where(plain, GRAY))
    width, height = right - left, bottom - top
    assert (width + 1) / (height + 1) == pytest.approx(size[0] / size[1], rel=0.05)

    boxed = draw_prediction(None, text=TEXT, entities=[object_entity(bbox)], predictions=[], image=image)
    # The label covers the upper edge and more, so compare the other three.
    x0, _, x1, y1 = extent(where(boxed, entity_color(0))[: bottom + 1])
    assert y1 == pytest.approx(top + bbox[3] * height, abs=2)
    assert x0 <= left + bbox[0] * width + 2
    inside = where(boxed, entity_color(0))[bottom - 1, left : right + 1]
    edges = np.flatnonzero(inside)
    assert (edges[0], edges[-1]) == pytest.approx((bbox[0] * width, bbox[2] * width), abs=2)
    assert x1 < boxed.width


def test_a_box_that_leaves_the_picture_is_cut_off():
    image = Image.new("RGB", (100, 100), GRAY)
    drawn = [
        draw_prediction(None, text="", entities=[object_entity(bbox)], predictions=[], image=image)
        for bbox in ([-0.5, 0.2, 1.5, 0.8], [0.0, 0.2, 1.0, 0.8])
    ]
    np.testing.assert_array_equal(np.asarray(drawn[0]), np.asarray(drawn[1]))


def test_bars_are_as_long_as_their_scores():
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    lengths = {}
    for score in (1.0, 0.5, 0.0, -0.3, 7.0, math.nan):
        drawn = draw_prediction(None, text=TEXT, entities=entities, predictions=[pair(0, 1, score)])
        lengths[score] = longest_run(where(drawn, drawing._FIRST_BAR))
    assert lengths[0.5] == pytest.approx(lengths[1.0] / 2, abs=4)
    assert lengths[7.0] == lengths[1.0] > 800
    assert max(lengths[0.0], lengths[-0.3], lengths[math.nan]) < 10


def test_the_best_relation_is_the_dark_one():
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    drawn = draw_prediction(None, text=TEXT, entities=entities, predictions=[pair(0, 1, 0.9, 0.8)])
    assert extent(where(drawn, drawing._FIRST_BAR))[1] < extent(where(drawn, drawing._BAR))[1]


def test_more_pairs_than_the_limit_are_counted_instead_of_drawn():
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    heights = [
        draw_prediction(None, text=TEXT, entities=entities, predictions=[pair(0, 1, 0.5)] * count).height
        for count in (MAX_PAIRS, MAX_PAIRS + 1, 500)
    ]
    assert heights[0] < heights[1] == heights[2]


def test_a_pair_without_relations_is_drawn_as_such():
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    empty = draw_prediction(None, text=TEXT, entities=entities, predictions=[pair(0, 1)])
    assert empty.height < draw_prediction(None, text=TEXT, entities=entities, predictions=[pair(0, 1, 0.5)]).height


HARD_TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "newlines": "\n\nAnn\n\nBob\n",
    "one long word": "Ann" + "x" * 3000,
    "a book": "Ann met Bob. " * 20_000,
    "emoji with joiners": "Ann 👩‍👩‍👧‍👦 Bob ❤️ 🇫🇷",
    "Hebrew and Arabic": "שלום Ann مرحبا بالعالم 123 Bob עולם",
    "Chinese": "安 Ann 和 Bob 在巴黎",
    "control characters": "Ann\x00\x07\u200b\u202e Bob \ufeff",
    "half of a surrogate pair": "Ann \ud83d Bob",
    "stacked accents": "A" + "\u0301" * 300,
}


@pytest.mark.parametrize("font", ["DejaVu Sans", "Pillow's own"])
@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_hard_texts_survive(text: str, font: str, request: pytest.FixtureRequest, tmp_path: Path):
    if font == "Pillow's own":
        request.getfixturevalue("without_matplotlib")
    whole = {"name": text, "start": 0, "end": len(text), "type": text, "bbox": [0, 0, 1, 1]}
    relation = {"relation": text, "score": 0.5, "description": text}
    drawn = draw_prediction(
        tmp_path / "hard.png",
        text=text,
        entities=[whole, whole],
        predictions=[{"head": 0, "tail": 1, "relations": [relation]}],
        image=Image.new("RGB", (20, 10)),
        title=text,
    )
    assert drawn.width == 1080
    assert drawn.height < 4000


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_any_size_and_mode_survive(size: tuple[int, int], mode: str):
    image = Image.new(mode, size)
    entities = [object_entity([0.0, 0.0, 0.0, 0.0]), object_entity([0.9, 0.9, 0.1, 0.1], name="turned round")]
    drawn = draw_prediction(None, text=TEXT, entities=entities, predictions=[pair(0, 1, 0.5)], image=image)
    assert drawn.height < 1000


def test_transparent_parts_of_a_picture_are_white():
    drawn = draw_prediction(None, text="", entities=[], predictions=[], image=Image.new("RGBA", (9, 9), (0, 0, 0, 0)))
    assert where(drawn, (255, 255, 255)).mean() > 0.5


def test_right_to_left_words_are_marked_where_they_are_drawn():
    text = "אב גד"  # drawn from right to left: the first word is the right one
    first = text_entity(text, "אב", None)
    second = text_entity(text, "גד", None)
    drawn = draw_prediction(None, text=text, entities=[first, second], predictions=[])
    assert extent(where(drawn, entity_color(0)))[0] > extent(where(drawn, entity_color(1)))[2]


@pytest.mark.parametrize(
    ("characters", "expected"),
    [("abc", "abc"), ("אבג", "גבא"), ("a אב גד b", "a דג בא b"), ("אב 12 גד", "בא 12 דג"), ("", "")],
)
def test_visual_order_turns_right_to_left_runs_round(characters: str, expected: str):
    assert "".join(characters[i] for i in text_layout.visual_order(characters)) == expected


@pytest.mark.parametrize("width", [1, 60, 200, 1000])
@pytest.mark.parametrize("text", [TEXT, "x" * 300, "a\n\nb c", "", "  spaces  inside  "])
def test_wrapping_loses_no_character_but_spaces(text: str, width: int):
    font = text_layout.load_font(16)
    lines = text_layout.wrap(text, font, width)
    drawn = [index for start, end in lines for index in range(start, end)]
    assert drawn == sorted(set(drawn))
    assert all(text[index].isspace() for index in set(range(len(text))) - set(drawn))
    assert all(font.getlength(text[start:end]) <= width or end - start == 1 for start, end in lines)


@pytest.mark.parametrize(("start", "end"), [(0, 1000), (-1, 3), (5, 2)])
def test_a_span_outside_the_text_is_refused(start: int, end: int):
    entity = {"name": "Ann", "start": start, "end": end, "type": "person", "bbox": None}
    with pytest.raises(ValueError, match=r"Entity 0 \('Ann'\) spans characters .* character offsets"):
        draw_prediction(None, text=TEXT, entities=[entity], predictions=[])


@pytest.mark.parametrize("index", [-1, 1])
def test_a_pair_of_an_entity_that_is_not_there_is_refused(index: int):
    with pytest.raises(ValueError, match=f"Pair 0 has the tail {index}, but there are 1 entities"):
        draw_prediction(None, text=TEXT, entities=[text_entity(TEXT, "Ann")], predictions=[pair(0, index)])


def test_a_drawing_that_is_not_png_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        draw_prediction(tmp_path / "plot.jpg", text=TEXT, entities=[], predictions=[])


def test_a_pair_without_a_relation_says_so_and_no_bar_stands_out():
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    decided, undecided = ({**pair(0, 1, 0.9, 0.1), "relation": relation} for relation in ("relation 0", None))
    with_one, without = (
        draw_prediction(None, text=TEXT, entities=entities, predictions=[p]) for p in (decided, undecided)
    )
    assert where(with_one, drawing._FIRST_BAR).any()
    assert not where(without, drawing._FIRST_BAR).any()
    assert without.height > with_one.height


# --- explanations ------------------------------------------------------------------------------------------------


def explanation(patches: list[list[float]] | None, **relevances: float) -> dict[str, Any]:
    """Relevance of words of `TEXT`."""
    tokens = [
        {"start": TEXT.index(word), "end": TEXT.index(word) + len(word), "relevance": value}
        for word, value in relevances.items()
    ]
    return {"relation": "sibling", "description": "", "score": 0.8, "tokens": tokens, "patches": patches}


def draw_explained(patches: list[list[float]] | None, **relevances: float) -> Image.Image:
    entities = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]
    image = None if patches is None else Image.new("RGB", (300, 300), GRAY)
    evidence = explanation(patches, **relevances)
    return draw_prediction(
        None, text=TEXT, entities=entities, predictions=[pair(0, 1, 0.9)], image=image, explanation=evidence
    )


def redness(picture: Image.Image) -> np.ndarray:
    """(height, width): red less blue."""
    pixels = np.asarray(picture).astype(int)
    return pixels[..., 0] - pixels[..., 2]


def test_a_patch_is_coloured_by_its_sign_and_strength_where_it_lies():
    heat = with_heat(Image.new("RGB", (40, 20), GRAY), [[1.0, 0.0], [0.5, -1.0]], 1.0)
    red = redness(heat)
    assert red[:10, :20].min() > red[10:, :20].max() > 0
    assert (red[:10, 20:] == 0).all()
    assert red[10:, 20:].max() < 0


def test_what_hardly_mattered_is_hardly_coloured():
    """One scale for text and picture: a text that adds nothing has no bright words."""
    strong, faint = (redness(draw_explained([[1.0]], brother=relevance)) for relevance in (1.0, 0.01))
    bright = [(picture[20:110] > 60).sum() for picture in (strong, faint)]  # an entity's bar is orange
    assert bright[0] > bright[1] + 500


def test_words_against_a_relation_are_blue():
    assert redness(draw_explained(None, brother=-1.0))[20:110].min() < -60


def test_an_explanation_says_what_text_and_picture_add():
    """The legend is a line of its own, and differs with the sums."""
    first, second = draw_explained([[0.2, 0.1]], brother=0.1), draw_explained([[0.2, 0.7]], brother=0.1)
    plain = draw_prediction(None, text=TEXT, entities=[], predictions=[])
    assert first.size == second.size
    assert first.height > plain.height
    assert (np.asarray(first)[110:160, 600:] != np.asarray(second)[110:160, 600:]).any()
