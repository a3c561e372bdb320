"""Drawings show what they claim at the right place, survive hard inputs, and are written whole or not at all."""

from __future__ import annotations

import io
import itertools
import logging
import math
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from roc.inference import drawing
from roc.inference.drawing import (
    AWAY,
    DPI,
    MAX_PAIRS,
    MAX_RELATIONS,
    MISSING,
    TOWARDS,
    draw_prediction,
    with_heat,
)
from roc.support.figures import ENTITY_COLORS, entity_color

pytest.importorskip("matplotlib")
pytest.importorskip("bidi")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

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


ANN_AND_BOB = [text_entity(TEXT, "Ann"), text_entity(TEXT, "Bob")]


def draw(text: str = TEXT, entities: Any = (), predictions: Any = (), **options: Any) -> Figure:
    figure = draw_prediction(None, text=text, entities=entities, predictions=predictions, **options)
    FigureCanvasAgg(figure)  # it measures artists without drawing the whole
    return figure


def places(figure: Figure, gid: str) -> list[Bbox]:
    """Where the artists with a name are, in pixels from the lower left corner."""
    return [artist.get_window_extent() for artist in figure.findobj(lambda artist: artist.get_gid() == gid)]


def place(figure: Figure, gid: str) -> Bbox:
    [only] = places(figure, gid)
    return only


def texts(figure: Figure) -> list[Text]:
    return [artist for artist in figure.axes[0].texts if artist.get_text()]


def words(figure: Figure) -> str:
    """All that is written, without white space, from the first to the last."""
    return "".join("".join(text.get_text().split()) for text in texts(figure))


def says(figure: Figure, sentence: str) -> bool:
    return "".join(sentence.split()) in words(figure)


def word(figure: Figure, text: str) -> Bbox:
    """Where the first word of the post with this text is."""
    return next(artist.get_window_extent() for artist in texts(figure) if artist.get_text() == text)


def height(figure: Figure) -> float:
    """In points."""
    return figure.get_size_inches()[1] * 72


def are_apart(boxes: list[Bbox], slack: float = 1.5) -> bool:
    """Whether no two boxes overlap by more than a slack in pixels."""
    x0, y0, x1, y1 = np.array([box.extents for box in boxes]).T[:, :, None]
    wide, high = np.minimum(x1, x1.T) - np.maximum(x0, x0.T), np.minimum(y1, y1.T) - np.maximum(y0, y0.T)
    overlap = (wide > slack) & (high > slack)
    return not np.triu(overlap, 1).any()


def assert_all_is_on_the_canvas(figure: Figure) -> None:
    [axes] = figure.axes
    for artist in [*axes.texts, *axes.patches, *axes.images]:
        extent = artist.get_window_extent()
        assert extent.x0 >= -1, artist
        assert extent.y0 >= -1, artist
        assert extent.x1 <= figure.bbox.width + 1, artist
        assert extent.y1 <= figure.bbox.height + 1, artist


# ---------------------------------------------------------------------------------------------------------------------
# One prediction


def test_a_prediction_is_written_whole_and_says_nothing_about_this_machine(tmp_path: Path):
    path = tmp_path / "new_folder" / "prediction.png"
    figure = draw_prediction(path, text=TEXT, entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.9, 0.2)])
    with Image.open(path) as written:
        written.load()
        assert written.size == (10 * DPI, int(figure.bbox.height))
        assert set(written.info) == {"dpi"}
        assert np.asarray(written.convert("RGB")).std() > 10
    assert [file.name for file in path.parent.iterdir()] == ["prediction.png"]
    for expected in (TEXT, "person", "Ann", "→", "relation 0", "0.90", "They belong."):
        assert says(figure, expected)


