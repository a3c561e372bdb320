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
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from roc.inference import text_layout
from roc.inference.drawing import ENTITY_COLORS, MAX_PAIRS, MAX_RELATIONS, draw_prediction, entity_color
from roc.inference.heat_map import AWAY, TOWARDS, with_heat
from roc.inference.text_layout import DPI, MISSING, Typesetter

pytest.importorskip("matplotlib")
pytest.importorskip("bidi")

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
    return draw_prediction(None, text=text, entities=entities, predictions=predictions, **options)


def places(figure: Figure, gid: str) -> list[Bbox]:
    """Where the artists with a name are, in pixels from the lower left corner."""
    return [artist.get_window_extent() for artist in figure.findobj(lambda artist: artist.get_gid() == gid)]


def place(figure: Figure, gid: str) -> Bbox:
    [only] = places(figure, gid)
    return only


def texts(figure: Figure) -> list[Text]:
    return [artist for artist in figure.findobj(Text) if artist.get_text()]


def words(figure: Figure) -> str:
    """All that is written, from the first to the last."""
    return "\n".join(text.get_text() for text in texts(figure))


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
    for artist in figure.findobj(lambda artist: artist is not figure):
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
        assert written.size == (1080 * DPI // 72, int(figure.bbox.height))
        assert set(written.info) == {"dpi"}
        assert np.asarray(written.convert("RGB")).std() > 10
    assert [file.name for file in path.parent.iterdir()] == ["prediction.png"]
    for expected in (TEXT, "person", "Ann", "→", "relation 0", "0.90", "They belong."):
        assert expected in words(figure)


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
    figure = draw(entities=[*ANN_AND_BOB, text_entity(TEXT, "Paris", "location")])
    marks = [place(figure, f"mark {index}") for index in range(3)]
    assert marks[0].x1 < marks[1].x0 < marks[1].x1 < marks[2].x0
    assert not places(figure, "mark 3")
    line = next(text.get_window_extent() for text in texts(figure) if text.get_text() == TEXT)
    share = (marks[1].x0 - line.x0) / line.width
    assert share == pytest.approx(TEXT.index("Bob") / len(TEXT), abs=0.05)
    for index, mark in enumerate(marks):
        [patch] = figure.findobj(lambda artist: artist.get_gid() == f"mark {index}")  # noqa: B023
        assert to_hex(patch.get_facecolor()) == entity_color(index)
        assert mark.y1 <= line.y0 + 4


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
    assert [tint.width for tint in tints] == sorted((tint.width for tint in tints), reverse=True)


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
    figure = draw_prediction(tmp_path / "a.png", text="", entities=[], predictions=[], image=image)
    extent = place(figure, "picture")
    with Image.open(tmp_path / "a.png") as written:
        top, middle = written.height - extent.y1, (extent.x0 + extent.x1) / 2
        assert written.convert("RGB").getpixel((middle, top + 10)) == (255, 0, 0)
        assert written.convert("RGB").getpixel((middle, top + extent.height - 10)) == GRAY


def test_a_box_that_leaves_the_picture_is_cut_off():
    image = Image.new("RGB", (100, 100), GRAY)
    figure = draw("", [object_entity([-0.5, 0.2, 1.5, 0.8])], image=image)
    picture, box = place(figure, "picture"), place(figure, "box 0")
    assert (box.x0, box.x1) == pytest.approx((picture.x0, picture.x1), abs=3)


def test_labels_of_boxes_at_one_place_do_not_cover_each_other():
    entities = [object_entity([0.5, y, 0.9, 0.9], f"object {y}") for y in (0.0, 0.0, 0.02, 0.5, 0.52)]
    figure = draw("", entities, image=Image.new("RGB", (100, 100), GRAY))
    labels = [place(figure, f"label {index}") for index in range(5)]
    assert are_apart(labels)
    assert_all_is_on_the_canvas(figure)


def test_bars_are_as_long_as_their_scores():
    lengths = {}
    for score in (1.0, 0.5, 0.0, -0.3, 7.0, math.nan):
        figure = draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, score)])
        bars = places(figure, "best bar")
        lengths[score] = bars[0].width / place(figure, "track").width if bars else 0.0
    expected = {1.0: 1, 0.5: 0.5, 0.0: 0, -0.3: 0, 7.0: 1, math.nan: 0}
    assert list(lengths.values()) == pytest.approx(list(expected.values()), abs=0.001)