def test_a_failed_drawing_leaves_the_older_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "prediction.png"
    path.write_bytes(b"older")

    def break_off(self: Figure, file: Any, **options: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(OSError, match="disk full"):
        draw_prediction(path, text=TEXT, entities=[], predictions=[])
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("module", ["matplotlib", "bidi"])
def test_a_drawing_without_its_libraries_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch):
    names = [name for name in sys.modules if name.split(".")[0] == module]
    for name in {*names, module, "matplotlib.figure", "matplotlib.backends.backend_agg"} if module != "bidi" else names:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'roc\[plots\]'"):
        draw()


def test_matplotlib_is_loaded_by_drawing_alone():
    program = (
        "import sys, roc.inference.drawing, roc.inference.posts, roc.evaluation.plots; "
        "print([name for name in sys.modules if name in ('matplotlib', 'bidi')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip() == "[]"


def test_drawing_opens_no_window_and_leaves_pyplot_alone():
    program = "import sys; from roc.inference.drawing import draw_prediction as draw; "
    program += "draw(None, text='Ann', entities=[], predictions=[]); print('matplotlib.pyplot' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.strip() == "False"


def test_several_threads_draw_the_same(tmp_path: Path):
    def one(number: int) -> None:
        path = tmp_path / f"{number}.png"
        draw_prediction(path, text=TEXT + " שלום", entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.9)])

    threads = [threading.Thread(target=one, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / f"{number}.png").read_bytes() for number in range(4)}) == 1


def test_each_entity_is_marked_in_its_own_color_under_its_name():
    entities = [*ANN_AND_BOB, text_entity(TEXT, "Paris", "location")]
    figure = draw(entities=entities)
    for index, entity in enumerate(entities):
        mark, name = place(figure, f"mark {index}"), word(figure, entity["name"])
        [patch] = figure.findobj(lambda artist: artist.get_gid() == f"mark {index}")  # noqa: B023
        assert to_hex(patch.get_facecolor()) == entity_color(index)
        assert (mark.x0, mark.x1) == pytest.approx((name.x0, name.x1), abs=5)
        assert mark.y1 <= name.y0 + 4
        assert says(figure, entity["type"])
    assert not places(figure, "mark 3")


def test_colors_differ_and_are_readable_on_white():
    assert len(set(ENTITY_COLORS)) == len(ENTITY_COLORS)
    for color in ENTITY_COLORS:
        # Relative luminance and contrast of WCAG 2; 4.5 : 1 is its limit for small text.
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in ImageColor.getrgb(color)]
        luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 4.5


def test_nested_and_overlapping_entities_get_bars_of_their_own():
    names = ["Paris , France", "Paris", "France", "Bob in Paris"]
    figure = draw(entities=[text_entity(TEXT, name, None) for name in names])
    bars = [place(figure, f"mark {index}") for index in range(4)]
    assert bars[0].x0 == bars[1].x0
    assert bars[0].x1 == pytest.approx(bars[2].x1, abs=1)
    assert bars[3].x0 < bars[1].x0
    assert bars[3].x1 == pytest.approx(bars[1].x1, abs=1)
    # Bars that share a stretch of the line lie at different heights.
    for one, other in [(0, 1), (0, 2), (0, 3), (1, 3)]:
        assert bars[one].y0 > bars[other].y1 or bars[other].y0 > bars[one].y1
    tints = places(figure, "tint")
    assert [tint.width for tint in tints] == sorted((tint.width for tint in tints), reverse=True), "inner ones on top"


def test_close_type_tags_do_not_run_into_each_other():
    figure = draw("A B", [text_entity("A B", "A", "organization"), text_entity("A B", "B", "organization")])
    first, second = (text.get_window_extent() for text in texts(figure) if text.get_text() == "organization")
    assert are_apart([first, second], slack=0)


BOX = {"text": "A", "entities": [object_entity([0.25, 0.5, 0.75, 1.0])]}


@pytest.mark.parametrize("size", [(400, 300), (30, 900), (1200, 40), (3, 3)])
def test_the_picture_keeps_its_aspect_and_its_box_lies_at_the_right_place(size: tuple[int, int]):
    figure = draw(**BOX, image=Image.new("RGB", size, GRAY))
    picture, box = place(figure, "picture"), place(figure, "box 0")
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.01)
    assert box.x0 == pytest.approx(picture.x0 + 0.25 * picture.width, abs=3)
    assert box.x1 == pytest.approx(picture.x0 + 0.75 * picture.width, abs=3)
    assert box.y1 == pytest.approx(picture.y0 + 0.5 * picture.height, abs=3)
    assert box.y0 == pytest.approx(picture.y0, abs=3)
    assert_all_is_on_the_canvas(figure)


def test_the_picture_is_upright(tmp_path: Path):
    image = Image.new("RGB", (40, 40), GRAY)
    image.paste((255, 0, 0), (0, 0, 40, 20))
    figure = draw("", image=image)
    figure.savefig(tmp_path / "a.png")
    extent = place(figure, "picture")
    with Image.open(tmp_path / "a.png") as written:
        top, middle = written.height - extent.y1, (extent.x0 + extent.x1) / 2
        assert written.convert("RGB").getpixel((middle, top + 10)) == (255, 0, 0)
        assert written.convert("RGB").getpixel((middle, top + extent.height - 10)) == GRAY


@pytest.mark.parametrize("box", [[-0.5, 0.2, 1.5, 0.8], [0.9, 0.9, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0]])
def test_a_box_that_is_not_in_the_picture_is_refused(box: list[float]):
    with pytest.raises(ValueError, match=r"Entity 0 \('\[OBJ0\]'\): bbox .* is not a box in the picture"):
        draw("", [object_entity(box)], image=Image.new("RGB", (100, 100), GRAY))


def test_labels_of_boxes_at_one_place_do_not_cover_each_other():
    entities = [object_entity([0.5, y, 0.9, 0.9], f"object {y}") for y in (0.0, 0.0, 0.02, 0.5, 0.52)]
    figure = draw("", entities, image=Image.new("RGB", (100, 100), GRAY))
    labels = [place(figure, f"label {index}") for index in range(5)]
    assert are_apart(labels)
    assert_all_is_on_the_canvas(figure)


def bars(figure: Figure) -> list[Bbox]:
    return places(figure, "best bar") + places(figure, "bar")


def test_bars_are_as_long_as_their_scores():
    scores = (1.0, 0.5, 0.0, -0.3, 7.0, math.nan)
    lengths = [bars(draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, score)]))[0].width for score in scores]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 0.5, 0, 0, 1, 0], abs=0.001)


def test_the_best_relation_is_the_upper_dark_one_and_is_described():
    figure = draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.9, 0.8)])
    best, other = (figure.findobj(lambda artist: artist.get_gid() == gid)[0] for gid in ("best bar", "bar"))  # noqa: B023
    assert best.get_window_extent().y0 > other.get_window_extent().y1
    assert sum(best.get_facecolor()[:3]) < sum(other.get_facecolor()[:3])
    assert words(figure).count("Theybelong.") == 1


def test_more_pairs_than_the_limit_are_counted_instead_of_drawn():
    figures = [draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.5)] * count) for count in (MAX_PAIRS, 12, 500)]
    assert [len(bars(figure)) for figure in figures] == [MAX_PAIRS] * 3
    assert "more" not in words(figures[0])
    assert says(figures[1], f"and {12 - MAX_PAIRS} more pairs")
    assert says(figures[2], f"and {500 - MAX_PAIRS} more pairs")


def test_more_relations_than_the_limit_are_counted_instead_of_drawn():
    figure = draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, *[0.1] * (MAX_RELATIONS + 1))])
    assert len(bars(figure)) == MAX_RELATIONS
    assert says(figure, "and 1 more relation")


def test_a_pair_without_a_relation_says_so_and_no_bar_stands_out():
    decided, undecided = ({**pair(0, 1, 0.9, 0.1), "relation": relation} for relation in ("relation 0", None))
    for prediction, is_decided in ((decided, True), (undecided, False), (pair(0, 1), False)):
        figure = draw(entities=ANN_AND_BOB, predictions=[prediction])
        assert says(figure, "no relation") is not is_decided
        assert bool(places(figure, "best bar")) is is_decided