def test_the_best_relation_is_the_dark_one():
    figure = draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.9, 0.8)])
    assert place(figure, "best bar").y0 > place(figure, "bar").y1


def test_more_pairs_than_the_limit_are_counted_instead_of_drawn():
    figures = [draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, 0.5)] * count) for count in (MAX_PAIRS, 12, 500)]
    assert [len(places(figure, "track")) for figure in figures] == [MAX_PAIRS] * 3
    assert "more" not in words(figures[0])
    assert f"and {12 - MAX_PAIRS} more pairs" in words(figures[1])
    assert f"and {500 - MAX_PAIRS} more pairs" in words(figures[2])


def test_more_relations_than_the_limit_are_counted_instead_of_drawn():
    figure = draw(entities=ANN_AND_BOB, predictions=[pair(0, 1, *[0.1] * (MAX_RELATIONS + 1))])
    assert len(places(figure, "track")) == MAX_RELATIONS
    assert "and 1 more relation" in words(figure)


def test_a_pair_without_relations_is_drawn_as_such():
    figure = draw(entities=ANN_AND_BOB, predictions=[pair(0, 1)])
    assert "no relation" in words(figure)
    assert not places(figure, "track")


def test_a_pair_without_a_relation_says_so_and_no_bar_stands_out():
    decided, undecided = ({**pair(0, 1, 0.9, 0.1), "relation": relation} for relation in ("relation 0", None))
    with_one, without = (draw(entities=ANN_AND_BOB, predictions=[prediction]) for prediction in (decided, undecided))
    assert "no relation" not in words(with_one)
    assert "no relation" in words(without)
    assert places(with_one, "best bar")
    assert not places(without, "best bar")


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
    entities = [
        {"name": text[start:end], "start": start, "end": end, "type": "organization", "bbox": [0.1, 0.1, 0.5, 0.5]}
        for start, end in itertools.pairwise(ends)
    ]
    relations = [{"relation": text, "score": 0.5, "description": text}] * 4
    predictions = [{"head": head, "tail": head + 1, "relations": relations} for head in range(5)] * 2
    figure = draw(text, entities, predictions, image=Image.new("RGB", (90, 60), GRAY))
    assert_all_is_on_the_canvas(figure)
    extents, cards = [artist.get_window_extent() for artist in texts(figure)], places(figure, "card")
    assert are_apart(extents, slack=4)
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
    "stacked accents": "A" + "\u0301" * 300,
}


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_hard_texts_survive(text: str, tmp_path: Path):
    whole = {"name": text, "start": 0, "end": len(text), "type": text, "bbox": [0, 0, 1, 1]}
    figure = draw_prediction(
        tmp_path / "hard.png",
        text=text,
        entities=[whole, whole],
        predictions=[{"head": 0, "tail": 1, "relations": [{"relation": text, "score": 0.5, "description": text}]}],
        image=Image.new("RGB", (20, 10)),
    )
    assert height(figure) < 4000
    assert_all_is_on_the_canvas(figure)


def test_many_nested_entities_still_fit_what_can_be_drawn(tmp_path: Path):
    text = "Ann met Bob. " * 200
    entities = [{"name": "A", "start": 0, "end": len(text) - n, "type": None, "bbox": None} for n in range(60)]
    draw_prediction(tmp_path / "nested.png", text=text, entities=entities, predictions=[])
    assert (tmp_path / "nested.png").is_file()


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_any_size_and_mode_survive(size: tuple[int, int], mode: str):
    entities = [object_entity([0.0, 0.0, 0.0, 0.0]), object_entity([0.9, 0.9, 0.1, 0.1], name="turned round")]
    figure = draw(entities=entities, predictions=[pair(0, 1, 0.5)], image=Image.new(mode, size))
    assert height(figure) < 1000


@pytest.mark.parametrize("text", ["Ann 𐎀𐎁 Bob", "Ann 𐎀\u0301 Bob"])
def test_a_script_that_no_font_has_is_named_and_never_drawn_as_empty_boxes(
    text: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(text_layout, "_installed_families", list)
    with caplog.at_level(logging.WARNING):
        figure = draw(text, [text_entity(text, "Bob")])
    shown = words(figure)
    assert "𐎀" not in shown
    assert MISSING in shown
    assert "No font here for: Ugaritic" in shown
    assert "No font here for: Ugaritic" in caplog.text
    figure.savefig(io.BytesIO(), format="png")
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]