# --- hard texts ------------------------------------------------------------------------------------------------------

LONG = {
    "English": "Ann met Bob near the harbour, and told him a story of the sea. ",
    "Hebrew": "אנגלה מרקל נפגשה עם Emmanuel Macron בפריז ב-2019, ואמרה (בקול) שלום! ",
    "Arabic": "التقت أنغيلا ميركل الرئيس Emmanuel Macron في باريس عام 2019 (فرنسا). ",
    "Chinese": "安在巴黎遇见了鲍勃, 并给他讲了一个关于大海的故事。",
    "one word": "harbour",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_nothing_overlaps_and_nothing_runs_off_the_page(text: str):
    text = text * 40
    ends = [0, 3, 9, 30, 31, 80, 270]
    spans = [{"start": start, "end": end, "bbox": None} for start, end in itertools.pairwise(ends)]
    boxes = [{"bbox": [0.1, 0.1, 0.5, 0.5]}] * 3
    entities = [{"name": text[:270], "type": "organization", **own} for own in [*spans, *boxes]]
    relations = [{"relation": text, "score": 0.5, "description": text}] * 4
    predictions = [{"head": head, "tail": head + 1, "relations": relations} for head in range(5)] * 2
    figure = draw(text, entities, predictions, image=Image.new("RGB", (90, 60), GRAY))
    assert_all_is_on_the_canvas(figure)
    extents, cards = [artist.get_window_extent() for artist in texts(figure)], places(figure, "card")
    assert are_apart(extents, slack=6)
    assert are_apart(cards, slack=0)
    for extent in extents:
        card = next((card for card in cards if card.contains(extent.x0, (extent.y0 + extent.y1) / 2)), None)
        assert card is None or (extent.x1 <= card.x1 and extent.y0 >= card.y0 and extent.y1 <= card.y1)


HARD_TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "newlines": "\n\nAnn\n\nBob\n",
    "one long word": "Ann" + "x" * 3000,
    "a book": "Ann met Bob. " * 20_000,
    "mathematics": "$x^2$ and \\alpha of $5 % {",
    "emoji with joiners": "Ann 👩‍👩‍👧‍👦 Bob ❤️ 🇫🇷",
    "Hebrew and Arabic": "שלום Ann مرحبا بالعالم 123 Bob עולם",
    "Chinese": "安 Ann 和 Bob 在巴黎",
    "control characters": "Ann\x00\x07\u200b\u202e Bob \ufeff שלום \u202e\u2069",
    "half of a surrogate pair": "Ann \ud83d Bob שלום",
}


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_hard_texts_survive(text: str, tmp_path: Path, recwarn: pytest.WarningsRecorder):
    entities, relations = [object_entity([0, 0, 1, 1], text)], [{"relation": text, "score": 0.5, "description": text}]
    if text.strip():
        entities += [{"name": text, "start": 0, "end": len(text), "type": text, "bbox": None}] * 2
    figure = draw_prediction(
        tmp_path / "hard.png",
        text=text,
        entities=entities,
        predictions=[{"head": 1, "tail": 0, "relations": relations}][: len(entities) - 1],
        image=Image.new("RGB", (20, 10)),
    )
    assert height(figure) < 2500
    assert_all_is_on_the_canvas(figure)
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]


def test_many_nested_entities_still_fit_what_can_be_drawn(tmp_path: Path):
    text = "Ann met Bob. " * 200
    entities = [{"name": "A", "start": 0, "end": len(text) - n, "type": None, "bbox": None} for n in range(20)]
    draw_prediction(tmp_path / "nested.png", text=text, entities=entities, predictions=[])
    assert (tmp_path / "nested.png").is_file()


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_any_size_and_mode_survive(size: tuple[int, int], mode: str):
    entities = [object_entity([0.0, 0.0, 0.1, 0.1]), object_entity([0.9, 0.9, 1, 1])]
    figure = draw(entities=entities, predictions=[pair(0, 1, 0.5)], image=Image.new(mode, size))
    assert height(figure) < 1000