def test_what_dejavu_lacks_is_drawn_in_an_installed_font_that_has_it(monkeypatch: pytest.MonkeyPatch):
    has = {"Thai Font": {"ก"}, "Symbols": {"🦊", "ก"}, "Other": {"x"}}
    monkeypatch.setattr(text_layout, "_installed_families", lambda: list(has))
    monkeypatch.setattr(text_layout, "_covered", lambda family, c: c & has.get(family, set("Ann ")))
    type = Typesetter()
    assert type.shown("Ann ก 🦊 🇫") == f"Ann ก 🦊 {MISSING}"
    assert type.font(12).get_family() == ["DejaVu Sans", "Thai Font", "Symbols"]
    assert type.missing_note().startswith("No font here for: some emoji or symbols")


def test_fonts_that_show_any_character_as_a_box_or_as_nothing_are_not_used():
    assert not [name for name in text_layout._installed_families() if "Last Resort" in name or "Color" in name]


def test_right_to_left_words_are_marked_where_they_are_drawn():
    text = "אב גד"  # drawn from right to left: the first word is the right one
    figure = draw(text, [text_entity(text, "אב", None), text_entity(text, "גד", None)])
    assert place(figure, "mark 0").x0 > place(figure, "mark 1").x1
    card = place(figure, "card")
    assert place(figure, "mark 0").x1 > card.x1 - 0.05 * card.width, "a right-to-left text begins at the right"


def in_order(text: str) -> str:
    """The words of a line from left to right, as they are drawn."""
    pieces = Typesetter().place(text, (0, len(text)), 16, 1000)
    drawn, right = "", None
    for piece in pieces:
        assert right is None or piece.left >= right - 0.01
        drawn += " " * (right is not None and piece.left > right + 1) + text[piece.start : piece.end]
        right = piece.right
    return drawn


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


def test_a_part_of_a_right_to_left_word_is_at_its_right_end():
    text, type = "שלוםעולם", Typesetter()
    pieces = type.place(text, (0, len(text)), 16, 1000)
    first, last = (type.extent(text, pieces, {"start": a, "end": b}, 16) for a, b in ((0, 3), (5, 8)))
    assert first is not None
    assert last is not None
    assert last[1] <= first[0]
    assert first[1] == pytest.approx(1000)


@pytest.mark.parametrize("width", [1, 60, 200, 1000])
@pytest.mark.parametrize("text", [TEXT, "x" * 300, "a\n\nb c", "", "  spaces  inside  ", "安在巴黎遇见了 Bob 鲍勃。"])
def test_wrapping_loses_no_character_but_spaces(text: str, width: int):
    type = Typesetter()
    lines = type.wrap(text, 16, width)
    drawn = [index for start, end in lines for index in range(start, end)]
    assert drawn == sorted(set(drawn))
    assert all(text[index].isspace() for index in set(range(len(text))) - set(drawn))
    assert all(type.width(text[start:end], 16) <= width + 1 or end - start <= 2 for start, end in lines)


def test_an_accent_is_never_torn_from_its_letter():
    text, type = "e\u0301" * 100, Typesetter()
    lines = type.wrap(text, 16, 55)
    assert len(lines) > 5
    assert all(text[start] == "e" for start, _ in lines)


@pytest.mark.parametrize(("start", "end"), [(0, 1000), (-1, 3), (5, 2)])
def test_a_span_outside_the_text_is_refused(start: int, end: int):
    entity = {"name": "Ann", "start": start, "end": end, "type": "person", "bbox": None}
    with pytest.raises(ValueError, match=r"Entity 0 \('Ann'\) spans characters .* character offsets"):
        draw(entities=[entity])


@pytest.mark.parametrize("index", [-1, 1])
def test_a_pair_of_an_entity_that_is_not_there_is_refused(index: int):
    with pytest.raises(ValueError, match=f"Pair 0 has the tail {index}, but there are 1 entities"):
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
    line = next(text.get_window_extent() for text in texts(figure) if text.get_text() == TEXT)
    share = (tint(figure).get_window_extent().x0 - line.x0) / line.width
    assert share == pytest.approx(TEXT.index("brother") / len(TEXT), abs=0.05)


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
    assert "towards sibling" in words(figure)
    assert "score 0.80; text +0.10, picture +0.30" in words(figure)
    assert words(draw_explained(None, brother=-0.1)).count("text -0.10\n") == 1