@pytest.mark.parametrize("text", ["Ann 𐎀𐎁 Bob", "Ann 𐎀\u0301 Bob"])
def test_a_script_that_no_font_has_is_named_and_never_drawn_as_empty_boxes(
    text: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(drawing, "_families", lambda: ["DejaVu Sans"])
    with caplog.at_level(logging.WARNING):
        figure = draw(text, [text_entity(text, "Bob")])
    assert "𐎀" not in words(figure)
    assert MISSING in words(figure)
    assert says(figure, "No font here for: Ugaritic")
    assert "No font here for: Ugaritic" in caplog.text
    figure.savefig(io.BytesIO(), format="png")
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]


def test_what_dejavu_lacks_is_looked_for_in_other_fonts_until_one_has_it(monkeypatch: pytest.MonkeyPatch):
    has = {"Latin": set("Ann "), "Thai Font": {"ก"}, "Other": {"x"}, "Symbols": {"🦊", "ก"}, "Never asked": set()}
    monkeypatch.setattr(drawing, "_families", lambda: list(has)[:4])
    monkeypatch.setattr("matplotlib.font_manager.findfont", lambda font: font.get_family()[0])
    face = SimpleNamespace
    monkeypatch.setattr(
        "matplotlib.font_manager.get_font", lambda name: face(get_char_index=lambda code: chr(code) in has[name])
    )
    fonts, table, note = drawing._find_fonts(set("Ann ก 🦊 🇫"))
    assert next(iter(fonts.values())).get_family() == ["Latin", "Thai Font", "Symbols"]
    assert "Ann ก 🦊 🇫".translate(table) == f"Ann ก 🦊 {MISSING}"
    assert note.startswith("No font here for: some emoji or symbols")


def test_fonts_that_show_any_character_as_a_box_or_as_nothing_are_not_used():
    first, *others = drawing._families()
    assert first == "DejaVu Sans"
    assert not [name for name in others if "Last Resort" in name or "Color" in name]


def in_order(text: str) -> str:
    """The words of a text of one line from left to right, as they are drawn."""
    extents = [(artist.get_window_extent(), artist.get_text()) for artist in texts(draw(text))]
    line, right = "", None
    for extent, shown in sorted(extents, key=lambda own: own[0].x0):
        line += (" " if right is not None and extent.x0 > right + 4 else "") + shown
        right = extent.x1
    return line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c", "a b c"),
        ("אב גד הו", "הו גד אב"),
        ("a אב גד b", "a גד אב b"),
        ("a אב גד, b", "a גד אב, b"),
        ("אב 12 גד", "גד 12 אב"),
        ("אב New York גד.", ".גד New York אב"),
        ("(אב) U.S. גד", "גד .U.S (אב)"),
    ],
)
def test_words_of_both_directions_are_in_the_order_of_the_unicode_algorithm(text: str, expected: str):
    assert in_order(text) == expected


def test_right_to_left_words_are_marked_where_they_are_drawn_at_the_right_end():
    text = "אב גד"  # drawn from right to left: the first word is the right one
    figure = draw(text, [text_entity(text, "אב", None), text_entity(text, "גד", None)])
    assert place(figure, "mark 0").x0 > place(figure, "mark 1").x1
    card = place(figure, "card")
    assert place(figure, "mark 0").x1 > card.x1 - 0.05 * card.width


WRAPPED = [TEXT * 9, "x" * 300, "a\n\nb c", "", "  spaces  inside  ", "安在巴黎遇见了 Bob 鲍勃。", "e\u0301" * 200]


@pytest.mark.parametrize("text", WRAPPED)
def test_wrapping_loses_no_character_but_spaces_and_tears_no_accent_off(text: str):
    shown = [artist.get_text() for artist in texts(draw(text))]
    drawn = "".join(shown).partition("Nofont")[0]
    assert all(own in (expected, MISSING) for own, expected in zip(drawn, "".join(text.split()), strict=True))
    assert not [own for own in shown if own.startswith("\u0301")]


@pytest.mark.parametrize(("start", "end"), [(0, 1000), (-1, 3), (5, 2), (2, 2)])
def test_a_span_outside_the_text_is_refused(start: int, end: int):
    entity = {"name": "Ann", "start": start, "end": end, "type": "person", "bbox": None}
    with pytest.raises(ValueError, match=r"Entity 0 \('Ann'\): the span .* character offsets"):
        draw(entities=[entity])


@pytest.mark.parametrize("index", [-1, 1])
def test_a_pair_of_an_entity_that_is_not_there_is_refused(index: int):
    with pytest.raises(ValueError, match="The drawing"):
        draw(entities=[text_entity(TEXT, "Ann")], predictions=[pair(0, index)])


def test_a_drawing_that_is_not_png_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        draw_prediction(tmp_path / "plot.jpg", text=TEXT, entities=[], predictions=[])


# --- explanations ------------------------------------------------------------------------------------------------


def draw_explained(patches: list[list[float]] | None, **relevances: float) -> Figure:
    """Ann and Bob, with the relevance of words of `TEXT`."""
    tokens = [
        {"start": TEXT.index(word), "end": TEXT.index(word) + len(word), "relevance": value}
        for word, value in relevances.items()
    ]
    explanation = {"relation": "sibling", "description": "", "score": 0.8, "tokens": tokens, "patches": patches}
    image = None if patches is None else Image.new("RGB", (300, 300), GRAY)
    return draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.9)], image=image, explanation=explanation)


def tint(figure: Figure) -> Any:
    [patch] = figure.findobj(lambda artist: artist.get_gid() == "tint")
    return patch


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


def test_a_word_is_coloured_where_it_stands():
    figure = draw_explained(None, brother=1.0)
    drawn, coloured = word(figure, "brother"), tint(figure).get_window_extent()
    assert (coloured.x0, coloured.x1) == pytest.approx((drawn.x0, drawn.x1), abs=5)


def test_what_hardly_mattered_is_hardly_coloured():
    """One scale for text and picture: a text that adds nothing has no bright words."""
    strong, faint = (tint(draw_explained([[1.0]], brother=relevance)) for relevance in (1.0, 0.01))
    assert strong.get_facecolor()[3] > 0.5
    assert faint.get_facecolor()[3] < 0.02


def test_words_towards_a_relation_are_red_and_words_against_it_blue():
    assert tint(draw_explained(None, brother=1.0)).get_facecolor()[:3] == to_rgba(TOWARDS)[:3]
    assert tint(draw_explained(None, brother=-1.0)).get_facecolor()[:3] == to_rgba(AWAY)[:3]


def test_the_patches_are_drawn_on_the_picture(tmp_path: Path):
    figure = draw_explained([[1.0, 0.0], [0.0, -1.0]])
    figure.savefig(tmp_path / "a.png", format="png")
    extent = place(figure, "picture")
    with Image.open(tmp_path / "a.png") as written:
        top = written.height - extent.y1
        part = redness(written.convert("RGB").crop((extent.x0, top, extent.x1, top + extent.height)))
    middle = len(part) // 2
    assert part[: middle - 9, : middle - 9].min() > 60
    assert part[middle + 9 : -9, middle + 9 : -9].max() < -60
    assert abs(part[9 : middle - 9, middle + 9 : -9]).max() == 0


def test_an_explanation_says_what_text_and_picture_add():
    figure = draw_explained([[0.2, 0.1]], brother=0.1)
    assert says(figure, "Red: towards sibling.")
    assert says(figure, "Score 0.80: text +0.10, picture +0.30")
    assert says(draw_explained(None, brother=-0.1), "Score 0.80: text -0.10")
    assert "picture" not in words(draw_explained(None, brother=-0.1))
